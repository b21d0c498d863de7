"""What a backfill is going to do: units of work, each one transaction, and what they will take."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice

import psycopg

from backfill.selection import Resolved
from backfill.statements import STATEMENTS
from consumer.rollup.days import day_number, day_start_us, instant
from consumer.rollup.registry import REGISTRY, Registry

ACCOUNTS_AT_ONCE = 32
"""Accounts whose day is rebuilt in one transaction: enough to share its cost, and soon over for consumers that wait."""

RANGES_AT_ONCE = 100
"""Ranges whose raw events are counted by one statement: few enough to be over before it is cancelled."""

DAYS_PER_SECOND = 500.0
EVENTS_PER_SECOND = 400_000.0
"""What one connection does, roughly: account-days without events, and raw events on top. docs/performance.md."""

Day = tuple[int, date]


@dataclass(frozen=True, slots=True)
class Unit:
    """A local date of some accounts of one time zone, rebuilt in one transaction."""

    date: date
    accounts: tuple[int, ...]

    @property
    def days(self) -> list[Day]:
        """The (account, date) pairs."""
        return [(account, self.date) for account in self.accounts]


def units(resolved: Resolved) -> Iterator[Unit]:
    """The units of a selection, oldest date first. Accounts of one time zone go together: their day is one interval."""
    for day, by_timezone in resolved.by_date():
        for accounts in by_timezone.values():
            for start in range(0, len(accounts), ACCOUNTS_AT_ONCE):
                yield Unit(day, tuple(accounts[start : start + ACCOUNTS_AT_ONCE]))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a backfill will take.

    Attributes:
        accounts, days, raw_events: how many there are.
        first, last: local dates; None without any days.
        seconds: with the given number of jobs, roughly.
    """

    accounts: int
    days: int
    first: date | None
    last: date | None
    raw_events: int
    seconds: float


def estimate(conn: psycopg.Connection, resolved: Resolved, jobs: int, registry: Registry = REGISTRY) -> Estimate:
    """Count the raw events of a selection: a look into the index for each account, event name and run of dates."""
    raw_events = 0
    ranges = _ranges(resolved)
    while listed := list(islice(ranges, RANGES_AT_ONCE)):
        accounts, starts, ends = zip(*listed, strict=True)
        where = {"accounts": list(accounts), "starts": list(starts), "ends": list(ends)}
        asked = {**where, "names": list(registry.event_names)}
        row = conn.execute(STATEMENTS["count_raw_events"], asked, prepare=False).fetchone()
        raw_events += row[0] if row else 0
    days = resolved.count
    return Estimate(
        accounts=len(resolved.spans),
        days=days,
        first=min((spans[0][0] for spans in resolved.spans.values()), default=None),
        last=max((spans[-1][1] for spans in resolved.spans.values()), default=None),
        raw_events=raw_events,
        seconds=(days / DAYS_PER_SECOND + raw_events / EVENTS_PER_SECOND) / jobs,
    )


def _ranges(resolved: Resolved) -> Iterator[tuple[int, datetime, datetime]]:
    """(account, instant, instant) that cover every day once."""
    for account, spans in resolved.spans.items():
        for first, last in spans:
            bounds = (
                day_start_us(resolved.timezones[account], day_number(day)) for day in (first, last + timedelta(1))
            )
            starts, ends = map(instant, bounds)
            yield account, starts, ends
