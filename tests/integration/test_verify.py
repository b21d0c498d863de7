"""Verify finds every way in which a day can differ from its raw events, and nothing else."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from backfill.verdict import Difference, Numbers, State, Verdict, Verified
from backfill.verify import MOST_DIFFERENCES, Verifier, VerifyError, unsettled_dates, verify_day, verify_days
from consumer.rollup.registry import REGISTRY, Dimension, Kind, Metric, Registry
from tests.fixtures.rollup import NOON, TODAY, Rollup, make_event
from tests.model import RawEvent, day_of, recompute
from tests.property.test_schedules import EXAMPLES, Action, Schedule, actions, zones

DAY = timedelta(days=1)
LAST_WEEK = TODAY - 7 * DAY
NAMES = REGISTRY.event_names
HANDOFF = NAMES.index("conversation_bot_handoff")


def look(rollup: Rollup, day: date = TODAY, account_id: int = 42) -> Verified:
    """One look, by a verifier of its own."""
    return Verifier(rollup.conn, rollup.registry, rollup.open_days).look(account_id, day, rollup.now_us)


def mixed(numbers: range, created_at: datetime = NOON) -> list[RawEvent]:
    """Events of every kind, several agents and conversations, and some nulls."""
    return [
        make_event(
            i, NAMES[i % len(NAMES)], created_at, user_id=i % 3 or None, conversation_id=i % 4 or None, value=i / 7
        )
        for i in numbers
    ]


@pytest.fixture(params=["open", "closed"])
def exact(request: pytest.FixtureRequest, rollup: Rollup) -> tuple[Rollup, date]:
    """A rollup of 60 events of one day, exact, and the day: counted live and open, or rebuilt and closed."""
    return _exact(rollup, request.param)


@pytest.fixture
def exact_open(rollup: Rollup) -> tuple[Rollup, date]:
    """The one of `exact` that is counted live and open: only such a day has members."""
    return _exact(rollup, "open")


def _exact(rollup: Rollup, state: str) -> tuple[Rollup, date]:
    rollup.always_had({42: "Asia/Kathmandu"})
    if state == "open":
        events = mixed(range(60))
        rollup.raw(*events)
        rollup.count(*events)
        day = TODAY
    else:
        rollup.raw(*mixed(range(60), NOON - 7 * DAY))
        rollup.rebuild(LAST_WEEK)
        day = LAST_WEEK
    found = look(rollup, day)
    assert (found.state, found.verdict, found.counted, found.raw) == (state, Verdict.EXACT, 60, 60)
    assert (found.differing, found.differences, found.timezone) == (0, (), "Asia/Kathmandu")
    return rollup, day


# -- every kind of corruption, on open and on closed days, and its repair

ROW = "account_id = 42 AND dimension_type = 'account' AND metric = 'reply_time'"
CORRUPTIONS = {
    "count one more": f"UPDATE reporting_events_rollups SET count = count + 1 WHERE {ROW}",
    "count one less": f"UPDATE reporting_events_rollups SET count = count - 1 WHERE {ROW}",
    "sum a microsecond more": f"UPDATE reporting_events_rollups SET sum_value = sum_value + 0.000001 WHERE {ROW}",
    "sum a microsecond less": f"UPDATE reporting_events_rollups SET sum_value = sum_value - 0.000001 WHERE {ROW}",
    "sum finer than a microsecond": f"UPDATE reporting_events_rollups SET sum_value = sum_value + 1e-9 WHERE {ROW}",
    "sum not a number": f"UPDATE reporting_events_rollups SET sum_value = 'NaN' WHERE {ROW}",
    "business hours": "UPDATE reporting_events_rollups SET sum_value_business_hours = sum_value_business_hours + 1e-6"
    " WHERE dimension_type = 'inbox' AND metric = 'resolution_time'",
    "a sum of a count": "UPDATE reporting_events_rollups SET sum_value = 1"
    " WHERE dimension_type = 'account' AND metric = 'bot_handoffs_count'",
    "row missing": f"DELETE FROM reporting_events_rollups WHERE {ROW}",
    "row of another agent": "UPDATE reporting_events_rollups SET dimension_id = 77 WHERE dimension_type = 'agent'"
    " AND dimension_id = 1 AND metric = 'reply_time'",
    "row extra": "INSERT INTO reporting_events_rollups SELECT account_id, date, 'agent', 999, 'reply_time', 1, 2.5, 0"
    " FROM rollup_days",
    "row of nothing": "INSERT INTO reporting_events_rollups SELECT account_id, date, 'inbox', 7, 'happiness', 0, 0, 0"
    " FROM rollup_days",
    "events too few": "UPDATE rollup_days SET events = events - 1",
}
MEMBER_CORRUPTIONS = {
    "member wrong": "UPDATE rollup_members SET member_id = 55 WHERE member_id = 1 AND dimension_type = 'account'",
    "member missing": "DELETE FROM rollup_members WHERE member_id = 1 AND dimension_type = 'account'",
    "member extra": "INSERT INTO rollup_members SELECT account_id, date, 'account', 42, 'bot_handoffs_count', 55"
    " FROM rollup_days",
}


@pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_every_corruption_is_found_and_a_rebuild_repairs_it(exact: tuple[Rollup, date], corruption: str) -> None:
    rollup, day = exact
    truth = rollup.table()
    assert rollup.conn.execute(corruption).rowcount == 1
    found = look(rollup, day)
    too_few = "events - 1" in corruption
    uncounted = too_few and found.state is State.CLOSED
    assert found.verdict is (Verdict.UNCOUNTED if uncounted else Verdict.DRIFT)
    assert found.wrong
    assert found.repairable
    assert found.may_pass == uncounted
    assert found.differing == len(found.differences)
    assert (found.differing > 0) != too_few
    rollup.rebuild(day)
    repaired = look(rollup, day)
    assert (repaired.verdict, repaired.differing, repaired.counted) == (Verdict.EXACT, 0, 60)
    assert rollup.table() == truth


@pytest.mark.parametrize("corruption", MEMBER_CORRUPTIONS.values(), ids=MEMBER_CORRUPTIONS)
def test_wrong_members_of_an_open_day_are_found_and_repaired(exact_open: tuple[Rollup, date], corruption: str) -> None:
    test_every_corruption_is_found_and_a_rebuild_repairs_it(exact_open, corruption)


def test_a_closed_day_needs_no_members(paris: Rollup) -> None:
    """Older releases kept them: they are no drift, and go with the next rebuild."""
    paris.raw(*mixed(range(60), NOON - 7 * DAY))
    paris.rebuild(LAST_WEEK)
    assert paris.contents(["rollup_members"])["rollup_members"] == []
    paris.conn.execute(MEMBER_CORRUPTIONS["member extra"])
    assert look(paris, LAST_WEEK).verdict is Verdict.EXACT
    paris.rebuild(LAST_WEEK)
    assert paris.contents(["rollup_members"])["rollup_members"] == []


def test_it_says_what_was_expected_and_what_was_found(exact: tuple[Rollup, date]) -> None:
    rollup, day = exact
    rollup.conn.execute(CORRUPTIONS["sum a microsecond more"])
    (found,) = look(rollup, day).differences
    expected = found.expected
    assert expected is not None
    more = Numbers(expected.count, expected.sum_value + Decimal("0.000001"), expected.sum_value_business_hours)
    assert found == Difference("account", 42, "reply_time", None, expected, more)
    assert expected.count == 12
    assert isinstance(expected.count, int)


def test_it_tells_rows_missing_and_extra_and_members(exact_open: tuple[Rollup, date]) -> None:
    rollup, day = exact_open
    for corruption in (CORRUPTIONS["row missing"], CORRUPTIONS["row extra"], MEMBER_CORRUPTIONS["member wrong"]):
        rollup.conn.execute(corruption)
    found = {each[:4]: (each[4], each[5]) for each in map(_astuple, look(rollup, day).differences)}
    one = Numbers(1, Decimal(0), Decimal(0))
    missing = found.pop(("account", 42, "reply_time", None))
    assert missing[0] is not None
    assert missing[1] is None
    assert found == {
        ("agent", 999, "reply_time", None): (None, Numbers(1, Decimal("2.5"), Decimal(0))),
        ("account", 42, "bot_handoffs_count", 1): (one, None),
        ("account", 42, "bot_handoffs_count", 55): (None, one),
    }


def _astuple(each: Difference) -> tuple[str, int, str, int | None, Numbers | None, Numbers | None]:
    return (each.dimension_type, each.dimension_id, each.metric, each.member_id, each.expected, each.found)


def test_a_number_of_events_too_large_is_reported_as_missing_raw_events(exact: tuple[Rollup, date]) -> None:
    """It could be a handoff whose conversation was handed off before: rows cannot tell."""
    rollup, day = exact
    rollup.conn.execute("UPDATE rollup_days SET events = events + 1")
    found = look(rollup, day)
    assert (found.verdict, found.missing, found.differing, found.wrong) == (Verdict.MISSING, 1, 0, False)
    rollup.rebuild(day, force=True)
    assert look(rollup, day).verdict is Verdict.EXACT


def test_memory_is_bounded_and_the_rest_is_counted(exact: tuple[Rollup, date]) -> None:
    rollup, day = exact
    rollup.conn.execute(
        "INSERT INTO reporting_events_rollups SELECT account_id, date, 'agent', n, 'reply_time', 1, 0, 0"
        " FROM rollup_days, generate_series(1000, 1999) AS n"
    )
    found = look(rollup, day)
    assert (found.differing, len(found.differences)) == (1000, MOST_DIFFERENCES)


# -- what is on its way is no difference


@pytest.fixture
def paris(rollup: Rollup) -> Rollup:
    """Account 42 has been in Paris for ever."""
    rollup.always_had({42: "Europe/Paris"})
    return rollup


def test_raw_events_that_were_not_counted_yet_are_behind(paris: Rollup) -> None:
    events = mixed(range(40))
    paris.raw(*events)
    found = look(paris)
    assert (found.state, found.verdict, found.raw, found.behind) == (State.UNKNOWN, Verdict.BEHIND, 40, 40)
    assert not found.repairable
    paris.count(*events[:25])
    found = look(paris)
    assert (found.verdict, found.counted, found.raw, found.behind) == (Verdict.EXACT, 25, 40, 15)
    paris.conn.execute(CORRUPTIONS["count one less"])
    assert look(paris).verdict is Verdict.DRIFT


def test_counted_events_that_are_not_in_raw_yet(paris: Rollup) -> None:
    events = mixed(range(40))
    paris.raw(*events[:30])
    paris.count(*events[5:])
    found = look(paris)
    assert (found.state, found.verdict, found.missing, found.behind) == (State.OPEN, Verdict.MISSING, 10, 5)
    assert found.may_pass
    paris.raw(*events[30:])
    assert look(paris).verdict is Verdict.EXACT


@pytest.mark.parametrize(
    "name", ["count one less", "sum a microsecond more", "row missing", "row extra", "member missing", "member wrong"]
)
def test_what_cannot_come_from_missing_events_is_drift_even_so(paris: Rollup, name: str) -> None:
    """The missing event is a handoff: reply times and earlier members must be right all the same."""
    events = mixed(range(41))
    lost = make_event(500, "conversation_bot_handoff", conversation_id=9, user_id=8)
    paris.raw(*events)
    paris.count(*events, lost)
    before = look(paris)
    assert (before.verdict, before.missing) == (Verdict.MISSING, 1)
    assert before.differing == 6  # rows and members of an account, an agent and an inbox
    corruption = (CORRUPTIONS | MEMBER_CORRUPTIONS)[name].replace("'reply_time', 1,", "'reply_time', 2,")
    assert paris.conn.execute(corruption).rowcount == 1
    found = look(paris)
    assert (found.verdict, found.differing, found.missing) == (Verdict.DRIFT, 1, 1)
    assert len(found.differences) == 1


def test_a_closed_day_that_lost_raw_events_is_protected_history(paris: Rollup) -> None:
    paris.raw(*mixed(range(40), NOON - 7 * DAY))
    paris.rebuild(LAST_WEEK)
    paris.conn.execute("DELETE FROM reporting_events WHERE id < 10")
    found = look(paris, LAST_WEEK)
    assert (found.verdict, found.missing, found.raw, found.counted) == (Verdict.MISSING, 10, 30, 40)
    assert not found.may_pass
    assert not found.repairable
    paris.raw(make_event(900, created_at=NOON - 7 * DAY, user_id=77))  # a late event whose message was not read yet
    found = look(paris, LAST_WEEK)
    assert (found.verdict, found.missing) == (Verdict.MISSING, 9)


def test_a_late_event_on_its_way_to_a_closed_day(paris: Rollup) -> None:
    late = make_event(900, created_at=NOON - 7 * DAY)
    paris.raw(*mixed(range(40), NOON - 7 * DAY))
    paris.rebuild(LAST_WEEK)
    paris.raw(late)
    found = look(paris, LAST_WEEK)
    assert (found.verdict, found.behind, found.may_pass) == (Verdict.UNCOUNTED, 1, True)
    paris.count(late)
    found = look(paris, LAST_WEEK)
    assert (found.state, found.verdict, found.repairable) == (State.STALE, Verdict.BEHIND, True)
    paris.rebuild_stale()
    assert look(paris, LAST_WEEK).verdict is Verdict.EXACT


def test_days_that_nobody_has_seen(paris: Rollup) -> None:
    paris.raw(*mixed(range(5), NOON - 7 * DAY))
    found = look(paris, LAST_WEEK)
    assert (found.state, found.verdict, found.behind) == (State.UNKNOWN, Verdict.NEVER_BUILT, 5)
    assert found.repairable
    assert look(paris, LAST_WEEK - DAY) == Verified(42, LAST_WEEK - DAY, "Europe/Paris", State.UNKNOWN, Verdict.EXACT)


@pytest.mark.parametrize("age", [0, 7])
@pytest.mark.parametrize(
    "extra",
    [
        "INSERT INTO reporting_events_rollups VALUES (42, %s, 'agent', 3, 'reply_time', 1, 90.5, 60.25)",
        "INSERT INTO rollup_members VALUES (42, %s, 'agent', 3, 'bot_handoffs_count', 1)",
    ],
    ids=["row", "member"],
)
def test_rows_of_a_day_without_a_row_of_its_own_are_drift(paris: Rollup, extra: str, age: int) -> None:
    day = TODAY - age * DAY
    paris.raw(make_event(1, created_at=NOON - age * DAY))
    paris.conn.execute(extra, (day,))
    found = look(paris, day)
    assert (found.state, found.verdict, found.differing) == (State.UNKNOWN, Verdict.DRIFT, 1)
    assert found.differences[0].expected is None
    assert unsettled_dates(paris.conn, 42) == {day}
    paris.rebuild(day)
    assert look(paris, day).verdict is Verdict.EXACT


def test_stale_settling_and_outdated_days_are_known_to_be_behind(paris: Rollup) -> None:
    events = mixed(range(40))
    paris.raw(*events)
    paris.count(*events)
    paris.conn.execute(CORRUPTIONS["count one more"])
    for change, state in {
        "stale_since = now()": State.STALE,
        "stale_since = NULL, registry = 'older'": State.OUTDATED,
        "registry = NULL, timezone = 'Asia/Tokyo'": State.SETTLING,
        "timezone = 'Europe/Paris', events = NULL": State.SETTLING,
    }.items():
        paris.conn.execute(f"UPDATE rollup_days SET {change}")
        found = look(paris)
        assert (found.state, found.verdict, found.differing, found.raw) == (state, Verdict.BEHIND, 0, 40)
        assert found.repairable
        assert not found.wrong
    paris.conn.execute("UPDATE rollup_days SET events = 40")
    assert look(paris).verdict is Verdict.DRIFT


def test_an_account_whose_time_zone_changes_between_two_looks(paris: Rollup) -> None:
    verifier = Verifier(paris.conn, REGISTRY, 3)
    late = datetime.fromisoformat("2026-03-11T23:30:00+01:00")
    events = mixed(range(20)) + mixed(range(20, 30), late)
    paris.raw(*events)
    paris.count(*events)
    assert verifier.look(42, TODAY, paris.now_us).raw == 30
    paris.set_timezone(42, "Asia/Tokyo")
    found = verifier.look(42, TODAY, paris.now_us)
    assert (found.timezone, found.state, found.raw) == ("Asia/Tokyo", State.SETTLING, 20)
    paris.settle()
    paris.rebuild_stale()
    assert verifier.look(42, TODAY, paris.now_us).verdict is Verdict.EXACT
    assert verifier.look(42, TODAY + DAY, paris.now_us).raw == 10
    paris.set_timezone(42, None)
    for _ in range(2):
        found = verifier.look(42, TODAY, paris.now_us)
        assert (found.timezone, found.verdict, found.state) == (None, Verdict.NOT_COVERED, State.NOT_COVERED)
    paris.set_timezone(42, "Asia/Tokyo")
    assert verifier.look(42, TODAY, paris.now_us).timezone == "Asia/Tokyo"
    assert verifier.look(99, TODAY, paris.now_us).verdict is Verdict.NOT_COVERED


# -- raw rows as applications keep them


def test_invalid_raw_rows_are_left_out_and_their_number_is_told(exact: tuple[Rollup, date]) -> None:
    rollup, day = exact
    when = datetime.combine(day, NOON.timetz())
    bad = [math.nan, math.inf, -math.inf, 1e9 + 1, -1e9 - 1]
    rollup.raw(*[make_event(1000 + i, created_at=when, value=value) for i, value in enumerate(bad)])
    rollup.raw(make_event(2000, created_at=when, value=None, value_in_business_hours=math.nan))
    found = look(rollup, day)
    assert (found.verdict, found.invalid, found.raw) == (Verdict.EXACT, 6, 60)


@pytest.mark.parametrize("value", [1e9, -1e9, 0.1 + 0.2, 0.5e-6, 1.5e-6, 2.5e-6, 123.4567895, 1e-300, -0.0, None])
def test_durations_round_as_they_do_everywhere(paris: Rollup, value: float | None) -> None:
    event = make_event(1, value=value, value_in_business_hours=value)
    paris.raw(event)
    paris.count(event)
    assert look(paris).verdict is Verdict.EXACT
    assert paris.table() == paris.model(event)


@pytest.mark.parametrize("event_id", [0, 1, -1, 4095, 4096, -4096, -4097, 2**31, 2**62, -(2**63), 2**63 - 1])
def test_the_bit_of_any_id(paris: Rollup, event_id: int) -> None:
    """Its neighbours, which share its byte or its chunk, are not taken for it."""
    near = [i for i in (event_id - 9, event_id - 1, event_id + 1, event_id + 9) if -(2**63) <= i < 2**63]
    paris.raw(*[make_event(i) for i in (event_id, *near)])
    paris.count(make_event(event_id))
    found = look(paris)
    assert (found.verdict, found.counted, found.behind) == (Verdict.EXACT, 1, len(near))


def test_bits_of_every_shard_count(paris: Rollup) -> None:
    events = mixed(range(30))
    paris.raw(*events[:10])
    paris.rebuild(TODAY)
    paris.raw(*events[10:])
    paris.count(*events[10:20], partition=0)
    paris.count(*events[15:], partition=3)
    shards = paris.conn.execute("SELECT count(DISTINCT shard) FROM counted_events").fetchone()
    assert shards == (3,)
    found = look(paris)
    assert (found.verdict, found.counted, found.behind) == (Verdict.EXACT, 30, 0)


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_neither_the_columns_type_nor_the_sessions_zone_matters(paris: Rollup, kind: str, zone: str) -> None:
    if kind == "timestamptz":
        paris.conn.execute(
            "ALTER TABLE reporting_events ALTER COLUMN created_at TYPE timestamptz USING created_at AT TIME ZONE 'UTC'"
        )
    midnight = datetime.fromisoformat("2026-03-11T00:00:00+01:00")
    events = [make_event(i, created_at=midnight + timedelta(microseconds=n)) for i, n in enumerate((-1, 0, 1))]
    paris.raw(*events)
    paris.count(*events)
    paris.conn.execute(f"SET TimeZone = '{zone}'")
    for day, raw in ((TODAY - DAY, 1), (TODAY, 2)):
        found = look(paris, day)
        assert (found.verdict, found.raw) == (Verdict.EXACT, raw)


def test_without_raw_events_there_is_nothing_to_compare_with(paris: Rollup) -> None:
    paris.conn.execute("DROP TABLE reporting_events CASCADE")
    with pytest.raises(VerifyError, match="there is no table reporting_events to compare with: apply the migrations"):
        look(paris)


# -- how it asks


def test_it_reads_by_index_and_locks_no_row(exact: tuple[Rollup, date], database_url: str) -> None:
    rollup, day = exact
    with psycopg.connect(database_url) as keeper, psycopg.connect(database_url) as reader:
        keeper.execute("SELECT FROM rollup_days FOR UPDATE")
        keeper.execute("UPDATE reporting_events_rollups SET count = count + 1")  # not committed
        reader.read_only = True
        reader.execute("SET LOCAL statement_timeout = '20s'")
        found = verify_day(reader, 42, day, REGISTRY, 3, rollup.now_us, pauses=())
        assert found.verdict is Verdict.EXACT
        locks = reader.execute(
            "SELECT DISTINCT mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype IN ('relation', 'tuple')"
        ).fetchall()
        assert locks == [("AccessShareLock",)]


def test_raw_events_and_bits_are_found_by_index(paris: Rollup) -> None:
    days = "LATERAL (SELECT timestamp '2026-03-06' + n * interval '10 s' AS at) AS created"
    paris.conn.execute(
        "INSERT INTO reporting_events SELECT n, 'reply_time', 1, 1, n % 50, 1, 1, 1, at, at, at, at"
        f" FROM generate_series(1, 50000) AS n, {days}"
    )
    paris.count(make_event(100_000))  # creates the day
    paris.conn.execute("INSERT INTO counted_events SELECT n, 9, '\\xff', '2026-03-11' FROM generate_series(30, 9000) n")
    paris.conn.execute("ANALYZE")
    verifier = Verifier(paris.conn, REGISTRY, 3)
    for _ in range(12):  # also once PostgreSQL has a plan for all days
        with paris.conn.transaction():
            assert verifier.look(42, TODAY, paris.now_us).raw > 100
            scanned = paris.conn.execute(
                "SELECT relname, seq_tup_read, idx_scan > 0 FROM pg_stat_xact_user_tables"
                " WHERE relname IN ('reporting_events', 'counted_events') ORDER BY 1"
            ).fetchall()
        assert scanned == [("counted_events", 0, True), ("reporting_events", 0, True)]


# -- days that are looked at again


def test_days_on_their_way_are_looked_at_again_all_together(paris: Rollup) -> None:
    lost, late = make_event(900), make_event(901, created_at=NOON - 7 * DAY)
    good, old, never = TODAY - DAY, LAST_WEEK, LAST_WEEK - DAY
    paris.raw(
        *mixed(range(10), NOON - DAY), *mixed(range(10, 20), NOON - 7 * DAY), make_event(902, created_at=NOON - 8 * DAY)
    )
    paris.rebuild(good)
    paris.rebuild(old)
    paris.count(lost)
    paris.raw(late)
    verifier = Verifier(paris.conn, REGISTRY, 3)
    looks: list[date] = []
    pauses: list[float] = []

    def look_at(day: tuple[int, date]) -> Verified:
        looks.append(day[1])
        return verifier.look(*day, paris.now_us)

    def meanwhile(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            paris.raw(lost)
        if len(pauses) == 3:
            paris.count(late)

    days = [(42, day) for day in (TODAY, good, old, never)]
    found = {each.date: each.verdict for each in verify_days(look_at, days, pauses=(1, 2, 3, 4), sleep=meanwhile)}
    assert list(found) == [good, TODAY, old, never]
    assert list(found.values()) == [Verdict.EXACT, Verdict.EXACT, Verdict.BEHIND, Verdict.NEVER_BUILT]
    assert pauses == [1, 2, 3, 4]
    assert [looks.count(day) for day in (good, TODAY, old, never)] == [1, 3, 4, 5]


def test_nobody_waits_when_all_is_decided(exact: tuple[Rollup, date]) -> None:
    rollup, day = exact
    verifier = Verifier(rollup.conn, REGISTRY, 3)
    (found,) = verify_days(lambda each: verifier.look(*each, rollup.now_us), [(42, day)], sleep=_not_called)
    assert found.verdict is Verdict.EXACT


def _not_called(seconds: float) -> None:
    raise AssertionError(f"waited for {seconds} s")


# -- the registry


@dataclass(frozen=True)
class TeamEvent(RawEvent):
    """An event of an application that has teams."""

    team_id: int | None = None


MORE = Registry(
    metrics=(
        *REGISTRY.metrics,
        Metric("csat_given", "csat_agents_count", Kind.DISTINCT, member="user_id"),
        Metric("first_response", "response", Kind.DURATION),
        Metric("reply_time", "response", Kind.DURATION),
    ),
    dimensions=(*REGISTRY.dimensions, Dimension("team", "team_id")),
)
KINDS = {
    "more": MORE,
    "counts only": Registry((Metric("reply_time", "replies", Kind.COUNT),), (Dimension("team", "team_id"),)),
    "members only": Registry((Metric("reply_time", "people", Kind.DISTINCT, "user_id"),), MORE.dimensions),
}


@pytest.fixture(params=KINDS)
def teams(request: pytest.FixtureRequest, database_url: str) -> Iterator[Rollup]:
    """A rollup with another registry."""
    made = Rollup(database_url, KINDS[request.param])
    made.conn.execute("ALTER TABLE reporting_events ADD COLUMN team_id integer")
    made.always_had({42: "UTC"})
    yield made
    made.close()


def test_it_follows_the_registry(teams: Rollup) -> None:
    names = MORE.event_names
    events = [
        TeamEvent(**vars(make_event(i, names[i % len(names)], user_id=i % 3 or None)), team_id=i % 5 or None)
        for i in range(90)
    ]
    teams.raw(*events)
    teams.count(*events)
    assert look(teams).verdict is Verdict.EXACT
    assert teams.table() == teams.model(*events)
    teams.conn.execute(
        "UPDATE reporting_events_rollups SET dimension_id = 99 WHERE (dimension_type, dimension_id) = ('team', 3)"
    )
    found = look(teams)
    assert found.verdict is Verdict.DRIFT
    assert {each.dimension_type for each in found.differences} == {"team"}
    assert {each.dimension_id for each in found.differences} == {3, 99}


def test_days_of_an_older_registry_are_behind(rollup: Rollup) -> None:
    rollup.conn.execute("ALTER TABLE reporting_events ADD COLUMN team_id integer")
    rollup.always_had({42: "UTC"})
    events = [TeamEvent(**vars(make_event(i)), team_id=1) for i in range(4)]
    rollup.raw(*events)
    rollup.count(*events)
    found = Verifier(rollup.conn, MORE, 3).look(42, TODAY, rollup.now_us)
    assert (found.state, found.verdict) == (State.OUTDATED, Verdict.BEHIND)


# -- whatever happens


@settings(max_examples=EXAMPLES // 5, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.explain})
@given(zone=st.one_of(zones, zones, st.none()), schedule=st.lists(actions, min_size=20, max_size=20))
@pytest.mark.timeout(120 + EXAMPLES * 10)
def test_no_schedule_leads_to_a_false_difference(rollup: Rollup, zone: str | None, schedule: list[Action]) -> None:
    """After every step all days are looked at: none may drift, and those called exact must be, by the model."""
    rollup.empty()
    world = Schedule(rollup, zone)
    if zone is not None:
        rollup.always_had({42: zone})
    verifier = Verifier(rollup.conn, REGISTRY, rollup.open_days)
    for name, arguments in schedule:
        getattr(world, name)(*arguments)
        if world.zone is not None:
            _compare_with_model(world, verifier)
    world.finish()
    assert set(_compare_with_model(world, verifier).values()) <= {Verdict.EXACT}


def _compare_with_model(world: Schedule, verifier: Verifier) -> dict[date, Verdict]:
    rollup, zone = world.rollup, str(world.zone)
    waiting = {each.id for _, each in world.hidden}
    days: dict[date, list[RawEvent]] = {
        day: [] for (day,) in rollup.conn.execute("SELECT date FROM rollup_days").fetchall()
    }
    for each in world.events:
        day = day_of(each.created_at, zone)
        if each.id not in waiting and day in days:
            days[day].append(each)
    table = rollup.table()
    verdicts: dict[date, Verdict] = {}
    for day, events in days.items():
        found = verifier.look(42, day, rollup.now_us)
        assert found.verdict is not Verdict.DRIFT
        assert found.raw == len(events)
        if found.verdict is Verdict.EXACT and not found.behind:
            assert {key: each for key, each in table.items() if key.date == day} == recompute(events, {42: zone})
        verdicts[day] = found.verdict
    return verdicts
