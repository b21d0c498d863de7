"""Whether a day's rollup is exactly what its raw events give, while consumers and rebuilds go on.

One look at a day is one statement, so one snapshot of the database: its row in `rollup_days`, its raw events, the bits
of those that were counted, its rollup rows and members. Consumers and rebuilds change these in one transaction, so in
every snapshot they fit together; no lock is needed to compare them exactly, and nobody is held up. What must be in the
rollup depends on how the day is kept: on an open day the valid raw events whose bit is set, for the others are still on
their way; on a closed day all of them. verdict.py says what follows from that.

Raw events are committed somewhat before or after their messages are counted. So a look may find more or fewer of them
than were counted; such a day is looked at again (`verify_days`) before that is said.

It shares the registry's table and the days' bounds with the rest, and no statement. Update with it: verify.sql.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from backfill.verdict import Day, Difference, Numbers, Sight, State, Verdict, Verified, judge
from consumer.errors import RollupError
from consumer.rollup.days import day_number, day_start_us, instant, local_day
from consumer.rollup.registry import Kind, Registry
from consumer.rollup.statements import load_statements

STATEMENTS: Final = load_statements("backfill", "verify.sql")
"""The statements of verify.sql by name."""

PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds before each further look at days that may become exact by themselves: longer than a producer takes between
its message and its commit, or a consumer that keeps up from reading a message to its commit."""
MOST_DIFFERENCES = 100
"""Differing rows of a day that are kept; beyond, only their number is known, so that memory stays bounded."""


class VerifyError(RollupError):
    """Nothing can be compared as things are."""


class Verifier:
    """Looks at days on one connection, without ever writing or locking anything.

    Args:
        conn: in autocommit, or in a transaction of any isolation level.
        registry: what to recompute by.
        open_days: as the consumers have it.

    Raises:
        VerifyError: there is no table of raw events.
    """

    def __init__(self, conn: psycopg.Connection[Any], registry: Registry, open_days: int) -> None:
        self._conn = conn
        self._registry = registry
        self._open_days = open_days
        self._look = _compose(registry)
        self._zones: dict[int, str | None] = {}
        self._raw_has_zone = _raw_has_zone(conn)

    def look(self, account_id: int, day: date, now_us: int) -> Verified:
        """Compare one day as it is at this instant.

        Args:
            account_id: any account.
            day: a local date of the account.
            now_us: the present, microseconds since the epoch; decides whether a day never seen should have been built.

        Raises:
            ConfigurationError: the account's time zone is not in this program's tzdata.
            psycopg.Error: the database refused or is away.
        """
        zone = self._zone(account_id)
        while zone is not None:
            rows = self._compare(account_id, day, zone)
            if rows[0][0] == zone:
                sight, listed = Sight(*rows[0][:12]), tuple(_difference(row) for row in rows if row[12] is not None)
                in_window = day_number(day) > local_day(zone, now_us) - self._open_days
                fingerprint = self._registry.fingerprint
                return judge((account_id, day), sight, listed, in_window=in_window, fingerprint=fingerprint)
            # It changed since we asked, and with it the day's bounds.
            zone = self._zones[account_id] = rows[0][0]
        return Verified(account_id, day, None, State.NOT_COVERED, Verdict.NOT_COVERED)

    def _zone(self, account_id: int) -> str | None:
        """The account's time zone as last seen: `look` notices when it has changed."""
        if self._zones.get(account_id) is None:
            row = self._conn.execute(STATEMENTS["account_zone"], {"account": account_id}).fetchone()
            self._zones[account_id] = row and row[0]
        return self._zones[account_id]

    def _compare(self, account_id: int, day: date, zone: str) -> list[tuple[Any, ...]]:
        number = day_number(day)
        starts, ends = (instant(day_start_us(zone, each)) for each in (number, number + 1))
        if not self._raw_has_zone:
            starts, ends = starts.replace(tzinfo=None), ends.replace(tzinfo=None)
        parameters = {
            "account": account_id,
            "date": day,
            "starts": starts,
            "ends": ends,
            "names": list(self._registry.event_names),
            "limit": MOST_DIFFERENCES,
        }
        with self._conn.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(self._look, parameters).fetchall()


def verify_days(
    look: Callable[[Day], Verified],
    days: Iterable[Day],
    *,
    pauses: Sequence[float] = PAUSES,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Verified]:
    """Compare days; each comes out once.

    Days that may become exact by themselves come last: they are looked at again, all of them after each pause, until
    they are decided or the pauses are used up. So waiting does not cost more for many days than for one.

    Args:
        look: one look at a day; what it raises is raised here.
        days: which.
        pauses: seconds before each further look.
        sleep: waits so many seconds.
    """
    undecided = []
    for day in days:
        verified = look(day)
        if verified.may_pass:
            undecided.append(verified)
        else:
            yield verified
    for pause in pauses:
        if not undecided:
            return
        sleep(pause)
        again = [look(verified.day) for verified in undecided]
        yield from (verified for verified in again if not verified.may_pass)
        undecided = [verified for verified in again if verified.may_pass]
    yield from undecided


def verify_day(
    conn: psycopg.Connection[Any],
    account_id: int,
    day: date,
    registry: Registry,
    open_days: int,
    now_us: int,
    *,
    pauses: Sequence[float] = PAUSES,
) -> Verified:
    """Compare one day; see `Verifier.look`. Blocks for the sum of `pauses` at most: none for a single look, which is
    all that makes sense while the caller holds the day's lock or works in a REPEATABLE READ transaction."""
    verifier = Verifier(conn, registry, open_days)
    (verified,) = verify_days(lambda each: verifier.look(*each, now_us), [(account_id, day)], pauses=pauses)
    return verified


def unsettled_dates(conn: psycopg.Connection[Any], account_id: int) -> set[date]:
    """Dates that a look at all of an account's past must not overlook: days that are not closed, today's among them,
    and dates on which the rollup holds something though there is no such day."""
    return {day for (day,) in conn.execute(STATEMENTS["unsettled_dates"], {"account": account_id})}


def _raw_has_zone(conn: psycopg.Connection[Any]) -> bool:
    try:
        cursor = conn.execute(STATEMENTS["type_of_created_at"])
    except psycopg.errors.UndefinedTable as error:
        raise VerifyError("there is no table reporting_events to compare with: apply the migrations") from error
    timestamptz = psycopg.adapters.types["timestamptz"].oid
    return cursor.description is not None and cursor.description[0].type_code == timestamptz


def _difference(row: tuple[Any, ...]) -> tuple[bool, Difference]:
    certain, kind, number, metric, member = row[12:17]
    expected, found = (None if each[0] is None else Numbers(*each) for each in (row[17:20], row[20:23]))
    return certain, Difference(kind, number, metric, member, expected, found)


def _compose(registry: Registry) -> sql.Composed:
    """The comparison with the registry's columns and metrics in it."""
    comma = sql.SQL(", ")
    names = dict.fromkeys(["account_id", *registry.id_columns])
    split = [sql.Identifier(d.column) for d in registry.dimensions]
    members: list[sql.Composable] = [
        sql.SQL("({}, {}, e.{})").format(m.event, m.metric, sql.Identifier(m.member))
        for m in registry.metrics
        if m.member
    ]
    additive = [m for m in registry.metrics if m.kind is not Kind.DISTINCT]
    metrics: list[sql.Composable] = [
        sql.SQL("({}, {}, {})").format(m.event, m.metric, m.kind is Kind.DURATION) for m in additive
    ]
    return sql.SQL(STATEMENTS["look"]).format(
        columns=comma.join(sql.SQL("e.{0}::bigint AS {0}").format(sql.Identifier(name)) for name in names),
        dimension_columns=comma.join(split),
        dimensions=comma.join(
            sql.SQL("({}, e.{})").format(d.type, column) for d, column in zip(registry.dimensions, split, strict=True)
        ),
        # A registry may have no metric of a kind; nothing is called ''.
        metrics=comma.join(metrics or [sql.SQL("(NULL::text, NULL::text, false)")]),
        members=comma.join(members or [sql.SQL("(NULL::text, NULL::text, NULL::bigint)")]),
    )
