"""A date of many accounts rebuilt in one transaction: the same as one account after another, and as the plain model."""

import os
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from consumer.rollup.rebuild import Rebuilder, Rebuilt, Result
from tests.fixtures.rollup import NOON, TODAY, Day, Rollup, make_event
from tests.model import RawEvent, day_of, day_start

DAY = timedelta(days=1)
ZONES = ("Pacific/Kiritimati", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu", "Pacific/Pago_Pago")
NAMES = (
    "conversation_resolved",
    "first_response",
    "reply_time",
    "conversation_bot_resolved",
    "conversation_bot_handoff",
    "conversation_opened",
)


@pytest.fixture
def chance() -> Iterator[random.Random]:
    """Numbers at random; pytest shows the seed of a test that has failed, and RANDOM_SEED gives them again."""
    seed = int(os.environ.get("RANDOM_SEED") or random.SystemRandom().randrange(2**32))
    print(f"RANDOM_SEED={seed}")  # noqa: T201
    yield random.Random(seed)


def random_events(
    chance: random.Random, count: int, accounts: int, around: datetime, spread: timedelta
) -> list[RawEvent]:
    """Events of all sorts, those that no message could be among them."""

    def duration() -> float | None:
        return chance.choice(
            [None, 0.0, -0.5e-6, 1e9, -1e9, chance.uniform(0, 1e5), chance.expovariate(1e-4), 1e9 + 0.001, float("nan")]
        )

    return [
        make_event(
            number,
            chance.choice(NAMES),
            around + spread * chance.uniform(-1, 1),
            account_id=chance.randrange(1, accounts + 1),
            value=duration() if chance.random() < 0.2 else chance.uniform(0, 1e5),
            value_in_business_hours=duration() if chance.random() < 0.2 else chance.uniform(0, 1e5),
            user_id=chance.choice([None, 1, 2, 2**31 - 1]),
            inbox_id=chance.choice([None, 0, 5]),
            conversation_id=chance.choice([None, *range(4)]),
        )
        for number in chance.sample(range(-40_000, 40_000), count)
    ]


def is_sound(event: RawEvent) -> bool:
    """Whether a message could carry it."""
    return all(d is None or -1e9 <= d <= 1e9 for d in (event.value, event.value_in_business_hours))


# -- against the model


@pytest.mark.parametrize("around", ["2026-03-29T02:00", "2025-11-02T06:00", "2026-03-11T12:00", "2011-12-30T10:00"])
def test_every_date_of_every_account_is_what_the_model_says(rollup: Rollup, chance: random.Random, around: str) -> None:
    accounts = {number: chance.choice([*ZONES, "Pacific/Apia", "Europe/London"]) for number in range(1, 13)}
    rollup.always_had(accounts)
    middle = datetime.fromisoformat(around).replace(tzinfo=UTC)
    events = random_events(chance, 500, len(accounts), middle, timedelta(hours=60))
    rollup.raw(*events)
    rebuilder = rollup.rebuilder()
    told: list[Rebuilt] = []
    for n in range(-4, 5):
        told += rebuilder.rebuild_many(list(accounts), middle.date() + n * DAY, rollup.now_us)
    assert rollup.table() == rollup.model(*events)
    known = [e for e in events if e.name != "conversation_opened"]
    assert sum(r.events + r.invalid for r in told) == len(known)
    assert sum(r.events for r in told) == sum(map(is_sound, known))
    assert {r.result for r in told} == {Result.REBUILT}


# -- against one account after another

STATES = ("reporting_events_rollups", "rollup_members", "rollup_days", "late_events", "counted_events")
OTHER_COLUMNS = ["created_at", "updated_at", "recorded_at", "shard"]
"""Of the real clock, and of the numbers that partitions are given."""


def states(rollup: Rollup) -> dict[str, list[Any]]:
    """All that must be the same."""
    every = sql.SQL("SELECT (to_jsonb(t) - %s::text[])::text FROM {} AS t ORDER BY 1")
    return {
        table: rollup.conn.execute(every.format(sql.Identifier(table)), (OTHER_COLUMNS,)).fetchall() for table in STATES
    }


def build_world(rollup: Rollup, chance: random.Random) -> tuple[list[RawEvent], list[date]]:
    """Accounts whose days are counted live, late, never seen, stale, closed, settling, lacking raw events, corrupt."""
    accounts = {number: ZONES[number % len(ZONES)] for number in range(1, 19)}
    rollup.always_had(accounts)
    middle = NOON - 3 * DAY  # no message may be of more than a day ahead
    events = [e for e in random_events(chance, 400, len(accounts), middle, timedelta(days=4)) if is_sound(e)]
    rollup.raw(*events[:330])
    read = [e for e in events if e.id % 3 or events.index(e) >= 370]
    for start in range(0, len(read), 50):
        rollup.count(*read[start : start + 50], partition=start % 4)
    conn = rollup.conn
    conn.execute("UPDATE reporting_events_rollups SET count = count + 1 WHERE account_id % 4 = 1 AND count > 1")
    conn.execute("DELETE FROM reporting_events_rollups WHERE account_id % 4 = 2 AND dimension_type = 'agent'")
    conn.execute("DELETE FROM rollup_members WHERE account_id % 4 = 3 AND member_id = 2")
    conn.execute("UPDATE rollup_days SET closed = true, events = events + 2 WHERE account_id = 5")
    rollup.set_timezone(6, "Europe/Paris")
    rollup.settle()
    rollup.set_timezone(7, "Asia/Tokyo")  # still settling
    rollup.set_timezone(8, None)
    return events, [TODAY + n * DAY for n in range(-9, 3)]


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_many_at_once_are_as_one_by_one(rollup: Rollup, force: bool, chance: random.Random) -> None:
    accounts = list(range(1, 21))  # 19 and 20 do not exist
    seed = chance.random()

    def told(rebuilder: Rebuilder, groups: list[list[int]]) -> tuple[list[Rebuilt], dict[str, list[Any]]]:
        """Rebuild a fresh world's days; what was said, and what is there then."""
        rollup.empty()
        _, dates = build_world(rollup, random.Random(seed))
        said = [
            result
            for day in dates[2::2]
            for group in groups
            for result in rebuilder.rebuild_many(group, day, rollup.now_us, force=force)
        ]
        return said, states(rollup)

    rebuilder = rollup.rebuilder()
    alone = told(rebuilder, [[account] for account in accounts])
    together = told(rebuilder, [accounts])
    assert together == alone
    shuffled = random.Random(seed).sample(accounts, len(accounts))
    said, there = told(rebuilder, [shuffled[:7], shuffled[7:]])
    assert there == alone[1]
    assert sorted(map(repr, said)) == sorted(map(repr, alone[0]))
    results = {r.result for r in alone[0]}
    assert results >= {Result.REBUILT, Result.SETTLING, Result.NO_TIMEZONE}
    assert (Result.MISSING in results) == (not force)


def test_after_a_forced_rebuild_of_all_everything_read_again_is_known(rollup: Rollup, chance: random.Random) -> None:
    events, dates = build_world(rollup, chance)
    rollup.settle()
    rebuilder = rollup.rebuilder()
    for day in dates:
        rebuilder.rebuild_many(list(range(1, 21)), day, rollup.now_us, force=True)
    in_raw = {i for (i,) in rollup.conn.execute("SELECT id FROM reporting_events")}
    here = [e for e in events if e.id in in_raw and e.account_id != 8]
    assert {k: v for k, v in rollup.table().items() if k.account_id != 8} == rollup.model(*here)
    rollup.count(*here)
    rebuilt = [r for day in dates for r in rebuilder.rebuild_many(list(range(1, 19)), day, rollup.now_us)]
    assert {r.result for r in rebuilt} == {Result.REBUILT, Result.NO_TIMEZONE}
    assert sum(r.changed for r in rebuilt) == 0


# -- one among many


@pytest.fixture
def five(rollup: Rollup) -> Rollup:
    """Accounts 1 to 5 have been in UTC for ever."""
    rollup.always_had(dict.fromkeys(range(1, 6), "UTC"))
    return rollup


def a_few(account: int, created_at: datetime = NOON) -> list[RawEvent]:
    """Three events of an account."""
    return [
        make_event(account * 10 + n, name, created_at, account_id=account)
        for n, name in enumerate(("reply_time", "conversation_bot_handoff", "conversation_resolved"))
    ]


@pytest.mark.parametrize("age", [0, 7], ids=["open", "closed"])
def test_one_account_that_lacks_raw_events_keeps_only_its_own_day(five: Rollup, age: int) -> None:
    when = NOON - age * DAY
    events = {account: a_few(account, when) for account in range(1, 6)}
    five.raw(*[e for listed in events.values() for e in listed])
    if age:
        five.rebuilder().rebuild_many([3], when.date(), five.now_us)
    else:
        five.count(*events[3], *events[4])
    before = {k: v for k, v in five.table().items() if k.account_id == 3}
    members = five.contents(["rollup_members"])["rollup_members"]
    five.conn.execute("DELETE FROM reporting_events WHERE id = 30")
    told = five.rebuilder().rebuild_many([5, 3, 1, 2, 4], when.date(), five.now_us)
    assert [(r.account_id, r.result, r.missing) for r in told] == [
        (5, Result.REBUILT, 0),
        (3, Result.MISSING, 1),
        (1, Result.REBUILT, 0),
        (2, Result.REBUILT, 0),
        (4, Result.REBUILT, 0),
    ]
    assert told[1].changed == 0
    assert five.day(when.date(), 3) == Day("UTC", closed=bool(age), stale=not age, events=3)
    whole = [e for account in (1, 2, 4, 5) for e in events[account]]
    assert five.table() == five.model(*whole) | before
    assert set(members) <= set(five.contents(["rollup_members"])["rollup_members"])
    # Forced, it follows raw; the others, which are right, are not touched.
    forced = five.rebuilder().rebuild_many([1, 2, 3, 4, 5], when.date(), five.now_us, force=True)
    assert [(r.account_id, r.changed > 0) for r in forced] == [
        (1, False),
        (2, False),
        (3, True),
        (4, False),
        (5, False),
    ]
    assert five.table() == five.model(*whole, *events[3][1:])
    assert five.day(when.date(), 3) == Day("UTC", closed=bool(age), stale=False, events=2)


def test_what_is_in_raw_of_a_day_that_is_kept_is_not_claimed(five: Rollup) -> None:
    first, lost, fresh = a_few(3)
    five.raw(first, fresh, *a_few(4))
    five.count(first, lost)
    told = five.rebuilder().rebuild_many([3, 4], TODAY, five.now_us)
    assert [r.result for r in told] == [Result.MISSING, Result.REBUILT]
    five.count(fresh, *a_few(4))
    assert five.outcomes().duplicates == 3
    assert five.table() == five.model(first, lost, fresh, *a_few(4))


def test_late_events_of_one_keep_only_its_own_day_stale(five: Rollup) -> None:
    old = NOON - 7 * DAY
    five.count(*a_few(1, old), *a_few(2, old))
    five.raw(*a_few(1, old), *a_few(2, old)[1:])
    told = five.rebuilder().rebuild_many([1, 2, 3], old.date(), five.now_us)
    assert [r.result for r in told] == [Result.REBUILT, Result.LATE, Result.REBUILT]
    assert five.late() == {(old.date(), 20)}
    assert five.days_to_rebuild() == [(2, old.date())]
    assert five.table() == five.model(*a_few(1, old), *a_few(2, old)[1:])


def test_accounts_without_a_zone_are_told_in_their_place(five: Rollup) -> None:
    five.set_timezone(2, None)
    five.raw(*a_few(1), *a_few(2))
    told = five.rebuilder().rebuild_many([99, 1, 2], TODAY, five.now_us)
    assert [(r.account_id, r.timezone, r.result) for r in told] == [
        (99, None, Result.NO_TIMEZONE),
        (1, "UTC", Result.REBUILT),
        (2, None, Result.NO_TIMEZONE),
    ]
    assert five.conn.execute("SELECT account_id FROM rollup_days WHERE rebuilt_at IS NOT NULL").fetchall() == [(1,)]
    assert five.table() == five.model(*a_few(1))


def test_nobody_is_nothing(five: Rollup) -> None:
    before = five.contents()
    assert five.rebuilder().rebuild_many([], TODAY, five.now_us) == []
    assert five.rebuilder().rebuild_many([98, 99], TODAY, five.now_us) == [
        Rebuilt(account, TODAY, None, Result.NO_TIMEZONE) for account in (98, 99)
    ]
    assert five.contents() == before


def test_each_account_has_the_bounds_and_the_window_of_its_own_zone(rollup: Rollup) -> None:
    zones = {1: "Pacific/Kiritimati", 2: "Pacific/Pago_Pago"}
    rollup.always_had(zones)
    rollup.now = datetime(2026, 3, 11, 10, 30, tzinfo=UTC)  # the 12th there, the 10th here
    hours = [datetime(2026, 3, 8, tzinfo=UTC) + n * timedelta(hours=1) for n in range(60)]
    events = [
        make_event(account * 1000 + n, created_at=hour, account_id=account)
        for account in zones
        for n, hour in enumerate(hours)
    ]
    rollup.raw(*events)
    told = rollup.rebuilder().rebuild_many([1, 2], date(2026, 3, 9), rollup.now_us)
    assert [r.events for r in told] == [24, 24]
    assert rollup.day(date(2026, 3, 9), 1) == Day("Pacific/Kiritimati", closed=True, stale=False, events=24)
    assert rollup.day(date(2026, 3, 9), 2) == Day("Pacific/Pago_Pago", closed=False, stale=False, events=24)
    assert rollup.table() == rollup.model(
        *[e for e in events if day_of(e.created_at, zones[e.account_id]) == date(2026, 3, 9)]
    )
    rollup.count(*events)
    assert rollup.outcomes().duplicates == 24  # of the open day


def test_only_days_that_left_the_window_are_audited_and_closed(rollup: Rollup) -> None:
    zones = {1: "Pacific/Kiritimati", 2: "Pacific/Pago_Pago", 3: "UTC", 4: "UTC"}
    rollup.always_had(zones)
    events = [make_event(account, account_id=account, created_at=NOON - timedelta(hours=1)) for account in (1, 2, 3)]
    rollup.raw(*events)
    rollup.count(*events)
    rollup.now = NOON + 2 * DAY  # the 14th, the 13th, and the 13th
    audited: list[tuple[int, date]] = []

    def audit(account: int, day: date) -> int:
        audited.append((account, day))
        return 7

    rebuilder = rollup.rebuilder()
    for day in (TODAY, TODAY + DAY):
        told = rebuilder.rebuild_many([4, 3, 2, 1], day, rollup.now_us, audit=audit)
        assert not any(r.closing for r in told)
    assert audited == []  # in the window still, or never seen before
    assert rollup.day(TODAY, 1) == Day("Pacific/Kiritimati", closed=True, stale=False, events=0)
    rollup.now = day_start("Pacific/Pago_Pago", TODAY + 3 * DAY) - timedelta(microseconds=1)
    told = rebuilder.rebuild_many([4, 3, 2, 1], TODAY, rollup.now_us, audit=audit)
    assert audited == [(3, TODAY), (4, TODAY)]
    assert [(r.account_id, r.closing, r.drift) for r in told] == [
        (4, True, 7),
        (3, True, 7),
        (2, False, 0),
        (1, False, 0),
    ]
    assert rollup.conn.execute(
        "SELECT account_id, drift, audited_at FROM rollup_days WHERE closed AND date = %s ORDER BY 1", (TODAY,)
    ).fetchall() == [(1, 0, None), (3, 7, rollup.now), (4, 7, rollup.now)]


def test_an_error_of_one_leaves_nothing_of_any(five: Rollup) -> None:
    five.raw(*a_few(1), *a_few(2))
    before = five.contents()
    five.conn.execute("ALTER TABLE rollup_days ADD CHECK (account_id <> 2)")
    rebuilder = five.rebuilder()
    with pytest.raises(psycopg.errors.CheckViolation):
        rebuilder.rebuild_many([1, 2], TODAY, five.now_us)
    assert five.contents() == before
    assert [r.events for r in rebuilder.rebuild_many([1], TODAY, five.now_us)] == [3]  # its stage is empty again
    assert five.table() == five.model(*a_few(1))


# -- how much it holds

MANY = 60_000
BYTES_AN_EVENT = 80
"""The 26 bytes of its row as PostgreSQL sends it, and two columns of 8 bytes, some of them held twice. An object of
Python's for every event would be hundreds."""
FLAGS = 4096 * 4096 * 2
"""The flags of as many chunks as are handled together, packed and not, however few ids they have."""


@pytest.mark.parametrize(
    ("step", "count", "most"),
    [(1, MANY, MANY * BYTES_AN_EVENT), (4096, MANY // 15, FLAGS + MANY // 15 * (BYTES_AN_EVENT + 600))],
    ids=["dense", "sparse"],  # sparse ids have a row of the bitmap each
)
def test_the_ids_of_a_large_day_are_held_in_few_bytes(rollup: Rollup, step: int, count: int, most: int) -> None:
    rollup.always_had({1: "UTC", 2: "UTC"})
    rollup.conn.execute(
        "INSERT INTO reporting_events (id, name, value, account_id, user_id, created_at, updated_at)"
        " SELECT n::bigint * %s, 'reply_time', 1.5, 1 + n %% 2, n %% 7, %s, %s FROM generate_series(1, %s) AS n",
        (step, NOON, NOON, count),
    )
    counted = [make_event(step * n, account_id=1 + n % 2, value_in_business_hours=None) for n in (1, 2)]
    rollup.count(*[replace(e, value=1.5, inbox_id=None, user_id=e.id // step % 7) for e in counted])
    rebuilder = rollup.rebuilder()
    tracemalloc.start()
    try:
        told = rebuilder.rebuild_many([1, 2], TODAY, rollup.now_us)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [r.events for r in told] == [count // 2, count // 2]
    assert held < most, f"{held:,} bytes"
    row = rollup.conn.execute("SELECT sum(bit_count(bits))::int FROM counted_events").fetchone()
    assert row == (count,)
