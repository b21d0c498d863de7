"""`explain`: what is behind a day whose every event is known, and each fate that an event can have."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from backfill.explain_day import DayExplained, explain_day
from backfill.explain_event import EventExplained, Fate, explain_event
from backfill.explain_report import print_day, print_event
from backfill.explain_sentences import day_sentences, event_sentences
from backfill.letters import read_members
from backfill.snapshot import snapshot
from consumer.rollup.registry import REGISTRY, Dimension, Kind, Metric, Registry
from consumer.tables import print_json
from tests.fixtures.rollup import NOON, TODAY, Rollup, make_event, message_value

DAY = timedelta(days=1)
LAST_WEEK = NOON - 7 * DAY
OLD = LAST_WEEK.date()


@pytest.fixture
def paris(rollup: Rollup) -> Rollup:
    """Account 42 has been in Paris for ever."""
    rollup.always_had({42: "Europe/Paris"})
    return rollup


def day_of(rollup: Rollup, day: date = TODAY, metric: str | None = None, account_id: int = 42) -> DayExplained:
    """A day explained, in a snapshot."""
    with snapshot(rollup.conn):
        return explain_day(rollup.conn, rollup.registry, account_id, day, metric, rollup.now_us)


def event_of(rollup: Rollup, event_id: int) -> EventExplained:
    """An event explained, in a snapshot."""
    with snapshot(rollup.conn):
        return explain_event(rollup.conn, rollup.registry, event_id, rollup.now_us)


def read_day(found: DayExplained) -> str:
    """What a person reads of a day."""
    out = io.StringIO()
    print_day(found, out)
    return out.getvalue()


def read_event(found: EventExplained) -> str:
    """What a person reads of an event."""
    out = io.StringIO()
    print_event(found, out)
    return out.getvalue()


# -- a day


def test_an_open_day_and_what_is_behind_its_numbers(paris: Rollup) -> None:
    events = [make_event(i, created_at=NOON + timedelta(minutes=i), value=10.0 + i) for i in range(1, 9)]
    events += [make_event(20, "conversation_bot_handoff"), make_event(21, "conversation_bot_handoff", user_id=None)]
    paris.raw(*events, make_event(30, "conversation_opened"), make_event(31, account_id=43))
    paris.count(*events)
    found = day_of(paris)
    assert (found.timezone, found.hours) == ("Europe/Paris", 24.0)
    assert (found.start, found.end) == (datetime(2026, 3, 10, 23, tzinfo=UTC), datetime(2026, 3, 11, 23, tzinfo=UTC))
    assert found.day is not None
    assert (found.day.state, found.day.events, found.day.rebuilt_at) == ("open", 10, None)
    raw = {each.name: each for each in found.raw}
    assert {name: (r.known, r.events, r.invalid, list(r.sample_ids)) for name, r in raw.items()} == {
        "conversation_bot_handoff": (True, 2, 0, [20, 21]),
        "conversation_opened": (False, 1, 0, [30]),
        "reply_time": (True, 8, 0, [1, 2, 3, 4, 5]),
    }
    assert (raw["reply_time"].first, raw["reply_time"].last) == (events[0].created_at, events[7].created_at)
    assert found.same
    rows = {(r.dimension_type, r.dimension_id, r.metric): r for r in found.rows}
    assert set(rows) == {
        *(("account", 42, m) for m in ("reply_time", "bot_handoffs_count")),
        *(("agent", 3, m) for m in ("reply_time", "bot_handoffs_count")),
        *(("inbox", 7, m) for m in ("reply_time", "bot_handoffs_count")),
    }
    reply = rows["account", 42, "reply_time"]
    assert (reply.rollup_count, reply.rollup_sum, reply.mean) == (8, Decimal(116), Decimal("14.5"))
    assert (reply.raw_count, reply.raw_sum, reply.raw_business) == (8, Decimal(116), Decimal("482.0"))
    handoffs = rows["account", 42, "bot_handoffs_count"]
    assert (handoffs.rollup_count, handoffs.raw_count, handoffs.mean) == (1, 1, None)
    text = read_day(found)
    assert "1, 2, 3, 4, 5, ..." in text
    assert "4 more rows agree" in text
    assert "The rollup equals the raw events." in text


def test_only_one_metric(paris: Rollup) -> None:
    events = [make_event(1), make_event(2, "conversation_resolved"), make_event(3, "first_response", user_id=4)]
    paris.raw(*events)
    paris.count(*events)
    found = day_of(paris, metric="resolution_time")
    assert [each.name for each in found.raw] == ["conversation_resolved"]
    assert {r.metric for r in found.rows} == {"resolution_time"}
    assert len(found.rows) == 3
    assert read_day(found).count("resolution_time") == 3  # agent and inbox as well
    assert found.same


def test_rows_that_are_not_what_raw_gives(paris: Rollup) -> None:
    events = [make_event(i) for i in range(4)]
    paris.raw(*events)
    paris.count(*events)
    paris.conn.execute("UPDATE reporting_events_rollups SET sum_value = sum_value + 0.000001 WHERE dimension_id = 3")
    paris.conn.execute("DELETE FROM reporting_events_rollups WHERE dimension_type = 'inbox'")
    paris.conn.execute(
        "INSERT INTO reporting_events_rollups SELECT account_id, date, 'agent', 99, metric, count, sum_value, 0"
        " FROM reporting_events_rollups WHERE dimension_type = 'account'"
    )
    found = day_of(paris)
    assert found.same is False
    assert {(r.dimension_type, r.dimension_id): (r.rollup_count, r.raw_count) for r in found.rows if not r.same} == {
        ("agent", 3): (4, 4),
        ("agent", 99): (4, None),
        ("inbox", 7): (None, 4),
    }
    text = read_day(found)
    assert "Rows that are not what the raw events give: 3. On an open day that passes" in text
    assert "362.000001" in text
    paris.conn.execute("UPDATE rollup_days SET closed = true")
    assert "verify --account 42 --date 2026-03-11 --repair" in read_day(day_of(paris))


def test_invalid_raw_rows_and_why(paris: Rollup) -> None:
    paris.raw(
        make_event(1),
        make_event(2, value=math.nan),
        make_event(3, value_in_business_hours=-2e9),
        make_event(4, "conversation_opened", value=math.inf),  # counted nowhere, whatever it holds
    )
    paris.rebuild(TODAY)
    found = day_of(paris)
    assert found.invalid_count == 2
    assert [(r.event_id, r.why) for r in found.invalid] == [
        (2, "value is nan, not within ±1e9 s"),
        (3, "value_in_business_hours is -2e+09, not within ±1e9 s"),
    ]
    assert found.same
    assert "no message could have them either: 2." in read_day(found)


def test_late_events_of_a_stale_day(paris: Rollup) -> None:
    events = [make_event(i, created_at=LAST_WEEK) for i in range(1, 25)]
    paris.raw(events[0])
    paris.count(*events)
    found = day_of(paris, OLD)
    assert found.day is not None
    assert (found.day.state, found.day.events, found.late, len(found.late_events)) == ("stale", 0, 24, 20)
    assert [e.in_raw for e in found.late_events[:3]] == [True, False, False]
    said = list(day_sentences(found))
    assert said[0].startswith("The day is stale since 2026-03-11 12:00:00Z: it waits for a rebuild.")
    assert "wait for `python -m backfill --account 42 --date 2026-03-04`, which needs their raw rows: 24." in said[1]
    assert "Rows that are not what the raw events give: 3." in read_day(found)
    paris.raw(*events[1:])
    paris.rebuild(OLD)
    found = day_of(paris, OLD)
    assert found.day is not None
    assert (found.day.state, found.late, found.same) == ("closed", 0, True)


def test_dead_letters_that_touch_the_day(paris: Rollup) -> None:
    good = json.loads(message_value(make_event(1)))
    paris.count(
        *(
            json.dumps(good | change).encode()
            for change in (
                {"id": 10, "value": "soon"},  # this day
                {"id": 11, "value": 1e10, "created_at": "2026-03-11T22:59:59.999999Z"},  # its last instant
                {"id": 12, "value": "soon", "created_at": "2026-03-11T23:00:00Z"},  # the day after
                {"id": 13, "created_at": "yesterday"},  # perhaps this day
                {"id": 14, "created_at": "2026-03-11T12:00:00"},  # it lacks its offset from UTC
                {"id": 15, "account_id": 142, "value": "soon"},  # has the digits, is another account
                {"id": "x42", "account_id": "42"},
            )
        ),
        b'{"account_id": 42, "created_at": "2026-03-11T12:00:00Z"',
        b"\xff\xfe",
    )
    found = day_of(paris)
    assert [(e.event_id, e.error_class) for e in found.dead_letters] == [
        (10, "type"),
        (11, "range"),
        (13, "timestamp"),
        (14, "timestamp"),
        (None, "type"),
    ]
    assert found.dead == 5
    assert found.dead_letters[2].created_at is None
    assert found.dead_letters[3].created_at == NOON
    assert not any(letter.counted_today for letter in found.dead_letters)
    assert (found.unreadable_letters.all, found.unreadable_letters.with_digits) == (2, 1)
    assert found.unreadable_letters.of_account == 2  # every message of the test has this key
    text = read_day(found)
    assert "dead letter (of 5)" in text
    assert "could be about anything: 2; with this account's key: 2; with its digits: 1." in text


def test_a_day_nobody_has_seen_and_accounts_without_a_time_zone(paris: Rollup) -> None:
    paris.raw(make_event(1, created_at=LAST_WEEK))
    found = day_of(paris, OLD)
    assert (found.day, found.same) == (None, False)
    text = read_day(found)
    assert "never rebuilt. `python -m backfill --account 42 --date 2026-03-04` counts what raw has" in text
    assert "never seen" in text
    unknown = day_of(paris, account_id=99)
    assert (unknown.timezone, unknown.start, unknown.rows, unknown.same) == (None, None, [], None)
    assert "Account 99 has no reporting_timezone" in read_day(unknown)


def test_a_day_of_an_account_that_was_switched_off_is_told_in_its_former_zone(paris: Rollup) -> None:
    paris.raw(make_event(1))
    paris.count(make_event(1))
    paris.set_timezone(42, None)
    found = day_of(paris)
    assert found.day is not None
    assert (found.account.timezone, found.timezone, found.day.state, found.same) == (
        None,
        "Europe/Paris",
        "not covered",
        True,
    )


def test_a_day_that_settles(paris: Rollup) -> None:
    paris.raw(make_event(1))
    paris.count(make_event(1))
    paris.set_timezone(42, "Asia/Tokyo")
    found = day_of(paris)
    assert found.day is not None
    assert (found.day.state, found.timezone, found.day.timezone) == ("settling", "Asia/Tokyo", "Europe/Paris")
    said = " ".join(day_sentences(found))
    assert "The day is settling since 2026-03-11 12:00:00Z" in said
    assert "The day was cut in Europe/Paris; the account is in Asia/Tokyo now." in said


def test_a_day_of_an_older_registry_says_so(paris: Rollup) -> None:
    paris.count(make_event(1))
    paris.conn.execute("UPDATE rollup_days SET registry = '0123456789ab'")
    assert f"counted by registry 0123456789ab, {REGISTRY.fingerprint} is in use" in read_day(day_of(paris))


def test_a_day_with_a_clock_change_has_its_own_length(paris: Rollup) -> None:
    found = day_of(paris, datetime(2025, 10, 26, tzinfo=UTC).date())
    assert (found.hours, found.start) == (25.0, datetime(2025, 10, 25, 22, tzinfo=UTC))


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_created_at_may_be_of_either_type(paris: Rollup, kind: str, zone: str) -> None:
    events = [
        make_event(1, created_at=datetime(2026, 3, 10, 22, 59, 59, 999_999, tzinfo=UTC)),
        make_event(2, created_at=datetime(2026, 3, 10, 23, tzinfo=UTC)),
        make_event(3, created_at=datetime(2026, 3, 11, 22, 59, 59, 999_999, tzinfo=UTC)),
        make_event(4, created_at=datetime(2026, 3, 11, 23, tzinfo=UTC)),
    ]
    paris.raw(*events)
    paris.count(*events)
    if kind == "timestamptz":
        paris.conn.execute("ALTER TABLE reporting_events ALTER COLUMN created_at TYPE timestamptz")
    paris.conn.execute(f"SET timezone = '{zone}'")
    found = day_of(paris)
    (raw,) = found.raw
    assert (list(raw.sample_ids), raw.first, raw.last) == ([2, 3], events[1].created_at, events[2].created_at)
    assert found.same
    day = event_of(paris, 2).day
    assert day is not None
    assert day.date == TODAY


def test_another_registry_is_explained_as_well(database_url: str) -> None:
    registry = Registry(
        metrics=(*REGISTRY.metrics, Metric("reply_time", "replied_conversations", Kind.DISTINCT, "conversation_id")),
        dimensions=(*REGISTRY.dimensions, Dimension("conversation", "conversation_id")),
    )
    rollup = Rollup(database_url, registry)
    try:
        rollup.always_had({42: "Europe/Paris"})
        events = [make_event(i, conversation_id=i % 2 or None) for i in range(6)]
        rollup.raw(*events)
        rollup.count(*events)
        found = day_of(rollup)
        assert found.same
        rows = {(r.dimension_type, r.metric): r.raw_count for r in found.rows}
        assert rows["conversation", "reply_time"] == 3
        assert rows["account", "replied_conversations"] == 1
        without = replace(found, registry="")
        assert "is in use" in " ".join(day_sentences(without))
    finally:
        rollup.close()


def test_a_registry_without_distinct_metrics(database_url: str) -> None:
    rollup = Rollup(database_url, Registry((Metric("reply_time", "replies", Kind.COUNT),), REGISTRY.dimensions[:1]))
    try:
        rollup.always_had({42: "Europe/Paris"})
        rollup.raw(make_event(1))
        rollup.count(make_event(1))
        (row,) = day_of(rollup).rows
        assert (row.rollup_count, row.rollup_sum, row.same, row.mean) == (1, Decimal(0), True, None)
    finally:
        rollup.close()


# -- an event


def counted_live(rollup: Rollup) -> None:
    rollup.raw(make_event(1))
    rollup.count(make_event(1), make_event(1), partition=2)


def counted_by_a_rebuild(rollup: Rollup) -> None:
    rollup.raw(make_event(1))
    rollup.rebuild(TODAY)


def counted_on_a_closed_day(rollup: Rollup) -> None:
    rollup.raw(make_event(1, created_at=LAST_WEEK), make_event(2, "conversation_opened", LAST_WEEK))
    rollup.rebuild(OLD)


def came_again_after_it_was_closed(rollup: Rollup) -> None:
    counted_on_a_closed_day(rollup)
    rollup.count(make_event(1, created_at=LAST_WEEK))


def counted_without_a_raw_row(rollup: Rollup) -> None:
    rollup.count(make_event(1))


def counted_before_the_account_was_switched_off(rollup: Rollup) -> None:
    counted_live(rollup)
    rollup.set_timezone(42, None)


def counted_before_the_zone_changed(rollup: Rollup) -> None:
    counted_live(rollup)
    rollup.set_timezone(42, "Asia/Tokyo")


def counted_after_a_dead_letter(rollup: Rollup) -> None:
    rollup.count(b'{"id": 1, "account_id": 42, "name": 7}')
    counted_live(rollup)


def late_with_a_raw_row(rollup: Rollup) -> None:
    rollup.raw(make_event(1, created_at=LAST_WEEK))
    late_without_a_raw_row(rollup)


def late_without_a_raw_row(rollup: Rollup) -> None:
    rollup.count(make_event(1, created_at=LAST_WEEK))


def dead_with_a_raw_row(rollup: Rollup) -> None:
    rollup.raw(make_event(1))
    rollup.count(b'{"id": 1, "account_id": 42, "name": "reply_time"}')


def dead_by_yesterdays_rules(rollup: Rollup) -> None:
    rollup.count(message_value(make_event(1, created_at=NOON + 2 * DAY)))
    rollup.now += DAY


def of_an_account_without_a_time_zone(rollup: Rollup) -> None:
    rollup.raw(make_event(1, account_id=43))
    rollup.count(make_event(1, account_id=43))


def of_an_unknown_name(rollup: Rollup) -> None:
    rollup.raw(make_event(1, "conversation_opened"))
    rollup.count(make_event(1, "conversation_opened"))


def invalid_in_raw(rollup: Rollup) -> None:
    rollup.raw(make_event(1, value=math.nan))
    rollup.rebuild(TODAY)


def only_in_raw(rollup: Rollup) -> None:
    rollup.raw(make_event(1))


def raw_row_that_came_after_the_day_was_closed(rollup: Rollup) -> None:
    rollup.raw(make_event(2, created_at=LAST_WEEK))
    rollup.rebuild(OLD)
    rollup.raw(make_event(1, created_at=LAST_WEEK))


def beside_others(rollup: Rollup) -> None:
    """Ids and digits that are near, and none of it is event 1."""
    rollup.raw(make_event(2), make_event(11))
    rollup.count(make_event(0), make_event(2), make_event(11), make_event(4097), b'{"id": 21, "name": 1}', b"1{")


@pytest.mark.parametrize(
    ("build", "fate", "said"),
    [
        (counted_live, Fate.COUNTED, "It is in the numbers of 2026-03-11 of account 42."),
        (counted_live, Fate.COUNTED, "How often its message came is not kept"),
        (counted_by_a_rebuild, Fate.COUNTED, "It is in the numbers of 2026-03-11 of account 42."),
        (counted_on_a_closed_day, Fate.COUNTED, "ids of closed days are not kept"),
        (came_again_after_it_was_closed, Fate.COUNTED, "A message of it came again when its day was not counted live"),
        (counted_without_a_raw_row, Fate.COUNTED, "Its raw row is not there: not committed yet, or purged."),
        (
            counted_before_the_account_was_switched_off,
            Fate.COUNTED,
            "had a time zone; it has none now",
        ),
        (counted_before_the_zone_changed, Fate.COUNTED, "but that day is settling"),
        (counted_after_a_dead_letter, Fate.COUNTED, "A message with its id is a dead letter as well."),
        (late_with_a_raw_row, Fate.WAITING, "`python -m backfill --account 42 --date 2026-03-04`, or the worker"),
        (late_without_a_raw_row, Fate.WAITING, "its raw row is not there yet"),
        (dead_with_a_raw_row, Fate.DEAD, "Its raw row is good: `python -m backfill --account 42 --date 2026-03-11`"),
        (dead_by_yesterdays_rules, Fate.DEAD, "By today's rules the dead letter would be an event."),
        (of_an_account_without_a_time_zone, Fate.NO_TIMEZONE, "Account 43 has no reporting_timezone"),
        (of_an_unknown_name, Fate.UNKNOWN_NAME, "No metric is fed by 'conversation_opened'"),
        (invalid_in_raw, Fate.INVALID, "Its value is nan, not within ±1e9 s"),
        (only_in_raw, Fate.NOT_YET, "Its message was not read yet, or never sent"),
        (raw_row_that_came_after_the_day_was_closed, Fate.NOT_YET, "--account 42 --date 2026-03-04` counts it"),
        (beside_others, Fate.NEVER_SEEN, "Neither raw rows, counted ids, late events nor dead letters know it."),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_became_of_an_event(paris: Rollup, build: Callable[[Rollup], None], fate: Fate, said: str) -> None:
    build(paris)
    found = event_of(paris, 1)
    assert found.fate is fate
    text = read_event(found)
    assert said in text
    assert str(fate) in text
    assert "None" not in text


def test_who_counted_an_event_and_where_it_lies(paris: Rollup) -> None:
    counted_live(paris)
    found = event_of(paris, 1)
    assert [bit.by for bit in found.bits] == ["reporting_events[2], group tests"]
    assert found.raw is not None
    assert (found.raw.name, found.raw.account_id, found.raw.created_at) == ("reply_time", 42, NOON)
    assert found.day is not None
    assert (found.day.date, found.day.timezone) == (TODAY, "Europe/Paris")
    paris.raw(make_event(2))
    paris.rebuild(TODAY)
    assert [bit.by for bit in event_of(paris, 2).bits] == ["a rebuild"]
    paris.conn.execute("DELETE FROM consumer_offsets")
    assert event_of(paris, 1).bits[0].by.startswith("a partition that is forgotten")


@pytest.mark.parametrize("event_id", [0, 7, 8, 4095, 4096, -1, -4096, 2**63 - 1, -(2**63)])
def test_every_id_has_its_own_bit(paris: Rollup, event_id: int) -> None:
    near = {event_id + step for step in (-8, -1, 1, 8, 4096)}
    paris.count(*(make_event(other) for other in near if -(2**63) <= other < 2**63))
    assert event_of(paris, event_id).fate is Fate.NEVER_SEEN
    paris.count(make_event(event_id))
    found = event_of(paris, event_id)
    assert (found.fate, found.bits[0].last_day) == (Fate.COUNTED, TODAY)


def test_bits_that_are_left_out_at_the_end_of_a_chunk_are_not_set(paris: Rollup) -> None:
    paris.count(make_event(1))
    assert event_of(paris, 4000).fate is Fate.NEVER_SEEN


def test_a_late_event_that_its_rebuild_has_found(paris: Rollup) -> None:
    late_with_a_raw_row(paris)
    assert [(late.account_id, late.date) for late in event_of(paris, 1).late] == [(42, OLD)]
    paris.rebuild(OLD)
    found = event_of(paris, 1)
    assert (found.fate, list(found.late)) == (Fate.COUNTED, [])


def test_a_dead_letter_says_why_and_where(paris: Rollup) -> None:
    paris.count(make_event(5), partition=3)
    good = json.loads(message_value(make_event(1)))
    paris.count(json.dumps(good | {"id": "1"}).encode(), partition=3)
    (letter,) = event_of(paris, 1).dead_letters
    assert (letter.topic, letter.partition, letter.offset, letter.error_class) == ("reporting_events", 3, 1, "type")
    assert letter.reason == 'id: expected a 64-bit integer, found "1"'
    assert (letter.event_id, letter.account_id, letter.created_at) == (1, 42, NOON)


@pytest.mark.parametrize(
    ("value", "members"),
    [
        (b'{"id": 1, "id": 2}', {"id": 1}),
        (b'{"id": NaN, "x": "\xff"}', None),
        (b"[1]", None),
        (b"1{", None),
        (b"", None),
        (b"[" * 200_000, None),
        (b'{"id": ' + b"9" * 10_000 + b"}", {"id": "9" * 10_000}),
    ],
    ids=["first of two", "not a number", "array", "syntax", "empty", "nesting", "long number"],
)
def test_dead_letters_are_read_leniently(value: bytes, members: dict[str, object] | None) -> None:
    found = read_members(value)
    if b"NaN" in value:
        assert found is not None
        assert found["x"] == "\N{REPLACEMENT CHARACTER}"
    else:
        assert found == members


def test_json_has_everything_on_one_line(paris: Rollup) -> None:
    counted_after_a_dead_letter(paris)
    paris.raw(make_event(3, value=math.nan))
    out = io.StringIO()
    print_json(day_of(paris), out)
    print_json(event_of(paris, 1), out)
    day, event = map(json.loads, out.getvalue().splitlines())
    assert day["date"] == "2026-03-11"
    assert day["start"] == "2026-03-10T23:00:00+00:00"
    assert day["rows"][0]["rollup_sum"] == "90.500000"
    assert day["same"] is True
    assert day["dead_letters"][0]["error_class"] == "type"
    assert (event["fate"], event["day"]["date"]) == ("counted", "2026-03-11")
    assert event["raw"]["created_at"] == "2026-03-11T12:00:00+00:00"
    assert all(isinstance(sentence, str) for sentence in event_sentences(event_of(paris, 1)))


def test_nothing_is_written(paris: Rollup) -> None:
    late_without_a_raw_row(paris)
    dead_with_a_raw_row(paris)
    before = paris.contents()
    day_of(paris)
    event_of(paris, 1)
    assert paris.contents() == before
