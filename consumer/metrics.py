"""The Prometheus objects made from `consumer.metric_catalogue`, and the page of docs about them.

After a change of the catalogue: `python -m consumer.metrics > docs/metrics.md`.
"""

import platform
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import confluent_kafka
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from consumer.metric_catalogue import (
    BACKFILL_CATALOGUE,
    CATALOGUE,
    ERROR_CLASSES,
    OTHER,
    OUTCOMES,
    PREFIX,
    SKIP_REASONS,
    SQLSTATES,
    STAGES,
    THREAD_OF,
    Row,
)
from consumer.rollup.registry import REGISTRY

# A `_created` series beside each counter and bucket would double the scrape, and nothing reads it.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


def _build() -> dict[str, str]:
    try:
        version = metadata.version("reporting-rollup")
    except metadata.PackageNotFoundError:  # run from a checkout
        version = "unknown"
    librdkafka, _ = confluent_kafka.libversion()
    return {
        "version": version,
        "python": platform.python_version(),
        "librdkafka": librdkafka,
        "tzdata": metadata.version("tzdata"),
    }


class Metrics:
    """The Prometheus objects of the catalogue, each an attribute without `_total`. Thread-safe.

    Everything starts at 0: a rate over a series that appears with its first event would miss that event.

    Args:
        registry: where they are registered; a registry takes one `Metrics`.
        topics: the configured topics.
    """

    def __init__(self, registry: CollectorRegistry, topics: Iterable[str] = ()) -> None:
        self.registry = registry
        rows = {row.name: row for row in CATALOGUE}

        def counter(name: str) -> Counter:
            made = Counter(**arguments(rows[name], registry))
            start_series(made, rows[name])
            return made

        def gauge(name: str) -> Gauge:
            return Gauge(**arguments(rows[name], registry))

        def histogram(name: str) -> Histogram:
            return Histogram(**arguments(rows[name], registry), buckets=rows[name].buckets)

        self.messages_consumed = counter("messages_consumed_total")
        self.events = counter("events_total")
        self.events_skipped = counter("events_skipped_total")
        self.dead_letters = counter("dead_letters_total")
        self.batch_events = histogram("batch_events")
        self.batch_duration_seconds = histogram("batch_duration_seconds")
        self.stage_seconds = counter("stage_seconds_total")
        self.pending_events = gauge("pending_events")
        self.rows_upserted = counter("rows_upserted_total")
        self.transactions = counter("transactions_total")
        self.db_retries = counter("db_retries_total")
        self.db_up = gauge("db_up")
        self.consumer_lag_messages = gauge("consumer_lag_messages")
        self.consumer_lag_seconds = gauge("consumer_lag_seconds")
        self.freshness_seconds = histogram("freshness_seconds")
        self.broker_freshness_seconds = histogram("broker_freshness_seconds")
        self.assigned_partitions = gauge("assigned_partitions")
        self.rebalances = counter("rebalances_total")
        self.offset_conflicts = counter("offset_conflicts_total")
        self.offset_gaps = counter("offset_gaps_total")
        self.settings_reloads = counter("settings_reloads_total")
        self.stale_days = gauge("stale_days")
        self.last_commit_timestamp_seconds = gauge("last_commit_timestamp_seconds")
        self.paused_seconds = counter("paused_seconds_total")
        self.build_info = gauge("build_info")
        self.registry_info = gauge("registry_info")

        for topic in topics:
            self.messages_consumed.labels(topic)
        for thread, stages in STAGES.items():
            for stage in stages:
                self.stage_seconds.labels(thread, stage)
        self.build_info.labels(**_build()).set(1)
        self.registry_info.labels(REGISTRY.fingerprint).set(1)
        ProcessCollector(registry=registry)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Add time to a stage of `STAGES`; another word is a `KeyError`, since stages are ours to name."""
        self.stage_seconds.labels(THREAD_OF[stage], stage).inc(seconds)

    def observe_outcomes(self, outcomes: Mapping[str, int]) -> None:
        """Add a transaction's messages by outcome (`OUTCOMES`)."""
        for outcome, count in outcomes.items():
            if outcome not in OUTCOMES:
                raise KeyError(outcome)
            self.events.labels(outcome).inc(count)

    def observe_skipped(self, reason: str, count: int) -> None:
        """Add skipped messages; a handler's own reason is counted as `other`."""
        self.events_skipped.labels(_bounded(reason, SKIP_REASONS)).inc(count)

    def observe_dead_letter(self, error_class: str, count: int = 1) -> None:
        """Add dead letters of one error class."""
        self.dead_letters.labels(_bounded(error_class, ERROR_CLASSES)).inc(count)

    def observe_retry(self, sqlstate: str | None) -> None:
        """Add a transaction that is tried again; None when PostgreSQL gave no answer at all."""
        self.db_retries.labels(_bounded("none" if sqlstate is None else sqlstate, tuple(SQLSTATES))).inc()

    def add_partitions(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Start the series of (topic, partition) pairs that were assigned; lag starts when it is known, since a 0
        would claim that there is none."""
        for topic, partition in partitions:
            self.last_commit_timestamp_seconds.labels(topic, str(partition)).set(0)

    def remove_partitions(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Drop the series of partitions given away: another process tells the truth about them now."""
        for topic, partition in partitions:
            labels = (topic, str(partition))
            self.consumer_lag_messages.remove(*labels)
            self.consumer_lag_seconds.remove(*labels)
            self.last_commit_timestamp_seconds.remove(*labels)


def arguments(row: Row, registry: CollectorRegistry) -> dict[str, Any]:
    """What the constructors of prometheus_client take."""
    names = [label.name for label in row.labels]
    return {"name": PREFIX + row.name, "documentation": row.meaning, "labelnames": names, "registry": registry}


def start_series(counter: Counter, row: Row) -> None:
    """Start every series of a counter at 0."""
    if len(row.labels) == 1:
        for value in row.labels[0].values:
            counter.labels(value)


def _bounded(value: str, known: tuple[str, ...]) -> str:
    return value if value in known else OTHER


def markdown() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "<!-- Written by `python -m consumer.metrics > docs/metrics.md`; change consumer/metric_catalogue.py. -->",
        "",
        f"Scraped from `/metrics` on `METRICS_PORT`. Every name begins with `{PREFIX}`. Label values are bounded by",
        "configuration and partitions; counters start at 0, and the series of a partition end with its ownership.",
        "",
        "| Metric | Kind | Unit | Labels | What it tells |",
        "|---|---|---|---|---|",
    ]
    lines += map(_line, CATALOGUE)
    lines += [
        "",
        "Histogram buckets, upper bounds:",
        "",
        *(f"- `{row.name}`: {', '.join(f'{bound:g}' for bound in row.buckets)}" for row in CATALOGUE if row.buckets),
        "",
        "Stages by thread:",
        "",
        *(f"- {thread}: {', '.join(stages)}" for thread, stages in STAGES.items()),
        "",
        "Of `python -m backfill --stale --watch`, scraped from its own `METRICS_PORT`:",
        "",
        "| Metric | Kind | Unit | Labels | What it tells |",
        "|---|---|---|---|---|",
        *map(_line, BACKFILL_CATALOGUE),
        "",
        "The process itself is in `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds` and",
        "the other `process_` metrics of the Prometheus client library.",
        "",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    labels = "; ".join(f"`{label.name}`: {', '.join(label.values) or label.bound}" for label in row.labels)
    return f"| `{row.name}` | {row.kind} | {row.unit} | {labels} | {row.meaning} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
