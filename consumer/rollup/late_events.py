"""Late events in a rebuild: those whose raw row is there by now are done with, or belong to another day.

A late event is noted on the day that its message was cut into. After a change of time zone it may lie on another, and
its raw row may come long after both days were rebuilt.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from consumer.rollup.days import day_date, day_number, local_day
from consumer.rollup.statements import STATEMENTS


@dataclass(frozen=True, slots=True)
class Arrived:
    """A late event that raw has.

    Attributes:
        account_id, event_id: which.
        day: the local day number it lies on; None if its instant is no event's, so that it lies on none.
    """

    account_id: int
    event_id: int
    day: int | None


def arrived(conn: psycopg.Connection, timezones: Mapping[int, str], day: date) -> list[Arrived]:
    """Late events of a date that are in raw by now. Ask before the raw events are read.

    Args:
        conn: in a transaction that holds the days' locks.
        timezones: of the accounts that are asked for.
        day: the date they are noted on.
    """
    rows = conn.execute(STATEMENTS["late_events_found"], {"accounts": list(timezones), "date": day})
    return [
        Arrived(account_id, event_id, None if created_us is None else local_day(timezones[account_id], created_us))
        for account_id, event_id, created_us in rows
    ]


def move(
    conn: psycopg.Connection,
    events: Sequence[Arrived],
    day: date,
    timezones: Mapping[int, str],
    oldest: Mapping[str, int],
    registry: str,
) -> None:
    """Note late events of a date on the day that they lie on, which becomes stale. Those whose day somebody else holds,
    or is just making, stay where they are, for the next rebuild: waiting for it would be out of the order of locks.

    Args:
        conn: in a transaction that holds the locks of `day`.
        events: what lies elsewhere.
        day: the date they are noted on.
        timezones: of the accounts.
        oldest: the oldest day number of the open window, by time zone.
        registry: fingerprint that new days get.
    """
    there = [event for event in events if event.day not in (None, day_number(day))]
    if not there:
        return
    zones = [timezones[event.account_id] for event in there]
    parameters = {
        "accounts": [event.account_id for event in there],
        "ids": [event.event_id for event in there],
        "dates": [day_date(event.day) for event in there if event.day is not None],
        "timezones": zones,
        "in_window": [event.day is not None and event.day >= oldest[z] for event, z in zip(there, zones, strict=True)],
        "date": day,
        "registry": registry,
    }
    with contextlib.suppress(psycopg.errors.LockNotAvailable), conn.transaction():
        conn.execute(STATEMENTS["wait_for_nobody"])
        conn.execute(STATEMENTS["add_days_of_late_events"], parameters)
        conn.execute(STATEMENTS["wait_as_before"])
    conn.execute(STATEMENTS["move_late_events"], parameters)


def drop(conn: psycopg.Connection, events: Sequence[Arrived], day: date) -> None:
    """Forget late events of a date that lie on it and were rebuilt with it."""
    here = [event for event in events if event.day in (None, day_number(day))]
    if here:
        parameters = {
            "accounts": [event.account_id for event in here],
            "ids": [event.event_id for event in here],
            "date": day,
        }
        conn.execute(STATEMENTS["remove_late_events"], parameters)


def forget(conn: psycopg.Connection, accounts: Collection[int], events: Sequence[Arrived], day: date) -> None:
    """Forget every late event of a date, also those that raw does not have: they never were. Only those stay that lie
    elsewhere, and could not be moved there now.

    Args:
        conn: in a transaction that holds the days' locks.
        accounts: whose.
        events: those that raw has.
        day: the date they are noted on.
    """
    elsewhere = [event.event_id for event in events if event.day not in (None, day_number(day))]
    parameters = {"accounts": list(accounts), "date": day, "elsewhere": elsewhere}
    conn.execute(STATEMENTS["forget_late_events"], parameters)
