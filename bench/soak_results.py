"""What a soak found, as values. Pure: measuring is done elsewhere, judging in `bench.soak_verdict`.

Sizes in bytes, times in seconds unless a name says otherwise, instants in seconds since sampling began.
"""

from dataclasses import dataclass
from typing import Literal

Phase = Literal["soak", "overload", "catch up"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the consumer from outside.

    Attributes:
        rss: physical memory of the process; `peak` the most it ever had.
        files: open file descriptors, sockets included.
        connections: sessions of the consumer in PostgreSQL.
        messages: committed so far.
        backlog: messages in the topic that are not committed.
        kept: messages that Kafka keeps, read or not.
        transactions: committed so far, and the seconds that they took together; None unless looked at this time.
    """

    at: float
    phase: Phase
    rss: int
    peak: int
    threads: int
    files: int
    connections: int
    messages: int
    backlog: int
    kept: int
    transactions: tuple[int, float] | None


@dataclass(frozen=True, slots=True)
class TableLook:
    """One look at a table, by PostgreSQL's own statistics. `vacuums` counts those of autovacuum."""

    at: float
    table: str
    heap: int
    indexes: int
    live: int
    dead: int
    vacuums: int


@dataclass(frozen=True, slots=True)
class Bloat:
    """A table and its indexes at the end of the run, and after VACUUM FULL."""

    table: str
    rows: int
    heap: int
    indexes: int
    full_heap: int
    full_indexes: int

    @property
    def ratio(self) -> float:
        """How many times the size that it needs; 1 is perfect."""
        return (self.heap + self.indexes) / max(self.full_heap + self.full_indexes, 1)


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a message was produced, and how many milliseconds later it was visible in PostgreSQL."""

    at: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Exactness:
    """What the tables say at the end beside what the producer sent.

    Attributes:
        rounds: of the traffic.
        sent, in_topic: messages by the producer and by Kafka.
        expected, found: messages by outcome, with `letters` the rows of `dead_letters`.
        balanced: whether every partition's outcomes add up to its messages.
        rows: rollup rows compared.
        differences: how many of them are not what was expected, with the first ones told.
    """

    rounds: int
    sent: int
    in_topic: int
    expected: dict[str, int]
    found: dict[str, int]
    balanced: bool
    rows: int
    differences: int
    told: list[str]


@dataclass(frozen=True, slots=True)
class Soak:
    """Everything that was measured."""

    samples: list[Sample]
    tables: list[TableLook]
    arrivals: list[Arrival]
    bloat: list[Bloat]
    exactness: Exactness


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict: what, what was found, what it may be, whether it is."""

    what: str
    found: str
    bound: str
    passed: bool
