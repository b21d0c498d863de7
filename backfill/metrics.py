"""The Prometheus objects of a watcher, made from `consumer.metric_catalogue.BACKFILL_CATALOGUE`."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from backfill.plan import Day
from consumer.metric_catalogue import BACKFILL_CATALOGUE
from consumer.metrics import arguments, start_series
from consumer.rollup.rebuild import Rebuilt


class WatchMetrics:
    """Counts what becomes of days (it is a `backfill.work.Progress`), and what every look finds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        rows = {row.name: row for row in BACKFILL_CATALOGUE}

        def counter(name: str) -> Counter:
            made = Counter(**arguments(rows[name], registry))
            start_series(made, rows[name])
            return made

        def gauge(name: str) -> Gauge:
            return Gauge(**arguments(rows[name], registry))

        self.days = counter("backfill_days_total")
        self.days_closed = counter("backfill_days_closed_total")
        self.raw_events = counter("backfill_raw_events_total")
        self.rows_changed = counter("backfill_rows_changed_total")
        self.drift_rows = counter("backfill_drift_rows_total")
        self.bitmap_rows_pruned = counter("backfill_bitmap_rows_pruned_total")
        self.dead_letters_pruned = counter("backfill_dead_letters_pruned_total")
        self.dead_letters_waiting = gauge("backfill_dead_letters_waiting")
        self.stale_days = gauge("backfill_stale_days")
        self.oldest_stale_seconds = gauge("backfill_oldest_stale_seconds")
        self.last_look_timestamp_seconds = gauge("backfill_last_look_timestamp_seconds")
        ProcessCollector(registry=registry)

    def rebuilt(self, result: Rebuilt) -> None:
        """A day was rebuilt, or left as it is."""
        self.days.labels(result.result).inc()
        self.raw_events.inc(result.events + result.invalid)
        self.rows_changed.inc(result.changed)
        self.drift_rows.inc(result.drift)
        self.days_closed.inc(result.closing)

    def failed(self, day: Day, problem: str) -> None:  # noqa: ARG002 - ids and texts are for the log
        """A day could not be rebuilt."""
        self.days.labels("failed").inc()

    def looked(self, stale_days: int, oldest_stale_seconds: float, letters: int) -> None:
        """A look ended well, and left so many stale days and letters that wait."""
        self.stale_days.set(stale_days)
        self.oldest_stale_seconds.set(oldest_stale_seconds)
        self.dead_letters_waiting.set(letters)
        self.last_look_timestamp_seconds.set(time.time())
