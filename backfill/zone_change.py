"""Changes an account's time zone in the database, unless that would lose days whose raw events are gone.

What becomes of the account's days is the affair of the trigger on `account_settings` (docs/design.md, "Changing a time
zone"): a change made here is the same as a plain UPDATE by somebody else, with a look before and after.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import psycopg

from consumer import database
from consumer.errors import RollupError
from consumer.rollup.days import day_number, day_start_us, instant, validate_timezone
from consumer.rollup.registry import REGISTRY
from consumer.rollup.schema import check_schema
from consumer.rollup.statements import load_statements
from consumer.settings import DatabaseSettings

STATEMENTS: Final = load_statements("backfill", "zone_change.sql")
"""Statement name -> its text."""

COMMAND = "python -m backfill set-timezone"

LEAST_ACCOUNT, MOST_ACCOUNT = 1, 2**31 - 1
"""Account ids that an application gives and an integer column holds."""

LEAST_TIMEOUT_SECONDS = 60
"""The trigger tries for half a minute to be alone with the settings: a shorter statement timeout would cut that off."""


class ZoneChangeError(RollupError):
    """An account's time zone cannot be changed as things are; nothing was changed."""


@dataclass(frozen=True, slots=True)
class WithoutRaw:
    """Days that were counted from raw events of which some are no longer there: a change of zone would lose them.

    Attributes:
        days: how many.
        first, last: local dates.
    """

    days: int
    first: date
    last: date

    def __str__(self) -> str:
        return (
            f"{self.days} days ({self.first} to {self.last}) were counted from raw events of which some are no longer "
            "in reporting_events. In another time zone all days are counted anew from raw events, so these totals "
            "would be lost"
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an account's setting.

    Attributes:
        before, after: IANA names; None: no rollup.
        lost: the days that were given up for it.
    """

    account_id: int
    before: str | None
    after: str | None
    lost: WithoutRaw | None

    @property
    def changed(self) -> bool:
        """Whether it is another zone than before."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class Waiting:
    """An account's stale days.

    Attributes:
        days: how many.
        first, last: local dates; None when there are none.
        settles_at: a rebuild completes them from this instant on; None: at once.
        seconds: how long that is from now.
    """

    days: int
    first: date | None
    last: date | None
    settles_at: datetime | None
    seconds: float


@contextmanager
def connection(settings: DatabaseSettings) -> Iterator[psycopg.Connection]:
    """A connection on which changes can wait for their locks.

    Raises:
        SchemaError: migrations are missing, or newer than this program.
        psycopg.OperationalError: the database is away.
    """
    with database.connect(
        settings.database_url,
        statement_timeout=max(LEAST_TIMEOUT_SECONDS, settings.db_statement_timeout_seconds),
        application="reporting-rollup set-timezone",
    ) as conn:
        check_schema(conn)
        conn.execute("SET synchronous_commit = on")  # nothing would bring a setting back that was lost
        yield conn


def change_timezone(conn: psycopg.Connection, account_id: int, timezone: str | None, *, force: bool = False) -> Change:
    """Set or, with None, clear an account's time zone. Blocks up to half a minute, until no consumer and no rebuild is
    in a transaction.

    Raises:
        ZoneChangeError: locks were not granted, days would be lost (unless `force`), or the table refused.
        psycopg.Error: the database is away, or refuses us.
    """
    key = {"account": account_id, "timezone": timezone}
    try:
        with conn.transaction():
            row = conn.execute(STATEMENTS["lock_account"], key).fetchone()
            before = row[0] if row else None
            if before == timezone:
                return Change(account_id, before, timezone, None)
            lost = lost_by(conn, account_id, before, timezone) if timezone else None
            if lost and not force:
                raise ZoneChangeError(
                    f"account {account_id}: {lost}; nothing was changed. To change it all the same, add --force"
                )
            conn.execute(STATEMENTS["update_zone" if row else "insert_zone"], key)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        raise ZoneChangeError(
            f"account {account_id}: {error.diag.message_primary}; nothing was changed. Try again, or look in "
            "pg_stat_activity for the transaction that goes on for so long"
        ) from error
    except psycopg.errors.IntegrityError as error:
        hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
        raise ZoneChangeError(
            f"account {account_id}: account_settings refused: {error.diag.message_primary}; nothing was changed.{hint}"
        ) from error
    return Change(account_id, before, timezone, lost)


def lost_by(conn: psycopg.Connection, account_id: int, before: str | None, after: str) -> WithoutRaw | None:
    """The days that a change of zone would empty or thin out, because raw events of theirs are gone; None if there are
    none. Reads all raw events of the account's counted days."""
    days = conn.execute(STATEMENTS["counted_days"], {"account": account_id}).fetchall()
    zones = {validate_timezone(timezone) for _, timezone, _ in days}
    if before is None and zones <= {after}:
        return None  # switched on again in the zone that it had: its days keep their counts
    bounds = [[instant(day_start_us(timezone, day_number(day) + n)) for day, timezone, _ in days] for n in (0, 1)]
    parameters = {
        "account": account_id,
        "names": list(REGISTRY.event_names),
        "dates": [day for day, _, _ in days],
        "starts": bounds[0],
        "ends": bounds[1],
        "events": [events for _, _, events in days],
    }
    row = conn.execute(STATEMENTS["days_that_lack_raw"], parameters).fetchone()
    return WithoutRaw(*row) if row and row[0] else None


def first_raw_us(conn: psycopg.Connection, account_id: int) -> int | None:
    """When the account's first raw event was created, in microseconds since 1970; None if it has none."""
    parameters = {"account": account_id, "names": list(REGISTRY.event_names)}
    row = conn.execute(STATEMENTS["first_raw_event"], parameters).fetchone()
    return row[0] if row else None


def timezone_of(conn: psycopg.Connection, account_id: int) -> str | None:
    """The account's time zone, None if it has none."""
    row = conn.execute(STATEMENTS["zone_of"], {"account": account_id}).fetchone()
    return row[0] if row else None


def waiting_days(conn: psycopg.Connection, account_id: int) -> Waiting:
    """The account's days that wait for a rebuild."""
    row = conn.execute(STATEMENTS["waiting_days"], {"account": account_id}).fetchone()
    days, first, last, settles_at, seconds = row or (0, None, None, None, 0)
    return Waiting(days, first, last, settles_at, seconds or 0.0)


def waiting_dates(conn: psycopg.Connection, account_id: int) -> list[date]:
    """The dates of the account's days that wait for a rebuild, the newest first."""
    return [day for (day,) in conn.execute(STATEMENTS["waiting_dates"], {"account": account_id})]


def lowest_account(conn: psycopg.Connection) -> int | None:
    """The lowest account id that has settings."""
    row = conn.execute(STATEMENTS["lowest_account"]).fetchone()
    return row[0] if row else None
