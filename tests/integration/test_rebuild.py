"""A day recomputed from its raw events, beside everything that may happen to it meanwhile."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta

import psycopg
import pytest

from consumer.rollup.raw_stage import RebuildError
from consumer.rollup.rebuild import Rebuilder, Result
from tests.fixtures.rollup import NOON, TODAY, Day, Rollup, make_event
from tests.model import RawEvent

DAY = timedelta(days=1)
LAST_WEEK = NOON - 7 * DAY
NAMES = ("reply_time", "conversation_resolved", "conversation_bot_handoff", "first_response")


@pytest.fixture
def paris(rollup: Rollup) -> Rollup:
    """Account 42 has been in Paris for ever."""
    rollup.always_had({42: "Europe/Paris"})
    return rollup


def mixed(numbers: range, created_at: datetime = NOON) -> list[RawEvent]:
    """Events of several kinds, agents and conversations."""
    return [
        make_event(i, NAMES[i % 4], created_at, user_id=i % 3 or None, conversation_id=i % 5 or None, value=i / 7)
        for i in numbers
    ]


# -- what it does


def test_a_day_nobody_counted_is_recomputed_whole(paris: Rollup) -> None:
    events = mixed(range(40))
    paris.raw(*events, make_event(99, "conversation_opened"), make_event(100, account_id=43))
    rebuilt = paris.rebuild(TODAY)
    assert (rebuilt.result, rebuilt.events, rebuilt.invalid, rebuilt.missing) == (Result.REBUILT, 40, 0, 0)
    assert rebuilt.changed == len(paris.table())
    assert paris.table() == paris.model(*events)
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=40)


def test_a_day_without_events_is_covered_and_empty(paris: Rollup) -> None:
    assert paris.rebuild(TODAY).events == 0
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=0)
    assert paris.table() == {}


def test_a_day_outside_the_window_is_closed(paris: Rollup) -> None:
    event = make_event(1, created_at=LAST_WEEK)
    paris.raw(event)
    paris.rebuild(LAST_WEEK.date())
    assert paris.table() == paris.model(event)
    assert paris.day(LAST_WEEK.date()) == Day("Europe/Paris", closed=True, stale=False, events=1)


def test_rows_that_are_right_are_left_alone(paris: Rollup) -> None:
    rows = "SELECT xmin::text, ctid::text, updated_at, r::text FROM reporting_events_rollups AS r ORDER BY 4"
    members = "SELECT xmin::text, ctid::text, m::text FROM rollup_members AS m ORDER BY 3"
    events = mixed(range(40))
    paris.raw(*events)
    paris.count(*events)
    before = (paris.conn.execute(rows).fetchall(), paris.conn.execute(members).fetchall())
    assert before[1]
    assert paris.rebuild(TODAY).changed == 0
    assert (paris.conn.execute(rows).fetchall(), paris.conn.execute(members).fetchall()) == before


def test_only_rows_that_differ_are_written(paris: Rollup) -> None:
    events = mixed(range(40))
    paris.raw(*events)
    paris.count(*events)
    wrong = "UPDATE reporting_events_rollups SET {} WHERE dimension_type = 'agent' AND metric = 'reply_time'"
    paris.conn.execute(wrong.format("sum_value = sum_value + 0.000001"))
    paris.conn.execute("DELETE FROM reporting_events_rollups WHERE metric = 'bot_handoffs_count' AND dimension_id = 7")
    paris.conn.execute("DELETE FROM rollup_members WHERE member_id = 3")
    paris.conn.execute(
        "INSERT INTO reporting_events_rollups SELECT account_id, date, dimension_type, 999, metric, count, sum_value, 0"
        " FROM reporting_events_rollups WHERE dimension_type = 'inbox'"
    )
    expected = paris.model(*events)
    agents = sum(k.dimension_type == "agent" and k.metric == "reply_time" for k in expected)
    extra = sum(k.dimension_type == "inbox" for k in expected) - 1  # one was deleted before
    assert paris.rebuild(TODAY).changed == agents + 1 + extra
    assert paris.table() == expected
    paris.count(make_event(1000, "conversation_bot_handoff", conversation_id=3))  # a member again
    assert paris.table() == paris.model(*events, make_event(1000, "conversation_bot_handoff", conversation_id=3))


def test_after_a_rebuild_the_day_is_counted_on(paris: Rollup) -> None:
    events = mixed(range(40))
    paris.raw(*events[:20])
    paris.rebuild(TODAY)
    paris.count(*events[10:])
    assert paris.table() == paris.model(*events)
    assert paris.outcomes().duplicates == 10


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
def test_created_at_may_be_of_either_type(paris: Rollup, kind: str) -> None:
    paris.conn.execute(
        f"ALTER TABLE reporting_events ALTER COLUMN created_at TYPE {kind} USING created_at AT TIME ZONE 'UTC'"
        if kind == "timestamptz"
        else "SELECT 1"
    )
    midnight = datetime.fromisoformat("2026-03-11T00:00:00+01:00")
    events = [make_event(i, created_at=midnight + timedelta(microseconds=n)) for i, n in enumerate((-1, 0, 1))]
    paris.raw(*events)
    for zone in ("Asia/Tokyo", "UTC", "America/New_York"):  # the session's does not matter
        conn = paris.connect()
        conn.execute(f"SET TimeZone = '{zone}'")
        assert paris.rebuilder(conn).rebuild(42, TODAY, paris.now_us).events == 2
    paris.rebuild(TODAY - DAY)
    assert paris.table() == paris.model(*events)


# -- raw rows that no message could be

BAD = {"nan": math.nan, "inf": math.inf, "minus inf": -math.inf, "long": 1e9 + 1, "short": -1.5e9}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("column", ["value", "value_in_business_hours"])
@pytest.mark.parametrize("name", ["reply_time", "conversation_bot_resolved"])
def test_bad_durations_are_left_out_and_reported(paris: Rollup, name: str, column: str, value: float) -> None:
    bad, good = replace(make_event(1, name), **{column: value}), make_event(2, name)  # type: ignore[arg-type]
    paris.raw(bad, good)
    rebuilt = paris.rebuild(TODAY)
    assert (rebuilt.events, rebuilt.invalid) == (1, 1)
    assert paris.table() == paris.model(bad, good) == paris.model(good)
    assert paris.rebuild(TODAY).missing == 0


@pytest.mark.parametrize("value", [1e9, -1e9, 0.1 + 0.2, 0.5e-6, 1.5e-6, 123.4567895, 1e-300, -0.0, None])
def test_durations_round_alike_live_and_rebuilt(paris: Rollup, value: float | None) -> None:
    event = make_event(1, value=value, value_in_business_hours=value)
    paris.raw(event)
    paris.count(event)
    assert paris.table() == paris.model(event)
    assert paris.rebuild(TODAY).changed == 0


# -- what raw lacks


def test_counted_events_that_raw_lacks_stop_an_open_day(paris: Rollup) -> None:
    events = mixed(range(6))
    paris.raw(*events[:3])
    paris.count(*events[1:])
    before = paris.contents(["reporting_events_rollups", "rollup_members", "counted_events"])
    rebuilt = paris.rebuild(TODAY)
    assert (rebuilt.result, rebuilt.missing, rebuilt.changed) == (Result.MISSING, 3, 0)
    assert paris.contents(before) == before
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=True, events=5)
    paris.count(make_event(50))  # it goes on being counted live
    paris.raw(*events[3:], make_event(50))
    assert paris.rebuild(TODAY).result is Result.REBUILT
    assert paris.table() == paris.model(*events, make_event(50))
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=7)


def test_forced_raw_is_the_truth(paris: Rollup) -> None:
    events = mixed(range(6))
    paris.raw(*events[:3])
    paris.count(*events)
    assert paris.rebuild(TODAY, force=True).result is Result.REBUILT
    assert paris.table() == paris.model(*events[:3])
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=3)


def test_members_that_raw_lacks_can_come_again(paris: Rollup) -> None:
    lost, again = (make_event(i, "conversation_bot_handoff", conversation_id=1) for i in (1, 2))
    paris.count(lost)
    paris.rebuild(TODAY, force=True)
    assert paris.table() == {}
    paris.count(again)
    assert paris.table() == paris.model(again)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_closed_day_whose_raw_events_were_purged_is_kept(paris: Rollup, extra: int) -> None:
    events = mixed(range(6), LAST_WEEK)
    paris.raw(*events)
    paris.rebuild(LAST_WEEK.date())
    before = paris.table()
    paris.conn.execute("DELETE FROM reporting_events WHERE id > %s", (extra,))
    rebuilt = paris.rebuild(LAST_WEEK.date())
    assert (rebuilt.result, rebuilt.missing) == (Result.MISSING, 5 - extra)
    assert paris.table() == before
    assert paris.day(LAST_WEEK.date()) == Day("Europe/Paris", closed=True, stale=False, events=6)


# -- late events


def test_a_late_event_waits_for_its_raw_row(paris: Rollup) -> None:
    day = LAST_WEEK.date()
    known, late = make_event(1, created_at=LAST_WEEK), make_event(2, created_at=LAST_WEEK)
    paris.raw(known)
    paris.rebuild(day)
    paris.count(late, late)
    assert (paris.late(), paris.days_to_rebuild()) == ({(day, 2)}, [(42, day)])
    assert paris.rebuild(day).result is Result.LATE
    assert (paris.late(), paris.days_to_rebuild()) == ({(day, 2)}, [(42, day)])
    paris.raw(late)
    assert [rebuilt.result for rebuilt in paris.rebuild_stale()] == [Result.REBUILT]
    assert (paris.late(), paris.days_to_rebuild()) == (set(), [])
    assert paris.table() == paris.model(known, late)
    assert paris.day(day) == Day("Europe/Paris", closed=True, stale=False, events=2)


def test_a_late_event_is_done_with_wherever_it_lies_now(paris: Rollup) -> None:
    late = make_event(1, created_at=LAST_WEEK + timedelta(hours=10, minutes=30))
    paris.count(late)
    paris.raw(late)
    paris.set_timezone(42, "Asia/Tokyo")
    paris.settle()
    paris.rebuild_stale()
    assert (paris.late(), paris.days_to_rebuild()) == (set(), [])
    assert paris.table() == paris.model(late)


def test_a_late_event_whose_raw_row_is_bad_is_done_with(paris: Rollup) -> None:
    late = make_event(1, created_at=LAST_WEEK)
    paris.count(late)
    paris.raw(late)
    paris.conn.execute("UPDATE reporting_events SET value = 'NaN'")
    assert paris.rebuild(LAST_WEEK.date()).result is Result.REBUILT
    assert paris.late() == set()
    assert paris.table() == {}


# -- publishing before and after the raw commit


def test_published_before_the_raw_row_is_committed(paris: Rollup) -> None:
    event = make_event(1)
    paris.count(event)
    assert paris.rebuild(TODAY).result is Result.MISSING
    paris.raw(event)
    assert paris.rebuild(TODAY).result is Result.REBUILT
    paris.count(event)
    assert paris.table() == paris.model(event)


def test_published_after_the_raw_row_is_committed(paris: Rollup) -> None:
    event = make_event(1)
    paris.raw(event)
    paris.rebuild(TODAY)
    paris.count(event)
    assert paris.table() == paris.model(event)
    assert paris.outcomes().duplicates == 1


# -- settling


def test_a_settling_day_is_rebuilt_again_and_again(paris: Rollup) -> None:
    events = [make_event(i) for i in range(4)]
    paris.raw(*events[:2])
    paris.count(*events[:3])  # the third's raw row is on its way
    paris.set_timezone(42, "Asia/Tokyo")
    assert paris.rebuild(TODAY).result is Result.SETTLING
    assert paris.table() == paris.model(*events[:2])
    assert paris.day(TODAY) == Day("Asia/Tokyo", closed=False, stale=True, events=None)
    paris.count(events[3])
    assert paris.late() == {(TODAY, 3)}
    paris.raw(*events[2:])
    paris.settle()
    assert paris.rebuild(TODAY).result is Result.REBUILT
    paris.count(*events)
    assert paris.table() == paris.model(*events)
    assert paris.day(TODAY) == Day("Asia/Tokyo", closed=False, stale=False, events=4)


def test_after_a_change_of_time_zone_the_window_says_what_is_closed(paris: Rollup) -> None:
    paris.count(make_event(1, created_at=LAST_WEEK))
    paris.raw(make_event(1, created_at=LAST_WEEK))
    paris.set_timezone(42, "Asia/Tokyo")
    paris.settle()
    paris.rebuild_stale()
    closed = dict(paris.conn.execute("SELECT date, closed FROM rollup_days").fetchall())
    assert {day for day, shut in closed.items() if not shut} == {TODAY + n * DAY for n in range(-2, 3)}
    assert min(closed) == LAST_WEEK.date() - 2 * DAY


# -- side by side


def at_once(*actions: Callable[[], object]) -> None:
    """Run the actions in threads that start together; the first error is raised."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], object]) -> None:
        barrier.wait(20)
        action()

    with ThreadPoolExecutor(len(actions)) as pool:
        for done in [pool.submit(run, action) for action in actions]:
            done.result(60)


def test_two_rebuilds_of_one_day_at_once(paris: Rollup) -> None:
    events = mixed(range(300))
    paris.raw(*events)
    rebuilders = [paris.rebuilder() for _ in range(3)]
    for _ in range(5):
        paris.conn.execute("DELETE FROM reporting_events_rollups WHERE dimension_type = 'agent'")
        at_once(*[lambda r=r: r.rebuild(42, TODAY, paris.now_us) for r in rebuilders])
        assert paris.table() == paris.model(*events)


def test_rebuilds_of_many_open_days_at_once(rollup: Rollup) -> None:
    accounts = range(8)
    rollup.always_had(dict.fromkeys(accounts, "UTC"))
    events = [make_event(i, account_id=i % 8) for i in range(400)]
    rollup.raw(*events)
    rebuilders = [rollup.rebuilder() for _ in range(4)]
    at_once(*[lambda n=n: [rebuilders[n].rebuild(a, TODAY, rollup.now_us) for a in accounts[n::4]] for n in range(4)])
    rollup.count(*events)
    assert rollup.outcomes().duplicates == 400
    assert rollup.table() == rollup.model(*events)


def test_a_rebuild_beside_live_batches_ends_exact(paris: Rollup) -> None:
    events = mixed(range(600))
    batches = [
        paris.read(*events[start : start + 20], *events[max(0, start - 10) : start], partition=start % 3)
        for start in range(0, 600, 20)
    ]
    rebuilder, consumer, writer = paris.rebuilder(), paris.connect(), paris.connect()
    published = threading.Event()

    def produce() -> None:
        with writer.cursor() as cursor:
            for event in events:
                cursor.execute(
                    "INSERT INTO reporting_events SELECT %s, %s, %s, %s, 42, 7, %s, %s, NULL, NULL, %s, %s",
                    (event.id, event.name, event.value, 60.25, event.user_id, event.conversation_id, NOON, NOON),
                )
        published.set()

    results = []

    def rebuild() -> None:
        while not published.is_set():
            results.append(rebuilder.rebuild(42, TODAY, paris.now_us).result)

    at_once(produce, rebuild, lambda: [paris.write(batch, consumer) for batch in batches])
    assert results
    assert rebuilder.rebuild(42, TODAY, paris.now_us).missing == 0
    assert paris.table() == paris.model(*events)
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=600)
    assert paris.outcomes().messages == sum(batch.messages for batch in batches)


def test_a_rebuild_holds_up_its_own_day_only(paris: Rollup) -> None:
    tomorrow = make_event(2, created_at=NOON + DAY / 2)
    paris.raw(make_event(1))
    slow = paris.connect()
    slow.execute("BEGIN")
    slow.execute("INSERT INTO rollup_days (account_id, date, timezone) VALUES (42, %s, 'Europe/Paris')", (TODAY,))
    paris.conn.execute("SET lock_timeout = '10s'")
    paris.count(tomorrow)
    paris.conn.execute("SET lock_timeout = '200ms'")
    batch = paris.read(make_event(1))
    with pytest.raises(psycopg.errors.LockNotAvailable):
        paris.write(batch)
    slow.execute("ROLLBACK")
    paris.write(batch)
    assert paris.table() == paris.model(make_event(1), tomorrow)


# -- what it refuses


def test_an_account_without_time_zone_has_no_days(rollup: Rollup) -> None:
    for name in (None, "UTC"):
        rollup.set_timezone(42 if name is None else 43, name)
    with pytest.raises(RebuildError, match=r"account 42 has no reporting_timezone.*set one"):
        rollup.rebuild(TODAY)
    assert rollup.day(TODAY) is None


def test_without_raw_events_there_is_nothing_to_rebuild_from(rollup: Rollup) -> None:
    rollup.conn.execute("DROP TABLE reporting_events")
    with pytest.raises(RebuildError, match=r"no table reporting_events.*migrations"):
        Rebuilder(rollup.conn, rollup.registry, 3)


def test_an_error_leaves_nothing(paris: Rollup) -> None:
    paris.raw(make_event(1))
    paris.rebuild(TODAY)
    paris.raw(make_event(2))
    before = paris.contents()
    paris.conn.execute("ALTER TABLE rollup_days ADD CHECK (events < 2)")
    with pytest.raises(psycopg.errors.CheckViolation):
        paris.rebuild(TODAY)
    assert paris.contents() == before


def _purged(rollup: Rollup) -> tuple[date, Day | None]:
    """A closed day of three events, of which raw has only one by now."""
    rollup.always_had({42: "UTC"})
    old = NOON - 20 * timedelta(days=1)
    events = [make_event(number, created_at=old) for number in (1, 2, 3)]
    rollup.raw(*events)
    rollup.count(*events)
    rollup.rebuild_stale()
    rollup.conn.execute("DELETE FROM reporting_events WHERE id <= 2")
    return old.date(), rollup.day(old.date())


def test_a_closed_day_whose_raw_events_are_gone_stays_as_it_is(rollup: Rollup) -> None:
    """Its numbers are as right as they were: nothing waits for a rebuild."""
    day, before = _purged(rollup)
    assert before == Day("UTC", closed=True, stale=False, events=3)
    assert rollup.rebuild(day).result is Result.MISSING
    assert rollup.day(day) == before


def test_a_day_that_is_left_as_it_is_keeps_its_late_events(rollup: Rollup) -> None:
    day, _ = _purged(rollup)
    late = make_event(9, created_at=NOON - 20 * timedelta(days=1))
    rollup.count(late)
    rollup.raw(late)
    assert rollup.rebuild(day).result is Result.MISSING
    assert rollup.late() == {(day, 9)}
    assert rollup.day(day) == Day("UTC", closed=True, stale=True, events=3)
