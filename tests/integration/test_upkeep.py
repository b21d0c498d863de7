"""What keeps rollups right by itself: which days close, and when, what audits correct, how workers share the days."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from psycopg.conninfo import make_conninfo

from backfill.due import MOST_RETRY_SECONDS, RETRY_SECONDS, days_to_close, days_to_rebuild
from backfill.metrics import WatchMetrics
from backfill.plan import ACCOUNTS_AT_ONCE
from backfill.run import Runner
from backfill.upkeep import OTHER_ZONES_SECONDS, Upkeep
from consumer.metric_catalogue import PREFIX
from consumer.rollup.rebuild import Rebuilt, Result
from consumer.settings import DatabaseSettings
from tests.fixtures.processes import wait_for
from tests.fixtures.rollup import NOON, SEARCH_PATH, TODAY, Day, Rollup, make_event
from tests.model import day_of, day_start

DAY = timedelta(days=1)
OPEN_DAYS = 3
LEFT = TODAY + OPEN_DAYS * DAY
"""The first day on which TODAY is not in the open window any more."""
ANY_TIME = timedelta(hours=36)
"""Added to noon of a date, it is a later date everywhere on earth."""
MOVED = 2 * DAY
"""How much later the date of an event can be in another time zone."""
HANDOFF = "conversation_bot_handoff"


class Worker:
    """One worker of the upkeep, as a watcher has it; its clock stands still unless the test moves it."""

    def __init__(self, rollup: Rollup, *, options: str = "", timeout: int = 20) -> None:
        self.results: list[Rebuilt] = []
        self.failures: list[tuple[tuple[int, date], str]] = []
        self.clock = 0.0
        self.stop = threading.Event()
        self.after_each: Callable[[], object] = lambda: None
        self._registry = CollectorRegistry()
        self._metrics = WatchMetrics(self._registry)
        address = make_conninfo(rollup.url, options=f"{SEARCH_PATH} {options}")
        self.runner = Runner(DatabaseSettings(database_url=address, db_statement_timeout_seconds=timeout), self.stop)
        self.upkeep = Upkeep(
            self.runner, OPEN_DAYS, self, self.stop, clock=lambda: self.clock, now_us=lambda: rollup.now_us
        )

    def rebuilt(self, result: Rebuilt) -> None:
        self.results.append(result)
        self._metrics.rebuilt(result)
        self.after_each()

    def failed(self, day: tuple[int, date], problem: str) -> None:
        self.failures.append((day, problem))
        self._metrics.failed(day, problem)

    def close(self) -> list[Rebuilt]:
        """Audit and close days; what it told of them."""
        return self._told_by(self.upkeep.close)

    def rebuild(self) -> list[Rebuilt]:
        """Rebuild stale days; what it told of them."""
        return self._told_by(self.upkeep.rebuild_stale)

    def _told_by(self, action: Callable[[], object]) -> list[Rebuilt]:
        before = len(self.results)
        action()
        return self.results[before:]

    def metric(self, name: str, **labels: str) -> float | None:
        """A metric's value, by its name without the prefix."""
        return self._registry.get_sample_value(PREFIX + name, labels)


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(rollup: Rollup) -> Iterator[StartWorker]:
    """`start_worker(timeout=1)`: a worker on a connection of its own."""
    started: list[Worker] = []

    def start(**how: Any) -> Worker:
        started.append(Worker(rollup, **how))
        return started[-1]

    yield start
    for worker in started:
        worker.runner.close()


@pytest.fixture
def worker(start_worker: StartWorker) -> Worker:
    return start_worker()


@pytest.fixture
def paris(rollup: Rollup) -> Rollup:
    """Account 42 has been in Paris for ever."""
    rollup.always_had({42: "Europe/Paris"})
    return rollup


def state(rollup: Rollup, columns: str, day: date = TODAY, account: int = 42) -> Any:
    """Columns of a row of `rollup_days`."""
    statement = f"SELECT {columns} FROM rollup_days WHERE account_id = %s AND date = %s"
    return rollup.conn.execute(statement, (account, day)).fetchone()


def chunks(rollup: Rollup) -> set[int]:
    """The chunks of which the bitmap has bits."""
    return {chunk for (chunk,) in rollup.conn.execute("SELECT chunk FROM counted_events")}


def at(when: date) -> datetime:
    """Noon in UTC."""
    return NOON + (when - TODAY)


# -- which days close, and when


def test_a_day_closes_when_it_has_left_the_window_of_its_own_zone(rollup: Rollup, worker: Worker) -> None:
    zones = {1: "Pacific/Kiritimati", 2: "Asia/Kolkata", 3: "Europe/Paris", 4: "Pacific/Pago_Pago", 5: "Etc/GMT+12"}
    rollup.always_had(zones)
    events = [make_event(account, account_id=account) for account in zones]
    rollup.raw(*events)
    rollup.count(*events)
    leaves = {account: day_start(name, day_of(NOON, name) + OPEN_DAYS * DAY) for account, name in zones.items()}
    assert len(set(leaves.values())) == len(zones)
    for account, instant in sorted(leaves.items(), key=lambda item: item[1]):
        day = day_of(NOON, zones[account])
        rollup.now = instant - timedelta(microseconds=1)
        assert worker.close() == []
        rollup.now = instant
        assert [(r.account_id, r.date, r.result, r.closing, r.drift) for r in worker.close()] == [
            (account, day, Result.REBUILT, True, 0)
        ]
        assert rollup.day(day, account) == Day(zones[account], closed=True, stale=False, events=1)
        assert state(rollup, "audited_at", day, account) == (instant,)
    assert worker.close() == []
    assert rollup.table() == rollup.model(*events)
    assert worker.metric("backfill_days_closed_total") == len(zones)


def test_more_accounts_than_go_into_one_transaction(rollup: Rollup, worker: Worker) -> None:
    accounts = range(1, 2 * ACCOUNTS_AT_ONCE + 7)
    rollup.always_had(dict.fromkeys(accounts, "UTC"))
    events = [make_event(account, account_id=account) for account in accounts]
    rollup.raw(*events)
    rollup.count(*events)
    rollup.now += ANY_TIME + OPEN_DAYS * DAY
    assert sorted(r.account_id for r in worker.close()) == list(accounts)
    transactions = rollup.conn.execute("SELECT count(DISTINCT xmin::text) FROM rollup_days WHERE closed").fetchone()
    assert transactions == (3,)


def test_raw_events_that_nobody_has_counted_yet_are_no_drift(paris: Rollup, worker: Worker) -> None:
    counted, lagging = make_event(1), make_event(2)
    paris.raw(counted, lagging)
    paris.count(counted)
    paris.now = at(LEFT)
    (closed,) = worker.close()
    assert (closed.result, closed.drift, closed.events) == (Result.REBUILT, 0, 2)
    assert state(paris, "closed, drift") == (True, 0)
    paris.count(lagging)  # the consumer arrives at last
    assert paris.late() == {(TODAY, 2)}
    assert [r.result for r in worker.rebuild()] == [Result.REBUILT]
    assert (paris.late(), paris.table()) == (set(), paris.model(counted, lagging))
    assert paris.day(TODAY) == Day("Europe/Paris", closed=True, stale=False, events=2)


def test_a_late_event_on_a_day_that_has_left_the_window_is_no_drift(paris: Rollup, worker: Worker) -> None:
    first, late = make_event(1), make_event(2)
    paris.raw(first)
    paris.count(first)
    paris.now = at(LEFT)
    paris.count(late)  # nobody closed the day yet: it is counted live
    paris.raw(late)
    (closed,) = worker.close()
    assert (closed.drift, closed.changed, closed.closing) == (0, 0, True)
    assert paris.table() == paris.model(first, late)


def test_days_that_settle_are_left_alone(paris: Rollup, worker: Worker) -> None:
    event = make_event(1)
    paris.raw(event)
    paris.count(event)
    paris.now = at(LEFT)
    paris.set_timezone(42, "Asia/Tokyo")
    assert (worker.rebuild(), worker.close()) == ([], [])
    paris.settle()
    assert {r.result for r in worker.rebuild()} == {Result.REBUILT}
    assert paris.day(TODAY) == Day("Asia/Tokyo", closed=True, stale=False, events=1)
    assert paris.table() == paris.model(event)


def test_a_day_of_another_zone_that_no_trigger_saw_is_found(paris: Rollup, worker: Worker) -> None:
    event = make_event(1, created_at=NOON + timedelta(hours=8))  # the next day in Tokyo
    paris.raw(event)
    paris.count(event)
    with paris.conn.transaction():
        paris.conn.execute("SET LOCAL session_replication_role = replica")
        paris.conn.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo'")
    assert [(r.date, r.timezone, r.events) for r in worker.rebuild()] == [(TODAY, "Asia/Tokyo", 0)]
    assert paris.table() == {}


# -- what audits correct

DRIFT = {
    "count": ("UPDATE reporting_events_rollups SET count = count + 1 WHERE {one}", 1),
    "sum": ("UPDATE reporting_events_rollups SET sum_value = sum_value + 0.000001 WHERE {one}", 1),
    "business": (
        "UPDATE reporting_events_rollups SET sum_value_business_hours = sum_value_business_hours - 0.000001"
        " WHERE {one}",
        1,
    ),
    "missing row": ("DELETE FROM reporting_events_rollups WHERE {one}", 1),
    "extra row": (
        "INSERT INTO reporting_events_rollups SELECT account_id, date, 'agent', 999, metric, count, sum_value, 0"
        " FROM reporting_events_rollups WHERE {one}",
        1,
    ),
    "two rows": (
        "UPDATE reporting_events_rollups SET count = 9 WHERE metric = 'reply_time' AND dimension_type <> 'account'",
        2,
    ),
    "wrong member": ("UPDATE rollup_members SET member_id = 77 WHERE dimension_type = 'agent'", 2),
    "missing member": ("DELETE FROM rollup_members WHERE dimension_type = 'inbox'", 1),
    "all rows": ("DELETE FROM reporting_events_rollups", 6),
}


@pytest.mark.parametrize(("corruption", "drift"), DRIFT.values(), ids=DRIFT)
def test_drift_is_corrected_and_counted(paris: Rollup, worker: Worker, corruption: str, drift: int) -> None:
    events = [make_event(1), make_event(2), make_event(3, HANDOFF)]
    paris.raw(*events)
    paris.count(*events)
    one = "metric = 'reply_time' AND dimension_type = 'account'"
    assert paris.conn.execute(corruption.format(one=one)).rowcount
    paris.now = at(LEFT)
    (closed,) = worker.close()
    assert (closed.result, closed.drift, closed.closing) == (Result.REBUILT, drift, True)
    assert state(paris, "closed, drift, stale_since, events") == (True, drift, None, 3)
    assert paris.table() == paris.model(*events)
    assert paris.contents(["rollup_members"]) == {"rollup_members": []}  # nothing is counted live any more
    assert worker.metric("backfill_drift_rows_total") == drift
    assert worker.close() == []
    assert state(paris, "drift") == (drift,)


def test_a_bit_too_many_and_an_event_miscounted_are_drift(paris: Rollup, worker: Worker) -> None:
    events = [make_event(1), make_event(2)]
    paris.raw(*events)
    paris.count(*events)
    paris.conn.execute("UPDATE rollup_days SET events = 1")  # less than has been counted
    paris.now = at(LEFT)
    (closed,) = worker.close()
    assert (closed.drift, closed.result) == (1, Result.REBUILT)
    assert state(paris, "drift, events") == (1, 2)
    assert paris.table() == paris.model(*events)


def test_a_stale_day_may_differ_and_that_is_no_drift(paris: Rollup, worker: Worker) -> None:
    events = [make_event(1), make_event(2)]
    paris.raw(*events)
    paris.count(events[0])
    paris.conn.execute("UPDATE rollup_days SET stale_since = now()")
    paris.conn.execute("DELETE FROM reporting_events_rollups")
    paris.now = at(LEFT)
    (closed,) = worker.close()
    assert (closed.drift, closed.closing) == (0, True)
    assert paris.table() == paris.model(*events)


def test_drift_of_several_audits_adds_up(paris: Rollup, worker: Worker) -> None:
    event = make_event(1)
    paris.raw(event)
    paris.count(event)
    paris.now = at(LEFT)
    for times in (1, 2):
        paris.conn.execute("UPDATE rollup_days SET closed = false")
        paris.conn.execute("UPDATE reporting_events_rollups SET count = 5 WHERE dimension_type = 'agent'")
        assert [r.drift for r in worker.close()] == [1]
        assert state(paris, "drift") == (times,)
    assert worker.metric("backfill_drift_rows_total") == 2


# -- what is not closed


def test_a_day_that_lacks_raw_events_stays_open_stale_and_counted_live(paris: Rollup, worker: Worker) -> None:
    here, lost, more = (make_event(i) for i in (1, 2, 3))
    paris.raw(here)
    paris.count(here, lost)
    before = paris.table()
    paris.now = at(LEFT)
    (kept,) = worker.close()
    assert (kept.result, kept.missing, kept.closing) == (Result.MISSING, 1, False)
    assert paris.table() == before
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=True, events=2)
    assert (worker.close(), worker.rebuild()) == ([], [])  # not before its time
    paris.count(more)
    paris.raw(lost, more)
    worker.clock += RETRY_SECONDS
    assert [r.result for r in worker.rebuild()] == [Result.REBUILT]
    assert [(r.result, r.closing, r.drift) for r in worker.close()] == [(Result.REBUILT, True, 0)]
    assert paris.table() == paris.model(here, lost, more)
    assert paris.day(TODAY) == Day("Europe/Paris", closed=True, stale=False, events=3)
    assert worker.metric("backfill_days_total", result="missing") == 1


def test_days_of_accounts_switched_off_close_as_they_are(rollup: Rollup, worker: Worker) -> None:
    rollup.always_had({42: "Europe/Paris", 43: "UTC"})
    events = [make_event(1), make_event(2, account_id=43)]
    rollup.raw(*events)
    rollup.count(*events)
    before = rollup.table()
    rollup.set_timezone(42, None)
    rollup.now = day_start("Etc/GMT+12", LEFT) - timedelta(microseconds=1)
    assert worker.upkeep.close()[0] == 0  # somewhere on earth it is still in the window
    assert [r.account_id for r in worker.results] == [43]
    rollup.now += timedelta(microseconds=1)
    assert worker.upkeep.close()[0] == 1
    assert rollup.table() == before
    assert rollup.day(TODAY) == Day("Europe/Paris", closed=True, stale=True, events=1)
    assert worker.rebuild() == []
    assert worker.upkeep.close()[0] == 0
    rollup.set_timezone(42, "Asia/Tokyo")
    rollup.settle()
    worker.rebuild()
    assert rollup.day(TODAY) == Day("Asia/Tokyo", closed=True, stale=False, events=1)
    assert rollup.table() == rollup.model(*events)


# -- the bitmap


def test_the_bitmap_loses_what_nobody_needs_and_replays_change_nothing(paris: Rollup, worker: Worker) -> None:
    old = [make_event(i) for i in (1, 2, 4096 * 5)]
    paris.raw(*old)
    paris.count(*old)
    paris.now = at(LEFT) + ANY_TIME + DAY + MOVED
    new = [make_event(i, created_at=paris.now) for i in (3, 4096 * 9)]
    paris.raw(*new)
    paris.count(*new)
    assert chunks(paris) == {0, 5, 9}
    worker.close()
    assert chunks(paris) == {0, 9}  # chunk 0 has an open day's event
    assert paris.day(TODAY) == Day("Europe/Paris", closed=True, stale=False, events=3)
    before = paris.table()
    paris.count(*old, *new)
    assert paris.late() == {(TODAY, e.id) for e in old}
    assert paris.table() == before == paris.model(*old, *new)
    assert [r.changed for r in worker.rebuild()] == [0]
    assert (paris.late(), paris.table()) == (set(), before)


def test_a_row_of_the_bitmap_stays_while_a_day_of_it_is_open(paris: Rollup, worker: Worker) -> None:
    here, lost = make_event(1), make_event(2)
    later = make_event(4096 * 5, created_at=NOON + DAY)
    paris.raw(here, later)
    paris.count(here, lost, later)
    paris.now = at(LEFT) + ANY_TIME + 2 * DAY
    assert [(r.date, r.result) for r in worker.close()] == [
        (TODAY, Result.MISSING),
        (TODAY + DAY, Result.REBUILT),
    ]
    assert chunks(paris) == {0, 5}  # an upper bound: what lies after an open day stays as well
    paris.count(here)
    assert paris.outcomes().duplicates == 1
    paris.raw(lost)
    worker.clock += RETRY_SECONDS
    paris.now += MOVED
    worker.close()
    assert chunks(paris) == set()
    assert paris.table() == paris.model(here, lost, later)


def test_bits_stay_while_a_change_of_zone_settles(paris: Rollup, worker: Worker) -> None:
    event = make_event(1)
    paris.raw(event)
    paris.count(event)
    paris.now = at(LEFT) + ANY_TIME + DAY + MOVED
    paris.set_timezone(42, "Pacific/Kiritimati")
    worker.close()
    assert chunks(paris) == {0}
    paris.settle()
    worker.rebuild()
    assert [r.closing for r in worker.close()] == []
    assert chunks(paris) == set()
    paris.count(event)
    worker.rebuild()
    assert paris.table() == paris.model(event)


# -- days that stay stale


def test_a_day_that_stays_stale_is_tried_later_and_later(paris: Rollup, worker: Worker) -> None:
    paris.count(make_event(1))  # raw never gets it
    paris.conn.execute("UPDATE rollup_days SET stale_since = now()")
    wait = RETRY_SECONDS
    assert len(worker.rebuild()) == 1
    for _ in range(9):
        worker.clock += wait - 0.001
        assert worker.rebuild() == []
        worker.clock += 0.001
        assert [r.result for r in worker.rebuild()] == [Result.MISSING]
        wait = min(2 * wait, MOST_RETRY_SECONDS)
    assert wait == MOST_RETRY_SECONDS
    paris.raw(make_event(1))
    worker.clock += wait
    assert [r.result for r in worker.rebuild()] == [Result.REBUILT]
    paris.count(make_event(2))
    paris.conn.execute("UPDATE rollup_days SET stale_since = now()")
    assert [r.result for r in worker.rebuild()] == [Result.MISSING]  # at once: its waits began anew
    worker.clock += RETRY_SECONDS
    assert len(worker.rebuild()) == 1


def test_a_sweep_tries_each_day_once_however_long_it_takes(rollup: Rollup, worker: Worker) -> None:
    accounts = range(1, 2 * ACCOUNTS_AT_ONCE)
    rollup.always_had(dict.fromkeys(accounts, "UTC"))
    rollup.count(*[make_event(account, account_id=account) for account in accounts])  # raw never gets them
    rollup.conn.execute("UPDATE rollup_days SET stale_since = now()")

    def pass_time() -> None:
        worker.clock += RETRY_SECONDS
        rollup.conn.execute("UPDATE rollup_days SET stale_since = stale_since WHERE account_id = 1")

    worker.after_each = pass_time
    for _ in range(3):
        assert sorted(r.account_id for r in worker.rebuild()) == list(accounts)
        worker.clock += MOST_RETRY_SECONDS
    rollup.now = at(LEFT)
    assert sorted(r.account_id for r in worker.close()) == list(accounts)


def test_days_that_never_failed_come_before_those_that_did(rollup: Rollup, worker: Worker) -> None:
    rollup.always_had(dict.fromkeys((1, 2, 3), "UTC"))
    rollup.count(*[make_event(account, account_id=account) for account in (1, 2)])  # raw never gets them
    rollup.conn.execute("UPDATE rollup_days SET stale_since = now()")
    assert [r.account_id for r in worker.rebuild()] == [1, 2]
    worker.clock += RETRY_SECONDS
    rollup.now += timedelta(seconds=1)
    late = make_event(3, account_id=3, created_at=NOON - 30 * DAY)
    rollup.raw(late)
    rollup.count(late)
    assert [(r.account_id, r.result) for r in worker.rebuild()] == [
        (3, Result.REBUILT),
        (1, Result.MISSING),
        (2, Result.MISSING),
    ]


def test_a_day_that_somebody_else_rebuilt_is_not_put_off_any_more(paris: Rollup, worker: Worker) -> None:
    paris.count(make_event(1))
    paris.conn.execute("UPDATE rollup_days SET stale_since = now()")
    for _ in range(5):
        assert [r.result for r in worker.rebuild()] == [Result.MISSING]
        worker.clock += MOST_RETRY_SECONDS
    worker.rebuild()
    assert worker.rebuild() == []
    paris.raw(make_event(1))
    assert paris.rebuild(TODAY).result is Result.REBUILT
    paris.now += timedelta(seconds=1)
    paris.count(make_event(2))
    paris.conn.execute("UPDATE rollup_days SET stale_since = now()")
    assert [r.result for r in worker.rebuild()] == [Result.MISSING]
    worker.clock += RETRY_SECONDS
    assert [r.result for r in worker.rebuild()] == [Result.MISSING]


def test_a_sweep_that_has_had_its_time_is_gone_on_with(rollup: Rollup, worker: Worker) -> None:
    rollup.always_had({1: "UTC"})
    rollup.conn.execute(
        "INSERT INTO rollup_days (account_id, date, timezone, stale_since)"
        " SELECT 1, date '2026-03-01' + n, 'UTC', now() FROM generate_series(0, 9) AS n"
    )
    step = RETRY_SECONDS / 10

    def pass_time() -> None:
        worker.clock += step

    worker.after_each = pass_time
    worker.upkeep.rebuild_stale(3 * step)
    behind = [worker.upkeep.behind]
    assert [r.date.day for r in worker.results] == [1, 2, 3]
    worker.upkeep.rebuild_stale(100 * step)
    behind.append(worker.upkeep.behind)
    assert behind == [True, False]
    assert [r.date.day for r in worker.results] == list(range(1, 11))


def test_days_are_listed_in_pages_each_once(rollup: Rollup) -> None:
    zones = {1: "UTC", 2: "Asia/Tokyo", 3: "UTC"}
    rollup.always_had(zones)
    rollup.conn.execute(
        "INSERT INTO rollup_days (account_id, date, timezone, stale_since)"
        " SELECT a, date '2026-03-01' + d, z, now() - d %% 2 * interval '1 hour'"
        " FROM unnest(%s::int[], %s::text[]) AS s(a, z), generate_series(0, 6) AS d",
        (list(zones), list(zones.values())),
    )

    def fetch(statement: Any, where: Any) -> Any:
        return rollup.conn.execute(statement, where).fetchall()

    wanted = [(a, date(2026, 3, 1 + d)) for d in (1, 3, 5, 0, 2, 4, 6) for a in zones]
    last = {"UTC": date(2026, 3, 5), "Asia/Tokyo": date(2026, 3, 4)}
    for page in (1, 2, 5, 100):
        assert list(days_to_rebuild(fetch, page)) == wanted
        closing = list(days_to_close(fetch, last, page))
        assert closing == [(a, date(2026, 3, d)) for d in range(1, 6) for a in zones if d < 5 or a != 2]


def test_days_that_stay_stale_do_not_hold_up_others(rollup: Rollup, worker: Worker) -> None:
    accounts = range(1, 2 * ACCOUNTS_AT_ONCE)
    rollup.always_had(dict.fromkeys(accounts, "UTC"))
    rollup.count(*[make_event(account, account_id=account) for account in accounts])
    rollup.raw(make_event(accounts[-1], account_id=accounts[-1]))
    rollup.conn.execute("UPDATE rollup_days SET stale_since = now()")
    results = worker.rebuild()
    assert sorted(r.account_id for r in results) == list(accounts)
    assert [r.account_id for r in results if r.result is Result.REBUILT] == [accounts[-1]]


def test_a_day_that_fails_does_not_stop_the_others(rollup: Rollup, worker: Worker) -> None:
    accounts = range(1, 8)
    rollup.always_had(dict.fromkeys(accounts, "UTC"))
    events = [make_event(account, account_id=account) for account in accounts]
    rollup.raw(*events)
    rollup.count(*events)
    rollup.conn.execute("DELETE FROM reporting_events_rollups WHERE dimension_type = 'inbox'")
    rollup.conn.execute("UPDATE rollup_days SET stale_since = now()")
    rollup.conn.execute("ALTER TABLE reporting_events_rollups ADD CONSTRAINT no CHECK (account_id <> 4) NOT VALID")
    results = worker.rebuild()
    assert [day for day, _ in worker.failures] == [(4, TODAY)]
    assert 'violates check constraint "no"' in worker.failures[0][1]
    assert sorted(r.account_id for r in results) == [1, 2, 3, 5, 6, 7]
    assert worker.rebuild() == []
    assert len(worker.failures) == 1
    assert worker.metric("backfill_days_total", result="failed") == 1
    rollup.conn.execute("ALTER TABLE reporting_events_rollups DROP CONSTRAINT no")
    worker.clock += RETRY_SECONDS
    assert [r.account_id for r in worker.rebuild()] == [4]
    assert rollup.table() == rollup.model(*events)


def test_it_stops_after_the_days_in_hand(rollup: Rollup, worker: Worker) -> None:
    rollup.always_had({1: "UTC"})
    rollup.conn.execute(
        "INSERT INTO rollup_days (account_id, date, timezone, stale_since)"
        " SELECT 1, date '2026-03-01' + n, 'UTC', now() FROM generate_series(0, 9) AS n"
    )
    worker.after_each = worker.stop.set
    assert len(worker.rebuild()) == 1
    assert worker.close() == []


def test_a_lost_connection_is_made_again(paris: Rollup, worker: Worker) -> None:
    event = make_event(1)
    paris.raw(event)
    paris.count(event)
    assert worker.rebuild() == []  # it is connected
    ended = paris.conn.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = 'reporting-rollup backfill' AND datname = current_database()"
    ).fetchone()
    assert ended == (1,)
    paris.now = at(LEFT)
    assert [r.closing for r in worker.close()] == [True]


# -- several workers

HELD = """
CREATE FUNCTION public.wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.account_id = ANY(%s) AND current_setting('application_name') = 'reporting-rollup backfill' THEN
        PERFORM pg_advisory_xact_lock_shared(4711);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER wait_for_test BEFORE INSERT ON reporting_events_rollups
    FOR EACH ROW EXECUTE FUNCTION public.wait_for_test()
"""
WAITING = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = %s)"
)


@contextmanager
def held_by_another(rollup: Rollup, worker: Worker, action: Callable[[], object]) -> Iterator[None]:
    """While the block runs, `action` of `worker` stands still in a transaction, in the midst of replacing rows."""
    keeper = rollup.connect()
    keeper.execute("SELECT pg_advisory_lock(4711)")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(lambda: waiting(rollup) == 1, "a worker in the midst of its work")
        yield
    finally:
        keeper.execute("SELECT pg_advisory_unlock(4711)")
        thread.join(30)
    if errors:
        raise errors[0]


def waiting(rollup: Rollup) -> int:
    """How many sessions wait for a lock."""
    row = rollup.conn.execute(WAITING, (rollup.conn.info.dbname,)).fetchone()
    return int(row[0]) if row else 0


@pytest.mark.parametrize("closing", [False, True], ids=["stale", "close"])
def test_two_workers_share_the_days_and_never_wait_for_each_other(
    rollup: Rollup, start_worker: StartWorker, closing: bool
) -> None:
    accounts = range(1, ACCOUNTS_AT_ONCE + 11)
    rollup.always_had(dict.fromkeys(accounts, "UTC"))
    events = [make_event(account, account_id=account) for account in accounts]
    rollup.raw(*events)
    rollup.count(*events)
    rollup.conn.execute("DELETE FROM reporting_events_rollups WHERE dimension_type = 'inbox'")
    if closing:
        rollup.now = at(LEFT)
    else:
        rollup.conn.execute("UPDATE rollup_days SET stale_since = now()")
    rollup.conn.execute(HELD.replace("%s", "'{1}'"))
    # A wait for a lock would be an error, and then a failure of some day.
    slow, quick = start_worker(), start_worker(options="-c lock_timeout=1s", timeout=5)

    def act(worker: Worker) -> list[Rebuilt]:
        return worker.close() if closing else worker.rebuild()

    with held_by_another(rollup, slow, lambda: act(slow)):
        done = act(quick)
        assert waiting(rollup) == 1  # the one that is held up by the test
    assert sorted(r.account_id for r in done) == list(accounts)[ACCOUNTS_AT_ONCE:]
    assert sorted(r.account_id for r in slow.results) == list(accounts)[:ACCOUNTS_AT_ONCE]
    assert slow.failures == quick.failures == []
    assert {r.drift for r in done + slow.results} == ({1} if closing else {0})
    assert rollup.table() == rollup.model(*events)


def test_many_days_by_three_workers_at_once_each_once(rollup: Rollup, start_worker: StartWorker) -> None:
    accounts, days = range(1, 31), range(12)
    rollup.always_had(dict.fromkeys(accounts, "UTC"))
    events = [
        make_event(a * 100 + d, account_id=a, created_at=NOON - (10 + d) * DAY)
        for a in accounts
        for d in days
        if a != d
    ]
    rollup.raw(*events)
    rollup.count(*events)
    assert rollup.outcomes().late == len(events)
    workers = [start_worker() for _ in range(3)]
    threads = [threading.Thread(target=w.rebuild) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    told = [(r.account_id, r.date) for w in workers for r in w.results]
    assert sorted(told) == sorted((e.account_id, e.created_at.date()) for e in events)
    assert [w.failures for w in workers] == [[], [], []]
    assert rollup.table() == rollup.model(*events)
    assert rollup.late() == set()


def test_a_day_that_a_consumer_holds_is_passed_over(rollup: Rollup, start_worker: StartWorker) -> None:
    rollup.always_had({1: "UTC", 2: "UTC"})
    events = [make_event(account, account_id=account) for account in (1, 2)]
    rollup.raw(*events)
    rollup.count(*events)
    worker = start_worker(options="-c lock_timeout=1s", timeout=5)
    holder = rollup.connect()
    for action in (worker.rebuild, worker.close):
        rollup.conn.execute("UPDATE rollup_days SET stale_since = now(), closed = false")
        with holder.transaction():
            holder.execute("SELECT FROM rollup_days WHERE account_id = 1 FOR UPDATE")
            assert [r.account_id for r in action()] == [2]
        assert [r.account_id for r in action()] == [1]
        rollup.now = at(LEFT)
    assert worker.failures == []


def test_a_day_of_another_zone_that_a_consumer_holds_is_passed_over(rollup: Rollup, start_worker: StartWorker) -> None:
    rollup.always_had({1: "UTC", 2: "UTC"})
    rollup.count(make_event(1, account_id=1), make_event(2, account_id=2))
    rollup.raw(make_event(1, account_id=1), make_event(2, account_id=2))
    with rollup.conn.transaction():
        rollup.conn.execute("SET LOCAL session_replication_role = replica")
        rollup.conn.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo'")
    worker = start_worker(options="-c lock_timeout=1s", timeout=5)
    holder = rollup.connect()
    with holder.transaction():
        holder.execute("SELECT FROM rollup_days WHERE account_id = 1 FOR UPDATE")
        assert [r.account_id for r in worker.rebuild()] == [2]
    assert worker.rebuild() == []
    worker.clock += OTHER_ZONES_SECONDS
    assert [r.account_id for r in worker.rebuild()] == [1]


def test_what_a_worker_gave_up_half_way_is_as_it_was(paris: Rollup, start_worker: StartWorker) -> None:
    event = make_event(1)
    paris.raw(event)
    paris.count(event)
    paris.conn.execute("UPDATE reporting_events_rollups SET count = 5 WHERE dimension_type = 'agent'")
    paris.now = at(LEFT)
    paris.conn.execute(HELD.replace("%s", "'{42}'"))
    before = paris.contents()
    killed = start_worker()
    with held_by_another(paris, killed, killed.close):
        killed.stop.set()  # no second attempt
        paris.conn.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
    assert (killed.results, killed.failures) == ([], [])
    assert paris.contents() == before
    (closed,) = start_worker().close()
    assert (closed.drift, closed.closing) == (1, True)
    assert paris.table() == paris.model(event)


def test_a_zone_that_this_program_does_not_know_stops_only_its_account(rollup: Rollup, worker: Worker) -> None:
    rollup.always_had({1: "UTC", 2: "UTC"})
    events = [make_event(account, account_id=account) for account in (1, 2)]
    rollup.raw(*events)
    rollup.count(*events)
    rollup.conn.execute("INSERT INTO iana_timezones VALUES ('Mars/Olympus')")  # a newer program's migration
    rollup.set_timezone(1, "Mars/Olympus")
    rollup.settle()
    rollup.conn.execute("UPDATE rollup_days SET stale_since = now()")
    results = {r.account_id: r.result for r in worker.rebuild()}
    assert results == {1: Result.UNKNOWN_TIMEZONE, 2: Result.REBUILT}
    rollup.now = at(LEFT)
    assert [r.account_id for r in worker.close()] == [2]
