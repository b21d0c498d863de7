"""What became of one event: asks the database, in the snapshot its connection is in.

Counted ids have a bit, until all days of their chunk are closed; a closed day has counted what raw held when it was
last rebuilt or audited, and raw only grows: if their numbers are equal, each raw event of the day is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from backfill.explain_day import DayRow, account_of, bounds, check_known, day_of, raw_bounds, utc, why_invalid
from backfill.letters import Letter, Unreadable, letters_naming, unreadable
from backfill.snapshot import Connection
from consumer.handlers import handler_for
from consumer.handlers.timestamps import EARLIEST_US, MAX_AHEAD_US
from consumer.rollup.bitmap import REBUILD_SHARD
from consumer.rollup.counted import CHUNK, CHUNK_BITS
from consumer.rollup.days import EPOCH, day_date, local_day
from consumer.rollup.registry import Registry
from consumer.rollup.statements import load_statements

STATEMENTS = load_statements("backfill", "explain.sql")
MICROSECOND = EPOCH.resolution


class Fate(StrEnum):
    """What became of an event; the first of these that applies."""

    COUNTED = "counted"
    WAITING = "waiting"
    """It was read for a day that is not counted live; the day's rebuild counts it once its raw row is there."""
    DEAD = "dead"
    """Its message cannot be an event."""
    NO_TIMEZONE = "skipped: no time zone"
    UNKNOWN_NAME = "skipped: unknown name"
    OUT_OF_RANGE = "out of range"
    """The created_at of its raw row lies where no message may have it, before 2000 or more than a day ahead."""
    INVALID = "left out: invalid"
    """A raw row that no message could have."""
    NOT_YET = "not counted yet"
    """Only its raw row is there."""
    NEVER_SEEN = "never seen"


@dataclass(frozen=True, slots=True)
class RawRow:
    """The event in the raw table.

    Attributes:
        created_at: None where only PostgreSQL's calendar has it.
        out_of_range: created_at as PostgreSQL writes it, if no message may have it.
        invalid: why the row is left out, if it is.
    """

    account_id: int
    name: str
    created_at: datetime | None
    out_of_range: str | None
    invalid: str | None


@dataclass(frozen=True, slots=True)
class EventDay:
    """The local day that the raw row lies on, and its row in rollup_days if there is one. `raw_events` are the valid
    ones of a closed day."""

    account_id: int
    date: date
    timezone: str
    row: DayRow | None
    raw_events: int | None


@dataclass(frozen=True, slots=True)
class Bit:
    """Who counted the event: a partition of a group, or a rebuild. No event of its chunk lies after `last_day`."""

    by: str
    last_day: date


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row of late_events."""

    account_id: int
    date: date
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class EventExplained:
    """What `--json` prints as one object; instants are ISO 8601.

    Attributes:
        event_id: the event.
        fate: in one word; see `Fate`.
        raw: its raw row; None if there is none.
        day: where it lies; None without a raw row or a time zone, or out of range.
        bits: who has set its bit in counted_events.
        late: where it waits for a rebuild.
        dead_letters: those that name it.
        unreadable_letters: dead letters that are no JSON.
    """

    event_id: int
    fate: Fate
    raw: RawRow | None
    day: EventDay | None
    bits: Sequence[Bit]
    late: Sequence[Waiting]
    dead_letters: Sequence[Letter]
    unreadable_letters: Unreadable


def explain_event(conn: Connection, registry: Registry, event_id: int, now_us: int) -> EventExplained:
    """Explain an event. Raises RollupError where there is no table of raw events."""
    key = {"event": event_id, "chunk": event_id >> CHUNK_BITS, "bit": event_id & (CHUNK - 1)}
    raw = _raw(conn, key, now_us)
    day = _day(conn, registry, raw) if raw else None
    bits = [
        Bit(_owner(shard, group, topic, partition), last_day)
        for shard, group, topic, partition, last_day in conn.execute(STATEMENTS["event_bits"], key)
    ]
    late = [Waiting(*row) for row in conn.execute(STATEMENTS["event_late"], key)]
    letters = [
        letter
        for letter in letters_naming(conn, event_id, handler_for("json", registry), now_us)
        if letter.event_id == event_id
    ]
    return EventExplained(
        event_id=event_id,
        fate=_fate(registry, raw, day, bits, late, letters),
        raw=raw,
        day=day,
        bits=bits,
        late=late,
        dead_letters=letters,
        unreadable_letters=unreadable(conn, raw.account_id if raw else None, event_id),
    )


def _fate(
    registry: Registry,
    raw: RawRow | None,
    day: EventDay | None,
    bits: Sequence[Bit],
    late: Sequence[Waiting],
    letters: Sequence[Letter],
) -> Fate:
    eligible = raw is not None and not raw.invalid and raw.name in registry.event_names
    # An event that was counted may be late or dead as well: its message came again.
    if bits or (eligible and day is not None and _has_all_of_raw(day)):
        return Fate.COUNTED
    if late or letters:
        return Fate.WAITING if late else Fate.DEAD
    if raw is None:
        return Fate.NEVER_SEEN
    if raw.out_of_range:
        return Fate.OUT_OF_RANGE
    if not eligible:
        return Fate.INVALID if raw.name in registry.event_names else Fate.UNKNOWN_NAME
    return Fate.NO_TIMEZONE if day is None else Fate.NOT_YET


def _has_all_of_raw(day: EventDay) -> bool:
    """Whether a closed day has counted every raw event that it has now; an open day has bits to tell it by."""
    row = day.row
    return row is not None and row.timezone == day.timezone and row.events is not None and row.events == day.raw_events


def _raw(conn: Connection, key: dict[str, int], now_us: int) -> RawRow | None:
    row = conn.execute(STATEMENTS["event_in_raw"], key).fetchone()
    if row is None:
        return None
    account_id, name, created_at, written, value, business = row
    created_at = created_at and utc(created_at)
    possible = created_at and EARLIEST_US <= _microseconds(created_at) <= now_us + MAX_AHEAD_US
    return RawRow(account_id, name, created_at, None if possible else written, why_invalid(value, business) or None)


def _day(conn: Connection, registry: Registry, raw: RawRow) -> EventDay | None:
    timezone = account_of(conn, raw.account_id).timezone
    if timezone is None or raw.created_at is None or raw.out_of_range:
        return None
    check_known(raw.account_id, timezone)
    number = local_day(timezone, _microseconds(raw.created_at))
    on = day_date(number)
    row = day_of(conn, raw.account_id, on)
    count = None
    if row is not None and row.closed:
        asked = {"account": raw.account_id, "names": list(registry.event_names)}
        within = raw_bounds(conn, *bounds(timezone, on))
        [(count,)] = conn.execute(STATEMENTS["valid_events_of_day"], {**asked, **within}).fetchall()
    return EventDay(raw.account_id, on, timezone, row, count)


def _microseconds(utc: datetime) -> int:
    return (utc.replace(tzinfo=None) - EPOCH) // MICROSECOND


def _owner(shard: int, group: str | None, topic: str | None, partition: int | None) -> str:
    if shard == REBUILD_SHARD:
        return "a rebuild"
    return f"{topic}[{partition}], group {group}" if topic else f"a partition that is forgotten (shard {shard})"
