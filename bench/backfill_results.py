"""What the backfill's benchmark found, as values. Pure: measuring is done elsewhere.

Rates are per second, times in seconds unless a name says otherwise, memory in bytes. None: could not be measured here.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

AIMS = {("one_by_one", "original"): 1.5, ("together", "original"): 3.0, ("two_jobs", "together"): 1.5}
"""How much faster, in account-days a second, the first is to be than the second."""

LARGE_MEMORY_AIM = 200_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process that rebuilt days says of itself.

    Attributes:
        account_days: how many.
        seconds, cpu_seconds: what they took.
        peak_memory_bytes: the most physical memory that the process ever had.
        began, ended: by the monotonic clock of the machine.
    """

    account_days: int
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int | None
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Run:
    """One way over all account-days, from empty tables.

    Attributes:
        way: which, a name of `bench.backfill_variant.WAYS`.
        client_cpu_seconds: of the process while it rebuilt.
        postgres_cpu_seconds: of all of PostgreSQL but the session that prepares and compares.
        differences: rollup rows that are not what the raw events give.
        rows: rollup rows afterwards.
    """

    way: str
    account_days: int
    seconds: float
    account_days_per_second: float
    raw_events_per_second: float
    client_cpu_seconds: float
    postgres_cpu_seconds: float | None
    peak_memory_bytes: int | None
    rows: int
    differences: list[str]


@dataclass(frozen=True, slots=True)
class Way:
    """The medians of one way's runs, and the median of its ratios to the others in the same round."""

    way: str
    account_days_per_second: float
    raw_events_per_second: float
    client_cpu_seconds: float
    postgres_cpu_seconds: float | None
    peak_memory_bytes: float | None
    ratios: dict[str, float]


@dataclass(frozen=True, slots=True)
class Waits:
    """Transactions of a consumer, one after the other: how many, how long, and how long the longest stood at a lock.

    Attributes:
        longest_lock_wait_ms: as far as looks at pg_locks saw it, `look_ms` apart.
    """

    transactions: int
    median_ms: float
    p99_ms: float
    longest_ms: float
    longest_lock_wait_ms: float
    look_ms: float


@dataclass(frozen=True, slots=True)
class Large:
    """The rebuild of one account-day with very many events, while consumers go on.

    Attributes:
        open: whether the day is counted live, so that the rebuild claims its ids.
        alone: a consumer of another account without any rebuild.
        other_account: the same while the rebuild runs.
        same_day_seconds: the one transaction that brings an event of that very day, and so waits until the rebuild has
            committed; None if the rebuild was over before it could be sent.
        differences: rollup rows that are not what the raw events give.
    """

    raw_events: int
    open: bool
    seconds: float
    client_cpu_seconds: float
    peak_memory_bytes: int | None
    alone: Waits
    other_account: Waits
    same_day_seconds: float | None
    differences: list[str]


@dataclass(frozen=True, slots=True)
class Result:
    """Everything of a run. Parts that were not asked for are None, or empty."""

    machine: dict[str, str | int | float]
    workload: dict[str, str | int | float]
    rounds: list[list[Run]]
    ways: list[Way]
    large: list[Large]

    @property
    def right(self) -> bool:
        """Whether every rollup was what the raw events give."""
        return not any(run.differences for each in self.rounds for run in each) and not any(
            each.differences for each in self.large
        )


def summary(rounds: Sequence[Sequence[Run]]) -> list[Way]:
    """What the rounds have in common, way by way."""
    if not rounds:
        return []
    found = []
    for way in [run.way for run in rounds[0]]:
        runs = [run for each in rounds for run in each if run.way == way]
        found.append(
            Way(
                way,
                statistics.median(run.account_days_per_second for run in runs),
                statistics.median(run.raw_events_per_second for run in runs),
                statistics.median(run.client_cpu_seconds for run in runs),
                _median_if_all([run.postgres_cpu_seconds for run in runs]),
                _median_if_all([run.peak_memory_bytes for run in runs]),
                {other.way: _ratio(rounds, way, other.way) for other in rounds[0] if other.way != way},
            )
        )
    return found


def _ratio(rounds: Sequence[Sequence[Run]], way: str, other: str) -> float:
    rates = [{run.way: run.account_days_per_second for run in each} for each in rounds]
    return statistics.median(each[way] / each[other] for each in rates)


def _median_if_all(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return statistics.median(known) if len(known) == len(numbers) else None
