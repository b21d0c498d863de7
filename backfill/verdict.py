"""What a comparison of a day with its raw events came to. Pure: it neither asks the database nor reads a clock.

| the day is | must contain | its number of events is smaller | larger |
|---|---|---|---|
| open | the valid raw events whose bit is set | drift | missing raw; drift where rows prove it |
| closed | all valid raw events | uncounted | missing raw |
| stale, settling, outdated | unknown | behind | behind |
| without a row | nothing; `never built` if it has raw events and left the open window | | |

If the number is right, every row and member must be right as well.
"""

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

Day = tuple[int, date]
"""(account id, local date)."""


class State(StrEnum):
    """How a day is kept."""

    NOT_COVERED = "not covered"
    """Its account has no reporting time zone."""
    UNKNOWN = "unknown"
    """It has no row in `rollup_days`: never counted, never rebuilt."""
    SETTLING = "settling"
    STALE = "stale"
    OUTDATED = "outdated"
    """Counted under another registry than this program's."""
    OPEN = "open"
    CLOSED = "closed"


class Verdict(StrEnum):
    """What a comparison came to."""

    EXACT = "exact"
    DRIFT = "drift"
    """Rows, members or the number of events are not what the raw events give."""
    UNCOUNTED = "uncounted"
    """A closed day has raw events that were not counted, and no consumer has reported them late."""
    NEVER_BUILT = "never built"
    """A day older than the open window has raw events and was never counted nor rebuilt."""
    MISSING = "missing raw"
    """Events were counted that raw does not have: the day cannot be compared exactly. What can be compared fits."""
    BEHIND = "behind"
    """Known to be behind its raw events: to be rebuilt, or not counted yet. Nothing to compare."""
    NOT_COVERED = "not covered"
    """The account has no time zone, so that the day has no bounds."""
    FAILED = "failed"
    """It could not be looked at; `Verified.problem` says why."""


WRONG = frozenset({Verdict.DRIFT, Verdict.UNCOUNTED, Verdict.NEVER_BUILT})
"""Verdicts that say: the rollup differs from its raw events, and nobody has noticed yet. A rebuild mends it."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a rollup row says; sums in seconds."""

    count: int
    sum_value: Decimal
    sum_value_business_hours: Decimal

    def less(self, other: "Numbers") -> "Numbers":
        """What this row says too much, compared with the other."""
        return Numbers(
            self.count - other.count,
            self.sum_value - other.sum_value,
            self.sum_value_business_hours - other.sum_value_business_hours,
        )


NOTHING = Numbers(0, Decimal(0), Decimal(0))


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the raw events give, or a member (`member_id`) that is there and should not be, or should
    be and is not. `expected` and `found` are None where there is no such row; a member that is there counts 1."""

    dimension_type: str
    dimension_id: int
    metric: str
    member_id: int | None
    expected: Numbers | None
    found: Numbers | None

    @property
    def delta(self) -> Numbers:
        """Found less expected: what the rollup has too much."""
        return (self.found or NOTHING).less(self.expected or NOTHING)


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at a day found.

    Attributes:
        account_id, date: the day.
        timezone: its account's; None if it has none.
        state: how the day is kept.
        verdict: what the comparison came to.
        counted: the number of events that the day claims to contain; None if unknown.
        raw: valid raw events.
        behind: those of them that are not in the rollup yet; 0 where that cannot be told.
        missing: events in the rollup that raw does not have.
        invalid: raw events left out because a message could not have them either.
        differences: rows and members that differ, at most `MOST_DIFFERENCES` of them.
        differing: how many differ.
        problem: why the day could not be looked at, in one line.
    """

    account_id: int
    date: date
    timezone: str | None
    state: State
    verdict: Verdict
    counted: int | None = None
    raw: int = 0
    behind: int = 0
    missing: int = 0
    invalid: int = 0
    differences: tuple[Difference, ...] = ()
    differing: int = 0
    problem: str | None = None

    @property
    def day(self) -> Day:
        """(account id, local date)."""
        return self.account_id, self.date

    @property
    def wrong(self) -> bool:
        """Whether the rollup differs from its raw events without anybody having noticed."""
        return self.verdict in WRONG

    @property
    def repairable(self) -> bool:
        """Whether a rebuild is what the day needs."""
        return self.wrong or (self.verdict is Verdict.BEHIND and self.state is not State.UNKNOWN)

    @property
    def may_pass(self) -> bool:
        """Whether raw events and messages on their way may explain it, so that another look may find the day right."""
        early = self.verdict is Verdict.MISSING and self.state is State.OPEN
        return early or self.verdict in {Verdict.UNCOUNTED, Verdict.NEVER_BUILT}


class Sight(NamedTuple):
    """What one look at a day saw, all of it in one snapshot.

    Attributes:
        zone: the account's reporting time zone.
        known: whether `rollup_days` has the day; if not, what follows up to `stale` is None or False.
        recorded, closed, counted, registry, stale: that row: its time zone, its number of events, ...
        raw, invalid: valid raw events of the day, and others.
        due: valid raw events that the rollup must contain, by the table above.
        differing: rows and members that are not what these give.
        certain: those of them that are wrong even if raw lacks events that were counted.
    """

    zone: str | None
    known: bool
    recorded: str | None
    closed: bool | None
    counted: int | None
    registry: str | None
    stale: bool
    raw: int
    due: int
    invalid: int
    differing: int
    certain: int


Listed = tuple[tuple[bool, Difference], ...]
"""Differences, each with whether it is certain."""


def judge(day: Day, sight: Sight, listed: Listed, *, in_window: bool, fingerprint: str) -> Verified:
    """What a look came to.

    Args:
        day: which day.
        sight: what was seen.
        listed: some of the differences; the certain ones first.
        in_window: whether the day, if nobody has seen it yet, will be counted live.
        fingerprint: of the registry that the day was recomputed by.
    """
    found = Verified(*day, sight.zone, State.UNKNOWN, Verdict.EXACT, sight.counted, sight.raw, invalid=sight.invalid)
    every = replace(found, differences=tuple(each for _, each in listed), differing=sight.differing)
    if not sight.known:
        if sight.differing:
            return replace(every, verdict=Verdict.DRIFT, behind=sight.raw)
        unbuilt = Verdict.BEHIND if in_window else Verdict.NEVER_BUILT
        return replace(found, verdict=unbuilt, behind=sight.raw) if sight.raw else found
    if sight.counted is None or sight.recorded != sight.zone:
        return replace(found, state=State.SETTLING, verdict=Verdict.BEHIND)
    if sight.stale:
        return replace(found, state=State.STALE, verdict=Verdict.BEHIND)
    if sight.registry is not None and sight.registry != fingerprint:
        return replace(found, state=State.OUTDATED, verdict=Verdict.BEHIND)
    every = replace(every, state=State.CLOSED if sight.closed else State.OPEN)
    return _compare(every, sight.due, sight.certain, listed)


def _compare(every: Verified, due: int, certain: int, listed: Listed) -> Verified:
    """The verdict on a day that is not known to be behind; `every` has all its differences."""
    counted, closed = every.counted or 0, every.state is State.CLOSED
    if closed and due > counted:
        return replace(every, verdict=Verdict.UNCOUNTED, behind=due - counted)
    every = replace(every, behind=every.raw - due)
    if due >= counted:
        return replace(every, verdict=Verdict.DRIFT) if every.differing or due > counted else every
    every = replace(every, missing=counted - due)
    # On a closed day that lost raw events, a late event on its way would seem to be missing in a row.
    if certain and not closed:
        proven = tuple(each for is_certain, each in listed if is_certain)
        return replace(every, verdict=Verdict.DRIFT, differences=proven, differing=certain)
    return replace(every, verdict=Verdict.MISSING)
