"""What a backfill is going to do: units of work, each one transaction, and what they will take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

import psycopg

from backfill.selection import Resolved
from backfill.statements import STATEMENTS
from consumer.rollup.days import day_number, day_start_us, instant
from consumer.rollup.registry import REGISTRY, Registry

ACCOUNTS_AT_ONCE = 32
"""Accounts whose day is rebuilt in one transaction: enough to share its cost, and soon over for consumers that wait."""

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


def units(resolved: Resolved) -> list[Unit]:
    """The units of a selection, oldest date first. Accounts of one time zone go together: their day is one interval."""

    def of(day: Day) -> tuple[date, str]:
        return day[1], resolved.timezones[day[0]]

    made: list[Unit] = []
    for (when, _), group in groupby(sorted(resolved.days, key=lambda day: (*of(day), day[0])), key=of):
        accounts = [account for account, _ in group]
        starts = range(0, len(accounts), ACCOUNTS_AT_ONCE)
        made += [Unit(when, tuple(accounts[start : start + ACCOUNTS_AT_ONCE])) for start in starts]
    return made


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
    """Count the raw events of a selection: one look into the index for each time zone and run of dates."""
    raw_events = 0
    for name, first, last, accounts in _stretches(resolved):
        bounds = [instant(day_start_us(name, day_number(day))) for day in (first, last + timedelta(days=1))]
        where = {"accounts": accounts, "names": list(registry.event_names), "start": bounds[0], "end": bounds[1]}
        row = conn.execute(STATEMENTS["count_raw_events"], where).fetchone()
        raw_events += row[0] if row else 0
    dates = [day for _, day in resolved.days]
    return Estimate(
        accounts=len({account for account, _ in resolved.days}),
        days=len(dates),
        first=min(dates, default=None),
        last=max(dates, default=None),
        raw_events=raw_events,
        seconds=(len(dates) / DAYS_PER_SECOND + raw_events / EVENTS_PER_SECOND) / jobs,
    )


def _stretches(resolved: Resolved) -> Iterator[tuple[str, date, date, list[int]]]:
    """(time zone, first date, last date, accounts) that cover every day once."""
    by_dates: dict[tuple[str, date, date], list[int]] = {}
    for account, days in groupby(sorted(resolved.days), key=lambda day: day[0]):
        for first, last in _runs([day for _, day in days]):
            by_dates.setdefault((resolved.timezones[account], first, last), []).append(account)
    for (name, first, last), accounts in by_dates.items():
        yield name, first, last, accounts


def _runs(dates: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Sorted dates as (first, last) of dates that follow each other."""
    first = before = dates[0]
    for day in dates[1:]:
        if day - before > timedelta(days=1):
            yield first, before
            first = day
        before = day
    yield first, before
