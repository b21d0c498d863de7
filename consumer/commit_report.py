"""What a committed batch tells operators: metrics and log lines."""

import time

import structlog

from consumer.logs import Event
from consumer.metrics import Metrics
from consumer.rollup.batch import Batch
from consumer.rollup.store import Written

log = structlog.get_logger()


def report_commit(metrics: Metrics, batch: Batch, written: Written, seconds: float) -> None:
    """Tell of a batch that was written within so many seconds."""
    now = time.time()
    metrics.transactions.inc()
    metrics.batch_events.observe(batch.messages)
    metrics.batch_duration_seconds.observe(seconds)
    metrics.rows_upserted.inc(written.rows)
    outcomes = written.outcomes()
    metrics.observe_outcomes(outcomes)
    for reason, count in written.skipped.items():
        metrics.observe_skipped(reason, count)
    for letter in batch.dead_letters:
        metrics.observe_dead_letter(letter.error_class)
    for span in batch.spans:
        metrics.last_commit_timestamp_seconds.labels(span.source.topic, str(span.source.partition)).set(now)
    if written.counted.any():
        oldest = int(batch.events.created_us[written.counted].min())
        metrics.freshness_seconds.observe(max(0.0, now - oldest / 1e6))
    if stamps := [span.oldest_us for span in batch.spans if span.oldest_us is not None]:
        metrics.broker_freshness_seconds.observe(max(0.0, now - min(stamps) / 1e6))
    log.debug(Event.BATCH_COMMITTED, messages=batch.messages, rows=written.rows, seconds=round(seconds, 4), **outcomes)
    if outcomes["late"]:
        log.info(Event.DAYS_STALE, late_events=outcomes["late"])
    if batch.dead_letters:
        first = batch.dead_letters[0]
        log.warning(
            Event.DEAD_LETTERS,
            count=len(batch.dead_letters),
            topic=first.source.topic,
            partition=first.source.partition,
            offset=first.offset,
            # Not the reason: it quotes what was found, and contents are not logged.
            message=f"the first is of class {first.error_class}; python -m consumer dead-letters list says more",
        )
