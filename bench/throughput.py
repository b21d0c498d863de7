"""One consumer process over the whole topic from empty tables: how fast, at what cost, and whether it is right."""

import time

from bench.programs import BenchError, RunningConsumer, consumer
from bench.results import Correctness, Cpu, EndToEnd
from bench.usage import family_seconds, peak_memory, process_seconds
from bench.workload import Ground
from consumer.metric_catalogue import OUTCOMES, STAGES
from local import proof

LOOK_SECONDS = 0.02
SILENCE_SECONDS = 60.0

DONE = "SELECT coalesce(sum(messages), 0)::bigint FROM consumer_offsets WHERE group_id = %s"


def measure(ground: Ground, number: str) -> EndToEnd:
    """Run a consumer in a new group until it has committed every message; `number` names group and log.

    Raises:
        BenchError: it ended, or committed nothing for a minute.
    """
    ground.clear()
    group, events = f"bench-{number}", ground.workload.events
    began = time.monotonic()
    with consumer(ground.folder / f"consumer-{number}.log", ground.environment(ground.topic, group)) as running:
        assigned = running.assigned_at()
        before = _cpu(ground, running)
        _wait_until_committed(ground, running, group, events)
        ended = time.monotonic()
        after = _cpu(ground, running)
        metrics = _metrics_of(running, events)
        peak = peak_memory(running.pid)
        running.stop()
    seconds, with_start = ended - assigned, ended - began
    rows = int(metrics["rows_upserted_total",])
    return EndToEnd(
        events=events,
        seconds=seconds,
        per_second=events / seconds,
        seconds_with_start=with_start,
        per_second_with_start=events / with_start,
        # Label values in the order of the labels' names: stage, thread.
        stages={
            thread: {stage: metrics["stage_seconds_total", stage, thread] for stage in stages}
            for thread, stages in STAGES.items()
        },
        transactions=int(metrics["transactions_total",]),
        rows_upserted=rows,
        rows_per_event=rows / events,
        cpu_seconds_per_million=_per_million(before, after, events),
        start_cpu_seconds=before.consumer,
        peak_memory_bytes=peak,
    )


def check(ground: Ground, *, compare: bool) -> Correctness:
    """Whether what the last run left in the tables is right; with `compare` also against the raw events."""
    sheet = proof.balance(ground.conn)
    return Correctness(
        balanced=all(row.adds_up for row in sheet),
        counted=sum(row.counted for row in sheet),
        expected=ground.workload.events,
        differences=[str(found) for found in proof.differences(ground.conn)] if compare else None,
        rows=proof.rows(ground.conn),
    )


def _wait_until_committed(ground: Ground, running: RunningConsumer, group: str, events: int) -> None:
    last, changed = 0, time.monotonic()
    while True:
        row = ground.conn.execute(DONE, (group,)).fetchone()
        done = int(row[0]) if row else 0
        if done >= events:
            return
        now = time.monotonic()
        if done != last:
            last, changed = done, now
        if now - changed > SILENCE_SECONDS:
            raise BenchError(f"the consumer committed nothing for {SILENCE_SECONDS:.0f} s after {done} of {events}")
        running.check()
        time.sleep(LOOK_SECONDS)


def _metrics_of(running: RunningConsumer, events: int) -> dict[tuple[str, ...], float]:
    """The metrics once they include the last transaction, which becomes visible a moment before it is counted."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = running.metrics()
        if sum(found["events_total", outcome] for outcome in OUTCOMES) >= events:
            return found
        time.sleep(LOOK_SECONDS)
    raise BenchError(f"PostgreSQL has all {events} messages, but the consumer's events_total does not say so")


def _cpu(ground: Ground, running: RunningConsumer) -> Cpu:
    """CPU seconds so far."""
    postgres = ground.services.postgres.pid if ground.services.postgres else None
    kafka = ground.services.kafka.pid if ground.services.kafka else None
    return Cpu(
        process_seconds(running.pid),
        family_seconds(postgres, {ground.conn.info.backend_pid}) if postgres else None,
        process_seconds(kafka) if kafka else None,
    )


def _per_million(before: Cpu, after: Cpu, events: int) -> Cpu:
    def share(first: float | None, last: float | None) -> float | None:
        return None if first is None or last is None else (last - first) * 1e6 / events

    return Cpu(
        (after.consumer - before.consumer) * 1e6 / events,
        share(before.postgres, after.postgres),
        share(before.kafka, after.kafka),
    )
