"""Where days begin and end, in both paths: around every sort of midnight."""

from dataclasses import replace
from datetime import date, datetime, timedelta

import pytest

from tests.fixtures.rollup import Rollup, make_event
from tests.model import RawEvent, day_bounds

MICROSECOND = timedelta(microseconds=1)
HOUR = timedelta(hours=1)

# zone, a day of it, how long that day is in hours
DAYS = [
    ("Europe/Paris", "2026-03-29", 23.0),
    ("Europe/Paris", "2026-10-25", 25.0),
    ("America/New_York", "2026-03-08", 23.0),
    ("America/New_York", "2026-11-01", 25.0),
    ("Australia/Lord_Howe", "2026-04-05", 24.5),  # half an hour back
    ("Australia/Lord_Howe", "2026-10-04", 23.5),
    ("America/Sao_Paulo", "2018-11-04", 23.0),  # begins at 01:00
    ("Africa/Cairo", "2024-04-26", 23.0),  # begins at 01:00
    ("Asia/Beirut", "2026-03-29", 23.0),  # begins at 01:00
    ("America/Havana", "2024-11-03", 25.0),  # 00:00 to 01:00 comes twice
    ("Asia/Kolkata", "2026-03-11", 24.0),
    ("Asia/Kathmandu", "2026-03-11", 24.0),
    ("Pacific/Chatham", "2026-03-11", 24.0),
    ("Pacific/Kiritimati", "2026-03-11", 24.0),
    ("Etc/GMT+12", "2026-03-11", 24.0),
    ("Pacific/Apia", "2011-12-31", 24.0),  # the day after the one that was left out
    ("UTC", "2024-02-29", 24.0),
    ("UTC", "2000-01-02", 24.0),
]


def around(start: datetime, end: datetime) -> list[RawEvent]:
    """Events just outside, at and just inside the bounds of a day, and every hour of it."""
    instants = [start - HOUR, start - MICROSECOND, start, start + MICROSECOND, end - MICROSECOND, end, end + HOUR]
    instants += [start + n * HOUR for n in range(1, int((end - start) / HOUR))]
    return [make_event(n, created_at=instant, value=n / 3) for n, instant in enumerate(instants)]


@pytest.mark.parametrize(("zone", "day", "hours"), DAYS)
def test_a_day_is_cut_alike_live_and_rebuilt(rollup: Rollup, zone: str, day: str, hours: float) -> None:
    here = date.fromisoformat(day)
    start, end = day_bounds(zone, here)
    assert end - start == hours * HOUR
    rollup.now = end - HOUR
    rollup.always_had({42: zone})
    events = around(start, end)
    rollup.count(*events)
    expected = rollup.model(*events)
    assert rollup.table() == expected
    rollup.raw(*events)
    for shift in range(-2, 2):
        rebuilt = rollup.rebuild(here + timedelta(days=shift))
        assert (rebuilt.changed, rebuilt.missing) == (0, 0)
    rollup.conn.execute("DELETE FROM reporting_events_rollups")
    for shift in range(-2, 2):
        rollup.rebuild(here + timedelta(days=shift))
    assert rollup.table() == expected


def test_the_date_that_a_zone_left_out_is_empty(rollup: Rollup) -> None:
    left_out = date(2011, 12, 30)
    start, end = day_bounds("Pacific/Apia", left_out)
    assert start == end
    rollup.now = end + HOUR
    rollup.always_had({42: "Pacific/Apia"})
    events = around(start - 2 * HOUR, end + 2 * HOUR)
    rollup.raw(*events)
    rollup.count(*events)
    assert rollup.table() == rollup.model(*events)
    assert {key.date for key in rollup.table()} == {date(2011, 12, 29), date(2011, 12, 31)}
    assert rollup.rebuild(left_out).events == 0


def test_one_instant_lies_on_different_days_of_different_accounts(rollup: Rollup) -> None:
    zones = ["Pacific/Kiritimati", "Asia/Tokyo", "Europe/Paris", "UTC", "America/New_York", "Pacific/Pago_Pago"]
    rollup.always_had(dict(enumerate(zones)))
    start = datetime.fromisoformat("2026-03-11T00:00Z")
    events = [
        replace(make_event(100 * account + hour, created_at=start + hour * HOUR / 2), account_id=account)
        for account in range(len(zones))
        for hour in range(26)
    ]
    rollup.count(*events)
    assert rollup.table() == rollup.model(*events)
    rollup.raw(*events)
    days = rollup.conn.execute("SELECT account_id, date FROM rollup_days").fetchall()
    assert {day for _, day in days} == {date(2026, 3, 10), date(2026, 3, 11), date(2026, 3, 12)}
    assert [rollup.rebuild(day, account).changed for account, day in days] == [0] * len(days)


@pytest.mark.parametrize("text", ["2026-03-11T23:30:00+02:00", "2026-03-11T21:30:00Z", "2026-03-11T16:30:00-05:00"])
def test_the_offset_of_a_message_does_not_matter(rollup: Rollup, text: str) -> None:
    rollup.always_had({42: "Asia/Tokyo"})
    rollup.now = datetime.fromisoformat("2026-03-11T22:00Z")
    event = make_event(1, created_at=datetime.fromisoformat(text))
    rollup.count(event)
    assert rollup.table() == rollup.model(event)
    assert {key.date for key in rollup.table()} == {date(2026, 3, 12)}
