"""What a benchmark run found, as values; how rounds become one number. Pure: measuring is done elsewhere.

Rates are per second, times in seconds unless a name says otherwise, memory in bytes. None: could not be measured here.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ConsumeOnly:
    """Reading the topic and nothing else, in a process of its own.

    Attributes:
        per_second: messages after the first one, over the seconds from the first one to the last one.
        cpu_seconds: of the process in that time, user and system, all threads.
    """

    messages: int
    seconds: float
    per_second: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds per million events, user and system, from the assignment of partitions to the last commit.

    `postgres` has all of its processes but the session that watches progress.
    """

    consumer: float
    postgres: float | None
    kafka: float | None


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """One consumer process over the whole topic, from empty tables.

    Attributes:
        seconds: from the log line that says the partitions are assigned, which is before the first fetch, to the
            first look at PostgreSQL that saw the last message committed. Looks are 20 ms apart.
        seconds_with_start: the same from the start of the process.
        stages: thread -> what it did -> seconds, since the process began.
        start_cpu_seconds: CPU time of the process before its partitions were assigned.
        peak_memory_bytes: the most physical memory that the process ever had.
    """

    events: int
    seconds: float
    per_second: float
    seconds_with_start: float
    per_second_with_start: float
    stages: dict[str, dict[str, float]]
    transactions: int
    rows_upserted: int
    rows_per_event: float
    cpu_seconds_per_million: Cpu
    start_cpu_seconds: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Round:
    """Both, one right after the other, so that whatever else the machine does hits them alike."""

    consume_only: ConsumeOnly
    end_to_end: EndToEnd
    ratio: float


@dataclass(frozen=True, slots=True)
class Medians:
    """Of each number by itself over all rounds; `ratio` is the median of the rounds' ratios."""

    end_to_end_per_second: float
    with_start_per_second: float
    consume_only_per_second: float
    ratio: float
    stages: dict[str, dict[str, float]]
    transactions: float
    rows_per_event: float
    cpu_seconds_per_million: Cpu
    peak_memory_bytes: float | None


@dataclass(frozen=True, slots=True)
class Steady:
    """At a steady rate: milliseconds from before the call of produce() to the first look that saw it committed.

    Attributes:
        per_second: the rate that the producer really kept.
        warm_up_seconds: of the same rate before, not measured: a broker's code for small requests is slow at first.
        messages: how many were measured.
        acknowledged_p50_ms, acknowledged_p99_ms: of the same time, how much until the broker had the message.
        look_ms: the median time between two looks at PostgreSQL, by which a number may be too high.
        consumer_core_percent: CPU use of the consumer, 100 is one core.
    """

    per_second: float
    warm_up_seconds: float
    seconds: float
    messages: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    acknowledged_p50_ms: float
    acknowledged_p99_ms: float
    look_ms: float
    consumer_core_percent: float


@dataclass(frozen=True, slots=True)
class Idle:
    """A consumer that has read everything: its CPU use, 100 is one core."""

    seconds: float
    consumer_core_percent: float


@dataclass(frozen=True, slots=True)
class Correctness:
    """Whether the totals are right, besides fast.

    Attributes:
        balanced: every message of every partition has exactly one outcome.
        counted: how many events were counted; must be `expected`.
        differences: rows that are not what the raw events give; None unless compared (--verify).
        rows: rollup rows compared, or only present.
    """

    balanced: bool
    counted: int
    expected: int
    differences: list[str] | None
    rows: int

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return self.balanced and self.counted == self.expected and not self.differences


@dataclass(frozen=True, slots=True)
class Result:
    """Everything of a run. Parts that were not asked for are None, or empty."""

    machine: dict[str, str | int | float]
    settings: dict[str, str | int]
    workload: dict[str, str | int | float]
    rounds: list[Round]
    medians: Medians | None
    correctness: Correctness | None
    steady: Steady | None
    idle: Idle | None


def medians(rounds: Sequence[Round]) -> Medians | None:
    """What the rounds have in common; None without rounds."""
    if not rounds:
        return None
    runs = [r.end_to_end for r in rounds]
    cpus = [run.cpu_seconds_per_million for run in runs]
    return Medians(
        end_to_end_per_second=statistics.median(run.per_second for run in runs),
        with_start_per_second=statistics.median(run.per_second_with_start for run in runs),
        consume_only_per_second=statistics.median(r.consume_only.per_second for r in rounds),
        ratio=statistics.median(r.ratio for r in rounds),
        stages={
            thread: {stage: statistics.median(run.stages[thread][stage] for run in runs) for stage in stages}
            for thread, stages in runs[0].stages.items()
        },
        transactions=statistics.median(run.transactions for run in runs),
        rows_per_event=statistics.median(run.rows_per_event for run in runs),
        cpu_seconds_per_million=Cpu(
            statistics.median(cpu.consumer for cpu in cpus),
            _median_if_all([cpu.postgres for cpu in cpus]),
            _median_if_all([cpu.kafka for cpu in cpus]),
        ),
        peak_memory_bytes=_median_if_all([run.peak_memory_bytes for run in runs]),
    )


def _median_if_all(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return statistics.median(known) if len(known) == len(numbers) else None


def percentile(values: npt.NDArray[np.float64], percent: float) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed: always one that was measured."""
    return float(np.percentile(values, percent, method="inverted_cdf"))


def first_seen(offsets: Int64Array, looked_ns: Int64Array, next_offsets: Int64Array) -> Int64Array:
    """When each offset was first seen committed.

    Args:
        offsets: of messages of one partition.
        looked_ns: when each look at that partition was answered, rising.
        next_offsets: the partition's next offset at each look, never falling.

    Raises:
        ValueError: some offset was not committed at the last look.
    """
    at = np.searchsorted(next_offsets, offsets + 1, side="left")
    if at.size and at.max() >= len(looked_ns):
        raise ValueError(f"offset {offsets.max()} was not committed at the last look")
    return looked_ns[at]
