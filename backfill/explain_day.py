"""What is behind the numbers of one day of an account: asks the database, in the snapshot its connection is in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from backfill.explain_rows import Compared, compare_rows
from backfill.letters import Letter, Unreadable, letters_naming, unreadable
from backfill.snapshot import Connection
from consumer.errors import RollupError
from consumer.handlers import handler_for
from consumer.rollup.days import day_number, day_start_us, instant, is_known, tzdata_version
from consumer.rollup.registry import Registry
from consumer.rollup.statements import load_statements
from consumer.tables import harmless

STATEMENTS = load_statements("backfill", "explain.sql")
FEW = 20
"""How many ids, late events or invalid rows are shown; all of them are counted."""
SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Account:
    """What account_settings says; `timezone` None: it has no rollup."""

    account_id: int
    timezone: str | None
    flag: bool
    rollup_since: datetime | None


@dataclass(frozen=True, slots=True)
class DayRow:
    """A row of rollup_days, with the state that `rollup_coverage` gives it. `registry`: a fingerprint."""

    state: str
    as_of: datetime
    timezone: str
    closed: bool
    events: int | None
    stale_since: datetime | None
    settles_at: datetime | None
    rebuilt_at: datetime | None
    audited_at: datetime | None
    drift: int
    registry: str | None


@dataclass(frozen=True, slots=True)
class RawName:
    """The day's raw events of one name. `known`: the registry has it; others are skipped."""

    name: str
    known: bool
    events: int
    invalid: int
    first: datetime
    last: datetime
    sample_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A raw event that is left out, and why."""

    event_id: int
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class LateEvent:
    """An event that waits for a rebuild; `in_raw`: one would find it."""

    event_id: int
    recorded_at: datetime
    in_raw: bool


@dataclass(frozen=True, slots=True)
class DayExplained:
    """What `--json` prints as one object; sums are strings of seconds, instants ISO 8601.

    Attributes:
        timezone: the zone that bounds and raw events are told in: the account's, else the one the day was cut in.
        start, end: [start, end) of the day; None without a zone.
        hours: between them.
        day: None if no event of the day was ever read and it was never rebuilt.
        registry: the fingerprint of the registry in use.
        late_events, invalid, dead_letters: the first few; `late`, `invalid_count` and `dead` are all. Dead letters are
            those that name the account and the day, or the account and no time that can be read.
        same: whether all compared rows agree; None without a zone.
    """

    account: Account
    date: date
    timezone: str | None
    start: datetime | None
    end: datetime | None
    hours: float | None
    day: DayRow | None
    registry: str
    raw: Sequence[RawName]
    invalid_count: int
    invalid: Sequence[InvalidRow]
    late: int
    late_events: Sequence[LateEvent]
    dead: int
    dead_letters: Sequence[Letter]
    unreadable_letters: Unreadable
    rows: Sequence[Compared]
    same: bool | None


def explain_day(
    conn: Connection, registry: Registry, account_id: int, day: date, metric: str | None, now_us: int
) -> DayExplained:
    """Explain a day, or only one metric of it. Raises RollupError where there is no table of raw events."""
    key: dict[str, Any] = {"account": account_id, "date": day}
    account = account_of(conn, account_id)
    row = day_of(conn, account_id, day)
    timezone = account.timezone or (row.timezone if row else None)
    names = [m.event for m in registry.metrics if metric in (None, m.metric)]
    raw: list[RawName] = []
    invalid: list[InvalidRow] = []
    rows: list[Compared] = []
    start = end = None
    if timezone:
        check_known(account_id, timezone)
        start, end = bounds(timezone, day)
        within = {**key, **raw_bounds(conn, start, end), "names": names}
        found = conn.execute(STATEMENTS["raw_by_name"], {**within, "few": SAMPLES})
        raw = [
            RawName(name, name in registry.event_names, count, bad, utc(first), utc(last), ids)
            for name, count, bad, first, last, ids in found
            if metric is None or name in names
        ]
        asked = {**within, "few": FEW}
        invalid = [
            InvalidRow(event_id, name, why_invalid(value, business))
            for event_id, name, value, business in conn.execute(STATEMENTS["invalid_rows"], asked)
        ]
        rows = compare_rows(conn, registry, within, metric)
    late = conn.execute(STATEMENTS["late_events"], {**key, "few": FEW}).fetchall()
    touching = [
        letter
        for letter in letters_naming(conn, account_id, handler_for("json", registry), now_us)
        if letter.account_id == account_id
        and (letter.created_at is None or (start and end and start <= letter.created_at < end))
    ]
    return DayExplained(
        account=account,
        date=day,
        timezone=timezone,
        start=start,
        end=end,
        hours=(end - start).total_seconds() / 3600 if start and end else None,
        day=row,
        registry=registry.fingerprint,
        raw=raw,
        invalid_count=sum(each.invalid for each in raw if each.known),
        invalid=invalid,
        late=late[0][-1] if late else 0,
        late_events=[LateEvent(*columns) for *columns, _ in late],
        dead=len(touching),
        dead_letters=touching[:FEW],
        unreadable_letters=unreadable(conn, account_id, account_id),
        rows=rows,
        same=all(each.same for each in rows) if timezone else None,
    )


def account_of(conn: Connection, account_id: int) -> Account:
    """An account's settings; one without a row has no time zone."""
    row = conn.execute(STATEMENTS["account"], {"account": account_id}).fetchone()
    return Account(account_id, *row) if row else Account(account_id, None, False, None)


def check_known(account_id: int, timezone: str) -> None:
    """Raises RollupError if this program's tzdata, older than the schema's, does not know an account's time zone."""
    if not is_known(timezone):
        raise RollupError(
            f"account {account_id} is in {harmless(timezone)}, which this program's tzdata ({tzdata_version()}) does "
            "not know, so its days have no bounds here: deploy the release that the schema came with"
        )


def day_of(conn: Connection, account_id: int, day: date) -> DayRow | None:
    """A day's row; None if there is none."""
    row = conn.execute(STATEMENTS["day"], {"account": account_id, "date": day}).fetchone()
    return DayRow(*row) if row else None


def bounds(timezone: str, day: date) -> tuple[datetime, datetime]:
    """[start, end) of a local day, in UTC."""
    number = day_number(day)
    return instant(day_start_us(timezone, number)), instant(day_start_us(timezone, number + 1))


def raw_bounds(conn: Connection, start: datetime, end: datetime) -> dict[str, datetime]:
    """The bounds as the raw events' created_at has them. Raises RollupError if there is no such table."""
    row = conn.execute(STATEMENTS["raw_time_type"]).fetchone()
    if row is None:
        raise RollupError("there is no table reporting_events to look into: apply the migrations")
    if row[0] == "timestamp with time zone":
        return {"start": start, "end": end}
    return {"start": start.replace(tzinfo=None), "end": end.replace(tzinfo=None)}


def utc(created_at: datetime) -> datetime:
    """A raw event's created_at, which is UTC if it says nothing."""
    return created_at.replace(tzinfo=UTC) if created_at.tzinfo is None else created_at.astimezone(UTC)


def why_invalid(value: float | None, business: float | None) -> str:
    """Why a raw event is left out; nothing if it is not."""
    columns = {"value": value, "value_in_business_hours": business}
    wrong = {name: number for name, number in columns.items() if number is not None and not abs(number) <= 1e9}
    return ", ".join(f"{name} is {number:g}, not within ±1e9 s" for name, number in wrong.items())
