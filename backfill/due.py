"""Which days upkeep has to do, in pages, so that memory does not grow with their number; and which it tries later."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import groupby, islice
from typing import Any, LiteralString

from backfill.plan import ACCOUNTS_AT_ONCE, Day, Unit
from backfill.statements import STATEMENTS

RETRY_SECONDS = 30.0
MOST_RETRY_SECONDS = 1800.0
"""A day that stays stale is tried again after this long, and twice as long each time, up to half an hour."""

PAGE = 20_000
"""Days that are listed at once: some megabytes, and minutes of work."""

Fetch = Callable[[LiteralString, Mapping[str, Any]], list[tuple[Any, ...]]]
"""Asks the database one question; all rows of its answer."""


def days_to_rebuild(fetch: Fetch, page: int = PAGE) -> Iterator[Day]:
    """Every day that was stale when this began, and has settled, once; those waiting longest first."""
    [(until,)] = fetch("SELECT now()", {})
    where = {"until": until, "since": "-infinity", "date": "-infinity", "account": 0, "most": page}
    while rows := fetch(STATEMENTS["days_to_rebuild"], where):
        yield from ((account, day) for _, day, account in rows)
        since, day, account = rows[-1]
        where |= {"since": since, "date": day, "account": account}


def days_to_close(fetch: Fetch, last_dates: Mapping[str, date], page: int = PAGE) -> Iterator[Day]:
    """Every day that has left the open window and is not closed, once, oldest first.

    Args:
        fetch: asks the database.
        last_dates: the newest date out of the window, by time zone.
        page: how many to list at once.
    """
    where = {"timezones": list(last_dates), "last_dates": list(last_dates.values())}
    where |= {"date": "-infinity", "account": 0, "most": page}
    while rows := fetch(STATEMENTS["days_to_close"], where):
        yield from ((account, day) for day, account in rows)
        where |= {"date": rows[-1][0], "account": rows[-1][1]}


def together(days: Iterable[Day], page: int = PAGE) -> Iterator[Unit]:
    """Days as units of one date; a page of them is put in the order of dates, so that accounts share transactions."""
    rest = iter(days)
    while listed := sorted(islice(rest, page), key=lambda day: day[::-1]):
        for when, group in groupby(listed, key=lambda day: day[1]):
            accounts = [account for account, _ in group]
            for start in range(0, len(accounts), ACCOUNTS_AT_ONCE):
                yield Unit(when, tuple(accounts[start : start + ACCOUNTS_AT_ONCE]))


@dataclass(slots=True)
class _Failed:
    """A day that was tried in vain: when to try it again, how long we wait for that, and what it was like."""

    again_at: float
    waits: float
    state: tuple[Any, ...] | None = None


class Later:
    """Days that stay stale, or fail, and are tried later and later. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._failed: dict[Day, _Failed] = {}

    def __contains__(self, day: Day) -> bool:
        return day in self._failed

    def days(self) -> set[Day]:
        """All of them, due or not."""
        return set(self._failed)

    def clear(self) -> None:
        """Try every day again at once."""
        self._failed.clear()

    def put_off(self, day: Day, now: float) -> None:
        """It was tried in vain."""
        before = self._failed.get(day)
        waits = min(MOST_RETRY_SECONDS, before.waits * 2) if before else RETRY_SECONDS
        self._failed[day] = _Failed(now + waits, waits)

    def done(self, day: Day) -> None:
        """It is as it should be."""
        self._failed.pop(day, None)

    def due(self, now: float) -> list[Day]:
        """Those whose time has come."""
        return [day for day, failed in self._failed.items() if failed.again_at <= now]

    def forgive(self, fetch: Fetch) -> None:
        """Drop days to which something has happened since they were tried: somebody else rebuilt or closed them. What
        makes such a day stale once more is another matter, to be looked at without delay."""
        days = list(self._failed)
        for start in range(0, len(days), PAGE):
            listed = days[start : start + PAGE]
            where = {"accounts": [account for account, _ in listed], "dates": [day for _, day in listed]}
            states = {(row[0], row[1]): row[2:] for row in fetch(STATEMENTS["states_of_days"], where)}
            for day in listed:
                state, failed = states.get(day), self._failed[day]
                if state is None or (failed.state is not None and failed.state != state):
                    del self._failed[day]
                else:
                    failed.state = state
