"""Days of the product against the plain model, over every zone of the pinned tzdata and 41 years."""

import bisect
import importlib.resources
import math
import random
import re
import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.errors import ConfigurationError
from consumer.rollup import days
from tests import model

FIRST = date(2000, 1, 1)
LAST = date(2040, 12, 31)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_US = 3_600_000_000
HOURS_OF_ODD_DAYS = {0, 21, 22, 23, 23.5, 24.5, 25, 26, 27}
"""How long the days of 2000-2040 are where they are not 24 hours: 0 is Apia's and Fakaofo's 2011-12-30, 21 and 27 are
Antarctica/Casey's (the clock moved by three hours), 22 and 26 are those of Davis, Troll, Vostok, Chita and others."""


def number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


def us(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)


def instant(instant_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=instant_us)


def at(text: str) -> int:
    return us(datetime.fromisoformat(text))


# The named cases: each is a date, when it starts and when the next one does.
@pytest.mark.parametrize(
    ("zone", "day", "start", "end"),
    [
        # 23 and 25 hours, the clock moves in the small hours.
        ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
        ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
        ("America/New_York", "2026-03-08", "2026-03-08T05:00Z", "2026-03-09T04:00Z"),
        ("America/New_York", "2026-11-01", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
        # Zones off the full hour.
        ("Asia/Kolkata", "2026-02-11", "2026-02-10T18:30Z", "2026-02-11T18:30Z"),
        ("Asia/Kathmandu", "2026-02-11", "2026-02-10T18:15Z", "2026-02-11T18:15Z"),
        ("Pacific/Chatham", "2026-02-11", "2026-02-10T10:15Z", "2026-02-11T10:15Z"),
        ("Pacific/Kiritimati", "2026-02-11", "2026-02-10T10:00Z", "2026-02-11T10:00Z"),
        ("Etc/GMT+12", "2026-02-11", "2026-02-11T12:00Z", "2026-02-12T12:00Z"),
        # The clock moves by half an hour.
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00Z", "2026-04-05T13:30Z"),
        ("Australia/Lord_Howe", "2026-10-04", "2026-10-03T13:30Z", "2026-10-04T13:00Z"),
        ("America/Caracas", "2016-05-01", "2016-05-01T04:30Z", "2016-05-02T04:00Z"),
        # 24:00 became 23:30, and 23:30 became 24:00.
        ("Asia/Pyongyang", "2015-08-14", "2015-08-13T15:00Z", "2015-08-14T15:30Z"),
        ("Asia/Pyongyang", "2018-05-04", "2018-05-03T15:30Z", "2018-05-04T15:00Z"),
        # Midnight does not exist: 00:00 became 01:00.
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00Z", "2018-11-05T02:00Z"),
        ("Africa/Cairo", "2024-04-26", "2024-04-25T22:00Z", "2024-04-26T21:00Z"),
        ("Asia/Beirut", "2022-03-27", "2022-03-26T22:00Z", "2022-03-27T21:00Z"),
        ("America/Asuncion", "2023-10-01", "2023-10-01T04:00Z", "2023-10-02T03:00Z"),
        ("America/Havana", "2024-03-10", "2024-03-10T05:00Z", "2024-03-11T04:00Z"),
        ("Asia/Tehran", "2022-03-22", "2022-03-21T20:30Z", "2022-03-22T19:30Z"),
        ("Asia/Amman", "2022-02-25", "2022-02-24T22:00Z", "2022-02-25T21:00Z"),
        # 23:30 became 00:30: midnight was in the middle of what was left out.
        ("America/Toronto", "1919-03-31", "1919-03-31T04:30Z", "1919-04-01T04:00Z"),
        # 24:00 became 23:00: the clock never showed midnight the first time.
        ("America/Sao_Paulo", "2019-02-16", "2019-02-16T02:00Z", "2019-02-17T03:00Z"),
        ("Africa/Cairo", "2024-10-31", "2024-10-30T21:00Z", "2024-10-31T22:00Z"),
        # 23:00 became 24:00.
        ("America/Nuuk", "2024-03-30", "2024-03-30T02:00Z", "2024-03-31T01:00Z"),
        # Midnight came twice, 01:00 became 00:00: the day starts with the first.
        ("America/Havana", "2024-11-03", "2024-11-03T04:00Z", "2024-11-04T05:00Z"),
        # 00:01 became 23:01, back in yesterday's date: the day had begun, and keeps the hour.
        ("America/St_Johns", "2010-11-06", "2010-11-06T02:30Z", "2010-11-07T02:30Z"),
        ("America/St_Johns", "2010-11-07", "2010-11-07T02:30Z", "2010-11-08T03:30Z"),
        ("America/St_Johns", "2010-03-14", "2010-03-14T03:30Z", "2010-03-15T02:30Z"),
        # The clock moved by two and three hours; Casey's went from 02:00 back to 23:00.
        ("Antarctica/Troll", "2024-03-31", "2024-03-31T00:00Z", "2024-03-31T22:00Z"),
        ("Antarctica/Casey", "2009-10-18", "2009-10-17T16:00Z", "2009-10-18T13:00Z"),
        ("Antarctica/Casey", "2010-03-04", "2010-03-03T13:00Z", "2010-03-04T13:00Z"),
        ("Antarctica/Casey", "2010-03-05", "2010-03-04T13:00Z", "2010-03-05T16:00Z"),
        # West of the date line one day, east of it the next: a date was left out.
        ("Pacific/Apia", "2011-12-29", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00Z", "2011-12-30T10:00Z"),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
        ("Pacific/Fakaofo", "2011-12-30", "2011-12-30T11:00Z", "2011-12-30T11:00Z"),
        ("Pacific/Kwajalein", "1993-08-21", "1993-08-21T12:00Z", "1993-08-21T12:00Z"),
        ("UTC", "2040-12-31", "2040-12-31T00:00Z", "2041-01-01T00:00Z"),
    ],
)
def test_named_days(zone: str, day: str, start: str, end: str) -> None:
    the_day = date.fromisoformat(day)
    n = number(the_day)
    assert (days.day_start_us(zone, n), days.day_start_us(zone, n + 1)) == (at(start), at(end))
    assert [days.day_start_us(zone, day) for day in (n, n + 1)] == [at(start), at(end)]
    if the_day.year >= model.FIRST_YEAR:
        assert model.day_bounds(zone, the_day) == (instant(at(start)), instant(at(end)))
    if start != end:
        assert days.local_day(zone, at(start)) == n
        assert days.local_day(zone, at(end) - 1) == n
    assert days.local_day(zone, at(start) - 1) < n < days.local_day(zone, at(end)) + (start == end)


def test_the_repeated_hour_before_midnight_belongs_to_the_day_that_had_begun() -> None:
    half_past_eleven_again = at("2010-11-07T03:00Z")
    assert days.local_day("America/St_Johns", half_past_eleven_again) == number(date(2010, 11, 7))
    assert model.day_of(instant(half_past_eleven_again), "America/St_Johns") == date(2010, 11, 7)


def test_zone_names_are_those_of_the_pinned_package() -> None:
    assert list(days.zone_names()) == sorted(model.zone_names())
    assert all(days.validate_timezone(name) == name for name in days.zone_names())


@pytest.mark.parametrize("name", ["Europe/Pari", "europe/paris", "Paris"])
def test_a_wrong_zone_is_refused_and_the_right_one_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match="Europe/Paris"):
        days.validate_timezone(name)


def test_days_tile_time_in_every_zone() -> None:
    """Every day of every zone: starts never fall, and no day is of a length that no clock explains."""
    lengths: set[float] = set()
    for zone, year in different_years():
        first, last = number(date(year, 1, 1)), number(date(year, 12, 31))
        starts = np.array([days.day_start_us(zone, day) for day in range(first, last + 2)], np.int64)
        assert len(starts) == last + 2 - first, zone
        hours = np.diff(starts) / HOUR_US
        assert (hours >= 0).all(), f"{zone}: a day of {year} starts before the one before it"
        odd = np.flatnonzero(hours != 24)
        for i in odd.tolist():
            assert hours[i] in HOURS_OF_ODD_DAYS, f"{zone}: day {first + i} has {hours[i]} hours"
        lengths |= set(hours[odd].tolist())
    assert lengths == HOURS_OF_ODD_DAYS


def test_days_around_every_change_of_every_clock_are_the_models() -> None:
    compared = 0
    for zone, year in different_years():
        for day in changes(zone):
            if day.year == year:
                for near in (day - timedelta(days=1), day, day + timedelta(days=1)):
                    assert days.day_start_us(zone, number(near)) == us(model.day_start(zone, near)), (zone, near)
                    compared += 1
    assert compared > 5_000


def test_random_days_of_all_zones_are_the_models() -> None:
    rng = random.Random(20_260_211)
    for zone in days.zone_names():
        for _ in range(5):
            day = FIRST + timedelta(days=rng.randrange((LAST - FIRST).days))
            assert days.day_start_us(zone, number(day)) == us(model.day_start(zone, day)), (zone, day)


@st.composite
def instants(draw: st.DrawFn) -> tuple[str, int]:
    """A zone and an instant, often within a microsecond of where a day begins and near a change of the clock."""
    zone = draw(st.sampled_from(days.zone_names()))
    day = draw(st.dates(FIRST + timedelta(days=3), LAST))
    if changed := changes(zone):
        day = draw(st.one_of(st.just(day), st.sampled_from(changed)))
    start = us(model.day_start(zone, day + timedelta(days=draw(st.integers(-1, 1)))))
    return zone, start + draw(st.one_of(st.integers(-1, 1), st.integers(-28 * HOUR_US, 28 * HOUR_US)))


@settings(max_examples=100, deadline=None)
@given(st.lists(instants(), max_size=12))
def test_columns_scalars_and_the_model_agree_on_the_day_of_any_instant(found: list[tuple[str, int]]) -> None:
    expected = [number(model.day_of(instant(t), zone)) for zone, t in found]
    assert [days.local_day(zone, t) for zone, t in found] == expected
    zones = sorted({zone for zone, _ in found})
    index = np.array([zones.index(zone) for zone, _ in found], dtype=np.int16)
    column = days.local_days(index, zones, np.array([t for _, t in found], dtype=np.int64))
    assert column.dtype == np.int32
    assert column.tolist() == expected


def test_columns_of_many_zones_and_years_agree_with_scalars() -> None:
    """Enough different (zone, day) pairs to leave any dense lookup behind."""
    rng = np.random.default_rng(7)
    zones = days.zone_names()
    index = rng.integers(0, len(zones), 3_000)
    times = rng.integers(at("2000-01-03T00:00Z"), at("2040-12-30T00:00Z"), 3_000)
    column = days.local_days(index, zones, times)
    scalars = [days.local_day(zones[z], t) for z, t in zip(index.tolist(), times.tolist(), strict=True)]
    assert column.tolist() == scalars


@cache
def different_years() -> tuple[tuple[str, int], ...]:
    """(zone, year) for each different way in which clocks went in a year, FIRST to LAST: 41 years of 598 zones are
    24,518 years, but a sixth as many different ones, so that every day of every zone can be looked at in seconds."""
    known: dict[object, tuple[str, int]] = {}
    for name in model.zone_names():
        offset_changes, rule = _clock(name)
        instants = [t for t, _ in offset_changes]
        for year in range(FIRST.year, LAST.year + 1):
            # A fortnight more at both ends: a day's start looks no further.
            low = bisect.bisect_right(instants, at(f"{year - 1}-12-18T00:00Z") // 1_000_000) - 1
            high = bisect.bisect_left(instants, at(f"{year + 1}-01-15T00:00Z") // 1_000_000)
            past_the_list = high == len(instants)
            way = (offset_changes[low][1], tuple(offset_changes[low + 1 : high]), rule if past_the_list else b"")
            known.setdefault((way, year), (name, year))
    return tuple(known.values())


def _clock(name: str) -> tuple[list[tuple[float, int]], bytes]:
    """What RFC 9636's version 2 data of a zone says: (instant in seconds, offset from then on) for each
    change that is listed, and the rule that holds after the last of them."""
    data = importlib.resources.files("tzdata.zoneinfo").joinpath(*name.split("/")).read_bytes()

    def block(at: int, time_size: int) -> tuple[int, int, int]:
        isut, isstd, leap, times, types, chars = struct.unpack(">6l", data[at + 20 : at + 44])
        end = at + 44 + times * (time_size + 1) + types * 6 + chars + leap * (time_size + 4) + isstd + isut
        return times, types, end

    start = block(0, 4)[2]
    times, types, end = block(start, 8)
    position = start + 44
    instants = struct.unpack_from(f">{times}q", data, position)
    kinds = data[position + 8 * times : position + 9 * times]
    offsets = [offset for offset, _ in struct.iter_unpack(">l2s", data[position + 9 * times :][: 6 * types])]
    rule = re.sub(rb"<[^>]+>|[A-Za-z]{3,}", b"", data[end:])  # without the abbreviations, which move no clock
    return [(-math.inf, offsets[0]), *((t, offsets[k]) for t, k in zip(instants, kinds, strict=True))], rule


@cache
def changes(zone: str) -> tuple[date, ...]:
    """The UTC dates, FIRST to LAST, on which the zone's UTC offset changed: looked for week by week (no offset has
    come and gone within a week), then day by day."""

    def offset(day: datetime) -> timedelta | None:
        return day.astimezone(model.load_zone(zone)).utcoffset()

    def walk() -> Iterator[date]:
        monday = datetime(2000, 1, 3, tzinfo=UTC)
        while monday.date() <= LAST:
            week = [monday + timedelta(days=d) for d in range(8)]
            if offset(week[0]) != offset(week[7]):
                yield from (a.date() for a, b in pairwise(week) if offset(a) != offset(b))
            monday = week[7]

    return tuple(walk())
