"""What a change of time zone moves to another date: counted ids, and late events whose raw row comes long after."""

from datetime import UTC, date, datetime, timedelta

import pytest

from tests.fixtures.rollup import TODAY, Day, Rollup, make_event

DAY = timedelta(days=1)
EVENING = datetime(2026, 3, 11, 20, tzinfo=UTC)
"""The next day in Tokyo."""
OLD_EVENING = datetime(2026, 2, 11, 20, tzinfo=UTC)
OLD_DAY = OLD_EVENING.date()


@pytest.fixture
def moved(rollup: Rollup) -> Rollup:
    """Event 1 was counted on TODAY in UTC; in Tokyo, which the account has now, it lies on the next day."""
    rollup.always_had({42: "UTC"})
    rollup.now = EVENING + timedelta(hours=1)
    first = make_event(1, created_at=EVENING)
    rollup.raw(first)
    rollup.count(first)
    rollup.set_timezone(42, "Asia/Tokyo")
    rollup.settle()
    rollup.rebuild_stale()
    assert rollup.day(TODAY + DAY) == Day("Asia/Tokyo", closed=False, stale=False, events=1)
    return rollup


def test_an_id_is_known_while_the_day_that_it_moved_to_is_held(moved: Rollup) -> None:
    first = make_event(1, created_at=EVENING)
    moved.now += 5 * DAY
    moved.rebuild_stale()
    with moved.holder.transaction():
        moved.holder.execute("SELECT FROM rollup_days WHERE date = %s FOR UPDATE", (TODAY + DAY,))
        moved.close_days()
    moved.count(first)  # sent again
    moved.close_days()
    assert moved.table() == moved.model(first)


def test_an_id_is_known_while_the_day_that_it_moved_to_lacks_raw_events(moved: Rollup) -> None:
    first = make_event(1, created_at=EVENING)
    slow = make_event(1_000_000, created_at=EVENING + timedelta(minutes=1))
    moved.count(slow)
    moved.now += 5 * DAY
    moved.rebuild_stale()
    moved.close_days()
    moved.count(first)  # sent again
    moved.raw(slow)
    moved.close_days()
    assert moved.table() == moved.model(first, slow)
    assert moved.day(TODAY + DAY) == Day("Asia/Tokyo", closed=True, stale=False, events=2)


def _late_and_moved(rollup: Rollup) -> tuple[Rollup, date]:
    rollup.always_had({42: "UTC"})
    other, late = (make_event(n, created_at=OLD_EVENING) for n in (1, 2))
    rollup.raw(other)
    rollup.count(other)
    rollup.rebuild_stale()
    rollup.count(late)
    rollup.set_timezone(42, "Asia/Tokyo")
    rollup.settle()
    rollup.rebuild_stale()
    assert rollup.late() == {(OLD_DAY, 2)}
    assert rollup.table() == rollup.model(other)
    rollup.now += timedelta(hours=1)
    rollup.raw(late)
    return rollup, OLD_DAY + DAY


@pytest.mark.parametrize("seen", [True, False])
def test_a_late_event_is_rebuilt_on_the_day_that_it_moved_to(rollup: Rollup, seen: bool) -> None:
    """Its raw row comes when that day has been rebuilt already."""
    _, there = _late_and_moved(rollup)
    if not seen:
        rollup.conn.execute("DELETE FROM rollup_days WHERE date = %s", (there,))
    rollup.rebuild(OLD_DAY)
    assert rollup.late() == {(there, 2)}
    assert rollup.day(OLD_DAY) == Day("Asia/Tokyo", closed=True, stale=False, events=0)
    state = rollup.day(there)
    assert state is not None
    assert state.stale
    rollup.rebuild_stale()
    assert rollup.table() == rollup.model(*(make_event(n, created_at=OLD_EVENING) for n in (1, 2)))
    assert (rollup.late(), rollup.days_to_rebuild()) == (set(), [])


@pytest.mark.parametrize("force", [False, True])
def test_a_late_event_waits_while_somebody_holds_the_day_that_it_moved_to(rollup: Rollup, force: bool) -> None:
    _, there = _late_and_moved(rollup)
    with rollup.holder.transaction():
        rollup.holder.execute("SELECT FROM rollup_days WHERE date = %s FOR UPDATE", (there,))
        rollup.rebuild(OLD_DAY, force=force)
    assert rollup.late() == {(OLD_DAY, 2)}
    state = rollup.day(OLD_DAY)
    assert state is not None
    assert state.stale
    rollup.rebuild_stale()
    rollup.rebuild_stale()
    assert rollup.table() == rollup.model(*(make_event(n, created_at=OLD_EVENING) for n in (1, 2)))


def test_force_gives_up_only_what_raw_does_not_have(rollup: Rollup) -> None:
    _, there = _late_and_moved(rollup)
    rollup.count(make_event(3, created_at=OLD_EVENING - timedelta(hours=10)))
    rollup.rebuild(OLD_DAY, force=True)
    assert rollup.late() == {(there, 2)}


def test_a_late_event_with_an_impossible_instant_is_done_with(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    late = make_event(2, created_at=OLD_EVENING)
    rollup.count(late)
    rollup.raw(late)
    rollup.conn.execute("UPDATE reporting_events SET created_at = '-infinity'")
    rollup.rebuild(OLD_DAY)
    assert rollup.late() == set()


def test_whoever_makes_the_day_that_a_late_event_moved_to_is_not_waited_for(rollup: Rollup) -> None:
    """They may wait for the day that the rebuild holds: neither would ever go on."""
    _, there = _late_and_moved(rollup)
    rollup.conn.execute("DELETE FROM rollup_days WHERE date = %s", (there,))
    with rollup.holder.transaction():
        rollup.holder.execute(
            "INSERT INTO rollup_days (account_id, date, timezone) VALUES (42, %s, 'Asia/Tokyo')", (there,)
        )
        rollup.rebuild(OLD_DAY)
    assert rollup.late() == {(OLD_DAY, 2)}
    rollup.rebuild_stale()
    assert rollup.late() == set()
    assert rollup.table() == rollup.model(*(make_event(n, created_at=OLD_EVENING) for n in (1, 2)))
