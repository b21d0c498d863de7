"""Changes of account settings by plain SQL: what the database's triggers make of them."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import psycopg
import pytest

from consumer.rollup.rebuild import Result
from consumer.rollup.store import account_zones
from tests.fixtures.rollup import NOON, SETTLE, TODAY, Day, Rollup, make_event

DAY = timedelta(days=1)
VERSION = "SELECT settings_version FROM rollup_control"
SETTINGS_LOCK = "hashtextextended('reporting-rollup settings', 0)"


def version(rollup: Rollup) -> int:
    return int(rollup.conn.execute(VERSION).fetchall()[0][0])


def finish(rollup: Rollup) -> None:
    """Let changes settle and rebuild what is stale."""
    rollup.settle()
    rollup.rebuild_stale()
    assert not rollup.days_to_rebuild()


# -- names


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Berlin", "Did you mean Europe/Berlin?"),
        ("europe/paris", "Did you mean Europe/Paris?"),
        (" America/New York ", "Did you mean America/New_York?"),
        ("Mars/Olympus", "Names look like Europe/Paris; see table iana_timezones."),
        ("", None),
        ("+02:00", None),
        ("%", None),
    ],
)
def test_a_zone_that_is_not_iana_is_refused(rollup: Rollup, name: str, hint: str | None) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        rollup.set_timezone(42, name)
    assert raised.value.diag.message_primary == f"account 42: '{name}' is not an IANA time zone"
    assert raised.value.diag.message_hint
    assert hint in (None, raised.value.diag.message_hint)
    rollup.set_timezone(42, "UTC")
    with pytest.raises(psycopg.errors.CheckViolation):
        rollup.conn.execute("UPDATE account_settings SET reporting_timezone = %s", (name,))
    assert rollup.timezones() == {42: "UTC"}


# -- versions


def test_only_a_change_of_time_zone_raises_the_version(rollup: Rollup) -> None:
    rollup.set_timezone(42, "UTC")
    before = version(rollup)
    rollup.set_timezone(42, "UTC")
    rollup.conn.execute("UPDATE account_settings SET reporting_events_rollup = true")
    rollup.conn.execute("INSERT INTO account_settings (account_id) VALUES (43)")
    rollup.conn.execute("DELETE FROM account_settings WHERE account_id = 43")
    assert version(rollup) == before
    seen = [before]
    for name in ("Asia/Tokyo", None, "Asia/Tokyo"):
        rollup.set_timezone(42, name)
        seen.append(version(rollup))
    rollup.conn.execute("DELETE FROM account_settings")
    seen.append(version(rollup))
    assert seen == sorted(set(seen))
    assert account_zones(rollup.conn).version == seen[-1]


def test_a_rollback_changes_nothing(rollup: Rollup) -> None:
    rollup.set_timezone(42, "UTC")
    before = (version(rollup), rollup.contents())
    with rollup.conn.transaction(force_rollback=True):
        rollup.set_timezone(42, "Asia/Tokyo")
        rollup.conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert (version(rollup), rollup.contents()) == before


# -- switching on and off


def test_switched_on_today_counts_at_once_and_is_stale_until_it_settled(rollup: Rollup) -> None:
    before, after = make_event(1), make_event(2)
    rollup.raw(before, after)
    rollup.count(before)  # without a time zone
    rollup.set_timezone(42, "UTC")
    rollup.count(after)
    assert rollup.table() == rollup.model(after)
    assert rollup.day(TODAY) == Day("UTC", closed=False, stale=True, events=1)
    assert rollup.rebuild(TODAY).result is Result.SETTLING
    assert rollup.day(TODAY) == Day("UTC", closed=False, stale=True, events=2)
    assert rollup.days_to_rebuild() == []
    late_row = make_event(3)  # read before, too, and its raw row is committed only now
    rollup.raw(late_row)
    finish(rollup)
    assert rollup.table() == rollup.model(before, after, late_row)
    assert rollup.day(TODAY) == Day("UTC", closed=False, stale=False, events=3)


@pytest.mark.parametrize("age", [0, 1, 2, 3, 30])
def test_switched_on_every_day_settles_however_its_row_came(rollup: Rollup, age: int) -> None:
    early, late_row = make_event(1, created_at=NOON - age * DAY), make_event(2, created_at=NOON - age * DAY)
    rollup.count(early, late_row)  # read without a time zone
    rollup.raw(early)
    rollup.set_timezone(42, "UTC")
    assert rollup.rebuild(TODAY - age * DAY).result is Result.SETTLING
    rollup.raw(late_row)
    finish(rollup)
    assert rollup.table() == rollup.model(early, late_row)


def test_a_live_event_of_an_open_day_before_the_switch_leaves_it_stale(rollup: Rollup) -> None:
    rollup.rules = replace(rollup.rules, open_days=10)
    day = NOON - 5 * DAY  # nothing of it was known when the account was switched on
    skipped, counted = make_event(1, created_at=day), make_event(2, created_at=day)
    rollup.raw(skipped, counted)
    rollup.count(skipped)
    rollup.set_timezone(42, "UTC")
    assert rollup.day(day.date()) is None
    rollup.count(counted)
    assert rollup.day(day.date()) == Day("UTC", closed=False, stale=True, events=1)
    finish(rollup)
    assert rollup.table() == rollup.model(skipped, counted)


def test_switched_off_and_on_again_the_days_between_are_rebuilt(rollup: Rollup) -> None:
    rollup.always_had({42: "Europe/Paris"})
    events = [make_event(i, created_at=NOON + i * DAY) for i in range(3)]
    rollup.raw(*events)
    rollup.count(events[0])
    rollup.set_timezone(42, None)
    rollup.now = NOON + DAY
    written = rollup.count(events[1])
    assert written.skipped == {"no_timezone": 1}
    assert rollup.table() == {k: n for k, n in rollup.table().items() if k.date == TODAY}  # what was counted stays
    rollup.now = NOON + 2 * DAY
    rollup.set_timezone(42, "Europe/Paris")
    rollup.count(events[2])
    finish(rollup)
    assert rollup.table() == rollup.model(*events)


def test_switched_on_in_another_zone_every_day_is_recounted(rollup: Rollup) -> None:
    """Ids that are known from the old zone lie on other days now: no day may take them for events that it misses."""
    rollup.always_had({42: "UTC"})
    evening, on_its_way = make_event(1, created_at=NOON + DAY / 3), make_event(2, created_at=NOON + DAY / 3)
    tomorrow = TODAY + DAY
    rollup.raw(evening)
    rollup.count(evening)
    rollup.set_timezone(42, None)
    rollup.set_timezone(42, "Asia/Tokyo")
    assert rollup.day(tomorrow) == Day("Asia/Tokyo", closed=False, stale=True, events=None)
    rollup.settle()
    rollup.count(on_its_way)
    rollup.rebuild_stale()
    rollup.raw(on_its_way)
    finish(rollup)
    assert rollup.table() == rollup.model(evening, on_its_way)


def test_the_coverage_view_tells_what_a_day_is_worth(rollup: Rollup) -> None:
    def state() -> str:
        query = "SELECT state FROM rollup_coverage WHERE account_id = 42 AND date = %s"
        return str(rollup.conn.execute(query, (TODAY,)).fetchall()[0][0])

    rollup.always_had({42: "UTC"})
    rollup.raw(make_event(1))
    rollup.count(make_event(1))
    assert state() == "open"
    rollup.set_timezone(42, "Asia/Tokyo")
    assert state() == "settling"
    finish(rollup)
    assert state() == "open"
    rollup.conn.execute("UPDATE rollup_days SET closed = true")
    assert state() == "closed"
    rollup.count(make_event(2))
    assert state() == "stale"
    rollup.set_timezone(42, None)
    assert state() == "not covered"


# -- another time zone


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("UTC", "Asia/Tokyo"),
        ("Asia/Tokyo", "America/Los_Angeles"),
        ("Pacific/Kiritimati", "Pacific/Pago_Pago"),  # 25 hours: some local dates shift by two days
        ("Pacific/Pago_Pago", "Pacific/Kiritimati"),
        ("Etc/GMT-14", "Etc/GMT+12"),
        ("Etc/GMT+12", "Etc/GMT-14"),
    ],
)
def test_wherever_its_day_goes_an_event_stays_counted(rollup: Rollup, old: str, new: str) -> None:
    """Each account has one event, at an hour of its own."""
    hours = [-60, -49.5, -26, -25.5, -12.5, -12, -2, 0, 9.5, 10, 11.5, 23]
    rollup.always_had(dict.fromkeys(range(len(hours)), old))
    events = [
        make_event(account, created_at=NOON + timedelta(hours=hour), account_id=account)
        for account, hour in enumerate(hours)
    ]
    rollup.raw(*events)
    rollup.count(*events)
    rollup.conn.execute("UPDATE account_settings SET reporting_timezone = %s", (new,))
    finish(rollup)
    assert rollup.table() == rollup.model(*events)


def test_there_and_back_again_is_exact(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    events = [make_event(i, created_at=NOON - i * DAY / 4) for i in range(8)]
    rollup.raw(*events)
    rollup.count(*events[:4])
    with rollup.conn.transaction():
        rollup.set_timezone(42, "Asia/Tokyo")
        rollup.set_timezone(42, "UTC")
    rollup.count(*events)
    finish(rollup)
    rollup.count(*events)
    assert rollup.table() == rollup.model(*events)
    assert rollup.outcomes().counted == 4


def test_several_accounts_in_one_transaction(rollup: Rollup) -> None:
    zones = {1: "UTC", 2: "Asia/Tokyo", 3: None, 4: "America/New_York", 5: "UTC"}
    rollup.always_had({account: name for account, name in zones.items() if name})
    events = [make_event(a, account_id=a, created_at=NOON + timedelta(hours=6)) for a in zones]
    rollup.raw(*events)
    rollup.count(*events)
    before = version(rollup)
    with rollup.conn.transaction():
        rollup.conn.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Kolkata' WHERE account_id < 3")
        rollup.set_timezone(3, "Asia/Kathmandu")
        rollup.set_timezone(4, None)
        rollup.conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (6, 'UTC')")
        rollup.conn.execute("DELETE FROM account_settings WHERE account_id = 6")
        assert version(rollup) == before  # until the end
    assert version(rollup) > before
    stale = rollup.conn.execute("SELECT DISTINCT account_id FROM rollup_days WHERE stale_since IS NOT NULL").fetchall()
    assert {a for (a,) in stale} - {6} == {1, 2, 3}
    finish(rollup)
    switched_off = {k: n for k, n in rollup.table().items() if k.account_id == 4}
    assert switched_off
    assert rollup.table() == rollup.model(*events) | switched_off


def test_deleted_and_inserted_in_one_transaction(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    event = make_event(1, created_at=NOON + timedelta(hours=6))
    rollup.raw(event)
    rollup.count(event)
    with rollup.conn.transaction():
        rollup.conn.execute("DELETE FROM account_settings")
        rollup.set_timezone(42, "Asia/Tokyo")
    finish(rollup)
    assert rollup.table() == rollup.model(event)


def test_the_days_do_not_depend_on_the_sessions_time_zone(rollup: Rollup) -> None:
    # In Cairo 2024-04-26 has no midnight: instants that step by days drift past it.
    rollup.now = NOON.replace(year=2024, month=4, day=27)
    days = "INSERT INTO rollup_days (account_id, date, timezone, events, registry) VALUES (42, %s, 'UTC', 1, 'any')"
    rollup.conn.execute(days, (date(2024, 4, 24),))
    rollup.conn.execute("SET TimeZone = 'Africa/Cairo'")
    rollup.set_timezone(42, "Asia/Tokyo")
    marked = rollup.conn.execute("SELECT date FROM rollup_days WHERE stale_since IS NOT NULL ORDER BY 1").fetchall()
    assert [day for (day,) in marked] == [date(2024, 4, 22) + n * DAY for n in range(8)]


def test_a_transaction_that_could_not_see_all_days_is_refused(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    admin = rollup.connect()
    admin.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    admin.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo'")
    event = make_event(1, created_at=NOON - 30 * DAY)
    rollup.raw(event)
    rollup.count(event)
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="repeatable read") as raised:
        admin.execute("COMMIT")
    assert "READ COMMITTED" in (raised.value.diag.message_hint or "")
    assert rollup.timezones() == {42: "UTC"}


# -- locks


def waits_for_settings(rollup: Rollup) -> bool:
    """Whether some session waits for an advisory lock in this database."""
    query = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )
    return bool(rollup.conn.execute(query).fetchall()[0][0])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
        time.sleep(0.01)


def test_a_change_waits_for_transactions_that_use_the_settings(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    consumer, admin = rollup.connect(), rollup.connect()
    before = version(rollup)
    consumer.execute("BEGIN")
    consumer.execute(f"SELECT pg_advisory_xact_lock_shared({SETTINGS_LOCK})")
    change = threading.Thread(
        target=admin.execute, args=("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo'",)
    )
    change.start()
    until(lambda: waits_for_settings(rollup))
    assert version(rollup) == before
    consumer.execute("COMMIT")
    change.join(20)
    assert not change.is_alive()
    assert version(rollup) > before


def test_a_change_does_not_hold_consumers_up_before_it_commits(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    admin = rollup.connect()
    admin.execute("BEGIN")
    admin.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo'")
    rollup.conn.execute("SET statement_timeout = '5s'")
    rollup.count(make_event(1))  # counted in UTC
    assert rollup.day(TODAY) == Day("UTC", closed=False, stale=False, events=1)
    admin.execute("COMMIT")
    assert rollup.day(TODAY) == Day("UTC", closed=False, stale=True, events=None)


def test_a_batch_waits_for_a_change_that_commits_and_aggregates_again(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    rollup.count(make_event(1))
    rollup.raw(make_event(1), make_event(2))
    admin, consumer = rollup.connect(), rollup.connect()
    admin.execute("BEGIN")
    admin.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo'")
    admin.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what COMMIT does first
    batch = rollup.read(make_event(2))
    count = threading.Thread(target=rollup.write, args=(batch, consumer))
    count.start()
    until(lambda: waits_for_settings(rollup))
    admin.execute("COMMIT")
    count.join(20)
    assert not count.is_alive()
    assert rollup.late() == {(TODAY, 2)}
    finish(rollup)
    assert rollup.table() == rollup.model(make_event(1), make_event(2))


def test_a_consumer_that_waits_behind_a_change_waits_half_a_second_at_most(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    other, admin, consumer = rollup.connect(), rollup.connect(), rollup.connect()
    other.execute("BEGIN")
    other.execute(f"SELECT pg_advisory_xact_lock_shared({SETTINGS_LOCK})")  # a rebuild that takes long
    change = threading.Thread(
        target=admin.execute, args=("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo'",)
    )
    change.start()
    until(lambda: waits_for_settings(rollup))
    consumer.execute("SET statement_timeout = '10s'")  # nothing else ends the wait while `other` holds the lock
    rollup.write(rollup.read(make_event(1)), consumer)
    assert change.is_alive()
    other.execute("COMMIT")
    change.join(20)
    assert not change.is_alive()


def test_settle_seconds_are_the_databases(rollup: Rollup) -> None:
    rollup.conn.execute("UPDATE rollup_control SET settle_seconds = 3600")
    rollup.set_timezone(42, "UTC")
    rollup.now += SETTLE
    assert rollup.days_to_rebuild() == []
    assert rollup.rebuild(TODAY).result is Result.SETTLING
    rollup.now = NOON + timedelta(hours=1)
    assert rollup.rebuild(TODAY).result is Result.REBUILT


def test_changing_a_zone_again_and_again_does_not_make_ever_more_days(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    rollup.count(make_event(1, created_at=NOON - DAY))
    first = []
    for zone in ("Asia/Tokyo", "America/New_York", "UTC", "Asia/Tokyo", "UTC"):
        rollup.set_timezone(42, zone)
        rollup.settle()
        first.append(rollup.conn.execute("SELECT min(date), max(date) FROM rollup_days").fetchone())
        rollup.rebuild_stale()
    assert set(first) == {(TODAY - 3 * DAY, TODAY + 2 * DAY)}
