"""The slow, obvious truth: the whole rollup, recomputed from raw events in plain Python.

Everything else is compared with this file, so it is written to be read and believed, not to be fast: one loop
over events, exact integers, and days found by walking along time and looking at the local clock. It shares nothing
with the product but the registry's table.

Used by property tests (product == model), by integration tests (tables == model) and by fault tests (tables ==
model after any number of crashes).
"""

import importlib.resources
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from consumer.rollup.registry import REGISTRY, Kind, Registry

LONGEST_DURATION = 1e9
"""Seconds, either way. A raw row with a longer one, with NaN or with an infinity is left out of every rollup."""


@dataclass(frozen=True)
class RawEvent:
    """One row of `reporting_events`, its columns in their order. Instants are aware; durations are in seconds.

    To try a registry with a new dimension, subclass it and add the column.
    """

    id: int
    name: str
    value: float | None
    value_in_business_hours: float | None
    account_id: int
    inbox_id: int | None
    user_id: int | None
    conversation_id: int | None
    event_start_time: datetime | None
    event_end_time: datetime | None
    created_at: datetime
    updated_at: datetime | None

    def __post_init__(self) -> None:
        if self.created_at.tzinfo is None:
            raise ValueError(f"event {self.id}: created_at has no UTC offset; the model takes aware instants only")


class Key(NamedTuple):
    """What a rollup row is about; sorts as the table's primary key does."""

    account_id: int
    date: date
    dimension_type: str
    dimension_id: int
    metric: str


class Numbers(NamedTuple):
    """What a rollup row says: its count, and its sums in whole microseconds."""

    n: int
    sum_us: int
    business_us: int


Rollup = dict[Key, Numbers]


def recompute(events: Iterable[RawEvent], timezones: Mapping[int, str | None], registry: Registry = REGISTRY) -> Rollup:
    """The rollup that `events`, each given once, must lead to.

    `timezones` is the account settings: account id -> reporting time zone, or None where there is none. Accounts
    that are missing there, events that feed no metric and rows that break `is_countable` contribute nothing. A key
    is there if and only if something feeds it.
    """
    events = list(events)
    if len({event.id for event in events}) != len(events):
        raise ValueError("an event id is given twice; the model recomputes from distinct events")

    added: dict[Key, list[Numbers]] = {}
    members: dict[Key, set[int]] = {}
    for event in events:
        timezone = timezones.get(event.account_id)
        if timezone is None or not is_countable(event):
            continue
        day = day_of(event.created_at, timezone)
        for metric in registry.metrics:
            if metric.event != event.name:
                continue
            for dimension in registry.dimensions:
                dimension_id = getattr(event, dimension.column)
                if dimension_id is None:
                    continue
                key = Key(event.account_id, day, dimension.type, dimension_id, metric.metric)
                if metric.kind is Kind.COUNT:
                    added.setdefault(key, []).append(Numbers(1, 0, 0))
                elif metric.kind is Kind.DURATION:
                    durations = (microseconds(event.value), microseconds(event.value_in_business_hours))
                    added.setdefault(key, []).append(Numbers(1, *durations))
                elif metric.member is not None and (member := getattr(event, metric.member)) is not None:
                    members.setdefault(key, set()).add(member)

    rollup = {key: Numbers(*map(sum, zip(*numbers, strict=True))) for key, numbers in added.items()}
    rollup |= {key: Numbers(len(different), 0, 0) for key, different in members.items()}
    return rollup


def microseconds(seconds: float | None) -> int:
    """A duration in whole microseconds: `seconds * 1e6` as a double, to the nearest, halves to even. Null is 0."""
    return 0 if seconds is None else round(seconds * 1e6)


def is_countable(event: RawEvent) -> bool:
    """Whether both durations are null or within ±1e9 seconds. NaN is not: it is within nothing."""
    durations = (event.value, event.value_in_business_hours)
    return all(d is None or -LONGEST_DURATION <= d <= LONGEST_DURATION for d in durations)


def from_table(rows: Iterable[tuple[Any, ...]]) -> Rollup:
    """Rows of `reporting_events_rollups` as a Rollup, to compare with `==`.

    A row is (account_id, date, dimension_type, dimension_id, metric, count, sum_value, sum_value_business_hours).
    A sum that is not a whole number of microseconds, or a key that comes twice, raises ValueError.
    """
    rollup: Rollup = {}
    for row in rows:
        key = Key(*row[:5])
        if key in rollup:
            raise ValueError(f"two rows for {key}")
        rollup[key] = Numbers(row[5], _whole_microseconds(row[6], key), _whole_microseconds(row[7], key))
    return rollup


def _whole_microseconds(seconds: Decimal, key: Key) -> int:
    numerator, denominator = seconds.as_integer_ratio()
    whole, rest = divmod(numerator * 1_000_000, denominator)
    if rest:
        raise ValueError(f"{key}: the sum {seconds} is finer than a microsecond")
    return whole


class Model:
    """What has happened so far, and the rollup it must have led to.

    A test tells it of every raw row and every message, as often and in whatever order they come, and of account
    settings. An event never changes: the same id with other columns raises ValueError.
    """

    def __init__(self, registry: Registry = REGISTRY) -> None:
        self.registry = registry
        self.timezones: dict[int, str | None] = {}
        self.raw_events: dict[int, RawEvent] = {}
        self.sent_events: dict[int, RawEvent] = {}

    def timezone(self, account_id: int, name: str | None) -> None:
        """The account's reporting time zone is `name` from now on, for its past as well."""
        self.timezones[account_id] = name

    def raw(self, event: RawEvent) -> None:
        """`event` stands in the raw table."""
        self._remember(self.raw_events, event)

    def message(self, event: RawEvent) -> None:
        """`event` was published, for the first time or again."""
        self._remember(self.sent_events, event)

    def rollup(self) -> Rollup:
        """The rollup once every message is counted and every stale day rebuilt."""
        return recompute((self.raw_events | self.sent_events).values(), self.timezones, self.registry)

    def rollup_of_raw(self) -> Rollup:
        """The rollup of the raw table alone: what a rebuild of every day gives."""
        return recompute(self.raw_events.values(), self.timezones, self.registry)

    def rollup_of_messages(self) -> Rollup:
        """The rollup of the published events alone: what live counting gives while every day is open."""
        return recompute(self.sent_events.values(), self.timezones, self.registry)

    def _remember(self, events: dict[int, RawEvent], event: RawEvent) -> None:
        for known in (self.raw_events.get(event.id), self.sent_events.get(event.id)):
            # repr, because a NaN is not equal to itself.
            if known is not None and repr(known) != repr(event):
                raise ValueError(f"event {event.id} has changed, from {known} to {event}")
        events[event.id] = event


# --- Days

FIRST_YEAR = 2000
"""Earlier clocks were off by odd minutes and seconds; `day_start` looks at quarters and minutes only."""


@cache
def zone_names() -> list[str]:
    """Every zone of the pinned tzdata package, as the package lists them."""
    return importlib.resources.files("tzdata").joinpath("zones").read_text().split()


@cache
def load_zone(name: str) -> ZoneInfo:
    """The zone from the pinned tzdata package, whatever the machine has."""
    path = importlib.resources.files("tzdata.zoneinfo").joinpath(*name.split("/"))
    with path.open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def day_of(instant: datetime, timezone: str) -> date:
    """The day that contains `instant`: the one whose bounds hold it.

    Mostly that is the date on the local clock. When clocks go back across midnight, the date goes back too for a
    while, but the new day has begun and keeps that time.
    """
    day = instant.astimezone(load_zone(timezone)).date()
    while instant >= day_start(timezone, day + timedelta(days=1)):
        day += timedelta(days=1)
    return day


def day_bounds(timezone: str, day: date) -> tuple[datetime, datetime]:
    """[start, end) of a local day, as UTC instants. A day ends where the next one starts, so days tile time."""
    return day_start(timezone, day), day_start(timezone, day + timedelta(days=1))


@lru_cache(maxsize=200_000)
def day_start(timezone: str, day: date) -> datetime:
    """The first instant at which the local clock shows `day` 00:00 or later, found by walking along UTC time.

    1. Begin when it is `day` nowhere yet (no zone is over 14 hours ahead of UTC), and go hour by hour until the
       clock shows the day.
    2. It may have shown it before: clocks have gone back by up to three hours (Antarctica/Casey). So go back five
       hours, and on quarter by quarter. A clock that goes back within minutes of midnight (America/St_Johns, until
       2011, at 00:01) is caught at midnight itself: offsets are whole quarters, so midnights are too.
    3. Clocks may skip midnight at any minute. So go back a quarter, and on minute by minute.
    """
    if day.year < FIRST_YEAR - 1:
        raise ValueError(f"the model knows days since {FIRST_YEAR} only, not {day}")
    zone = load_zone(timezone)
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - local clock time
    instant = _walk(midnight.replace(tzinfo=UTC) - timedelta(hours=16), timedelta(hours=1), midnight, zone)
    instant = _walk(instant - timedelta(hours=5), timedelta(minutes=15), midnight, zone)
    return _walk(instant - timedelta(minutes=15), timedelta(minutes=1), midnight, zone)


def _walk(instant: datetime, step: timedelta, local_time: datetime, zone: ZoneInfo) -> datetime:
    """The first of `instant`, `instant + step`, … at which the local clock shows `local_time` or later."""
    while instant.astimezone(zone).replace(tzinfo=None) < local_time:
        instant += step
    return instant
