"""One batch in one transaction: counted once and whole, or not at all."""

import random
from datetime import date, timedelta

import psycopg
import pytest

from consumer.errors import OffsetConflict, SchemaError, SettingsChanged
from consumer.rollup.batch import Batch
from consumer.rollup.store import account_zones, write
from tests.fixtures.rollup import NOON, OWN_TABLES, PARTITIONS, TODAY, Day, Outcomes, Rollup, make_event
from tests.model import RawEvent

DAY = timedelta(days=1)
LAST_WEEK = NOON - 7 * DAY


@pytest.fixture
def paris(rollup: Rollup) -> Rollup:
    """Account 42 has been in Paris for ever."""
    rollup.always_had({42: "Europe/Paris"})
    return rollup


# -- duplicates


def test_a_duplicate_in_the_batch_counts_once(paris: Rollup) -> None:
    event = make_event(1)
    paris.count(event, event, event)
    assert paris.table() == paris.model(event)
    assert paris.outcomes() == Outcomes(messages=3, counted=1, duplicates=2, late=0, skipped=0, dead=0)
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=1)


def test_a_duplicate_in_another_batch_counts_once(paris: Rollup) -> None:
    paris.count(make_event(1), make_event(2))
    paris.count(make_event(3), make_event(2))
    assert paris.table() == paris.model(make_event(1), make_event(2), make_event(3))
    assert paris.outcomes().duplicates == 1


def test_a_duplicate_on_another_partition_counts_once(paris: Rollup) -> None:
    event = make_event(1)
    paris.write(paris.read_all({0: [event], 1: [event, make_event(2)]}))
    paris.count(event, partition=2)
    paris.count(make_event(2), partition=0)
    assert paris.table() == paris.model(event, make_event(2))
    assert paris.outcomes() == Outcomes(messages=5, counted=2, duplicates=3, late=0, skipped=0, dead=0)


def test_a_duplicate_of_what_a_rebuild_added_counts_once(paris: Rollup) -> None:
    events = [make_event(i) for i in range(5)]
    paris.raw(*events)
    paris.count(events[0])
    paris.rebuild(TODAY)
    paris.count(*events)
    assert paris.table() == paris.model(*events)
    assert paris.outcomes().duplicates == 5
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=5)


def test_a_distinct_member_counts_once_across_batches(paris: Rollup) -> None:
    handoffs = [
        make_event(i, "conversation_bot_handoff", conversation_id=conversation, user_id=agent)
        for i, (conversation, agent) in enumerate([(1, 3), (1, 3), (1, 4), (2, None), (None, 3)])
    ]
    for handoff in handoffs:
        paris.count(handoff, handoff)
    assert paris.table() == paris.model(*handoffs)


# -- ids and sums


def test_ids_may_be_anything_of_64_bits(paris: Rollup) -> None:
    numbers = random.Random(7)
    ids = {numbers.getrandbits(64) - 2**63 for _ in range(6000)} | {0, -1, -4096, -4097, 4095, 2**63 - 1, -(2**63)}
    events = [make_event(i) for i in sorted(ids)]
    paris.count(*events)
    paris.count(*events[::-7])
    assert paris.table() == paris.model(*events)
    assert paris.outcomes().duplicates == len(events[::-7])
    paris.raw(*events[:500])
    assert paris.rebuild(TODAY).missing == len(events) - 500


def test_sums_pass_64_bits(paris: Rollup) -> None:
    events = [make_event(i, value=1e9 - i * 1e-6, value_in_business_hours=-1e9) for i in range(9300)]
    paris.count(*events)
    expected = paris.model(*events)
    assert max(numbers.sum_us for numbers in expected.values()) > 2**63
    assert paris.table() == expected
    paris.raw(*events)
    assert paris.rebuild(TODAY).changed == 0


def test_accounts_may_be_negative_and_zero(rollup: Rollup) -> None:
    accounts = [-(2**31), -5, 0, 2**31 - 1]
    rollup.always_had(dict.fromkeys(accounts, "Asia/Tokyo"))
    events = [make_event(i, account_id=account, user_id=-i - 1) for i, account in enumerate(accounts)]
    rollup.count(*events)
    assert rollup.table() == rollup.model(*events)


# -- days that are not counted live


def test_an_event_of_a_closed_day_is_late(paris: Rollup) -> None:
    paris.count(make_event(1))
    paris.raw(make_event(1))
    paris.conn.execute("UPDATE rollup_days SET closed = true")
    paris.count(make_event(2), make_event(3, created_at=NOON + DAY / 2), make_event(2))
    assert paris.table() == paris.model(make_event(1), make_event(3, created_at=NOON + DAY / 2))
    assert paris.late() == {(TODAY, 2)}
    assert paris.day(TODAY) == Day("Europe/Paris", closed=True, stale=True, events=1)
    assert paris.outcomes() == Outcomes(messages=4, counted=2, duplicates=0, late=2, skipped=0, dead=0)


def test_a_new_day_older_than_the_window_starts_closed_and_stale(paris: Rollup) -> None:
    oldest_open, newest_closed = NOON - 2 * DAY, NOON - 3 * DAY
    paris.count(make_event(1, created_at=oldest_open), make_event(2, created_at=newest_closed))
    assert paris.day(oldest_open.date()) == Day("Europe/Paris", closed=False, stale=False, events=1)
    assert paris.day(newest_closed.date()) == Day("Europe/Paris", closed=True, stale=True, events=0)
    assert paris.table() == paris.model(make_event(1, created_at=oldest_open))


def test_a_day_that_left_the_window_counts_until_it_is_closed(paris: Rollup) -> None:
    paris.count(make_event(1))
    paris.now += 5 * DAY
    paris.count(make_event(2), make_event(3), make_event(1))
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=3)
    paris.count(make_event(1), make_event(2), make_event(3))
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=3)
    assert paris.table() == paris.model(make_event(1), make_event(2), make_event(3))


def test_a_settling_day_is_not_counted_live(paris: Rollup) -> None:
    event = make_event(1)
    paris.count(event)
    paris.set_timezone(42, "Asia/Tokyo")
    paris.count(event, make_event(2))
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=True, events=None)
    assert paris.late() == {(TODAY, 1), (TODAY, 2)}


def test_a_day_of_another_time_zone_is_not_counted_live(paris: Rollup) -> None:
    """However it came to that: its bounds are not those of the account."""
    paris.count(make_event(1))
    paris.raw(make_event(1), make_event(2))
    paris.conn.execute("UPDATE rollup_days SET timezone = 'Asia/Tokyo'")
    paris.count(make_event(2))
    assert paris.day(TODAY) == Day("Asia/Tokyo", closed=False, stale=True, events=1)
    assert paris.late() == {(TODAY, 2)}
    paris.rebuild_stale()
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=2)
    assert paris.table() == paris.model(make_event(1), make_event(2))


# -- what is skipped, and what is dead


def test_unknown_names_tombstones_and_accounts_without_time_zone_are_skipped(paris: Rollup) -> None:
    paris.set_timezone(43, None)
    strangers = [make_event(2, "conversation_opened"), make_event(3, account_id=43), make_event(4, account_id=44)]
    written = paris.count(make_event(1), *strangers, None)
    assert paris.table() == paris.model(make_event(1))
    assert written.skipped == {"no_timezone": 2, "unknown_event": 1, "tombstone": 1}
    assert written.outcomes() == {"counted": 1, "duplicate": 0, "late": 0, "skipped": 4, "dead": 0}
    assert written.counted.tolist() == [True, False, False]  # the events that feed a metric


def test_a_dead_letter_is_kept_once(paris: Rollup) -> None:
    first = paris.read(b"{", make_event(1), b"\xff")
    paris.write(first)
    paris.conn.execute("UPDATE consumer_offsets SET next_offset = 0 WHERE partition = 0")  # as a failover does
    paris.write(first)
    found = paris.conn.execute(
        'SELECT "offset", key, value, error_class FROM dead_letters ORDER BY "offset"'
    ).fetchall()
    assert found == [(0, b"42", b"{", "syntax"), (2, b"42", b"\xff", "encoding")]


@pytest.mark.parametrize("value", [b"{", None, make_event(1, "conversation_opened"), make_event(1, account_id=43)])
def test_a_batch_without_an_event_moves_the_offset(paris: Rollup, value: RawEvent | bytes | None) -> None:
    paris.count(value)
    paris.count(make_event(1))
    assert paris.outcomes().messages == 2
    assert paris.table() == paris.model(make_event(1))


# -- offsets


@pytest.mark.parametrize("change", ["next_offset = 2", "next_offset = 0", "topic_id = 'made again'"])
def test_a_moved_offset_writes_nothing(paris: Rollup, change: str) -> None:
    paris.count(make_event(1), partition=1)
    batch = paris.read_all({0: [make_event(2)], 1: [make_event(3), b"{"]})
    paris.conn.execute(f"UPDATE consumer_offsets SET {change} WHERE partition = 1")
    before = paris.contents()
    with pytest.raises(OffsetConflict) as raised:
        paris.write(batch)
    assert raised.value.partitions == ("reporting_events[1]",)
    assert paris.contents() == before


def test_a_partition_that_was_never_adopted_is_a_conflict(paris: Rollup) -> None:
    batch = paris.read(make_event(1))
    paris.conn.execute("DELETE FROM consumer_offsets")
    with pytest.raises(OffsetConflict):
        paris.write(batch)


def test_a_batch_is_counted_once_however_often_it_is_written(paris: Rollup) -> None:
    batch = paris.read(make_event(1), make_event(2))
    paris.write(batch)
    with pytest.raises(OffsetConflict):
        paris.write(batch)
    assert paris.table() == paris.model(make_event(1), make_event(2))
    assert paris.outcomes().messages == 2


def test_the_balance_is_held_by_the_database(paris: Rollup) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="every_message_has_one_outcome"):
        paris.conn.execute("UPDATE consumer_offsets SET counted = counted + 1")


# -- settings


def test_settings_that_changed_after_aggregation_write_nothing(paris: Rollup) -> None:
    old = account_zones(paris.conn)
    paris.set_timezone(43, "Asia/Tokyo")
    batch, before = paris.read(make_event(1), make_event(2, account_id=43)), paris.contents()
    with pytest.raises(SettingsChanged):
        write(paris.conn, batch, old, paris.rules, paris.now_us, lambda *_: None)
    assert paris.contents() == before
    paris.write(batch)  # with the new ones
    assert paris.table() == paris.model(make_event(1), make_event(2, account_id=43))


def test_settings_without_a_version_are_the_schemas_fault(paris: Rollup) -> None:
    paris.conn.execute("DELETE FROM rollup_control")
    with pytest.raises(SchemaError, match="INSERT INTO rollup_control"):
        account_zones(paris.conn)


# -- all or nothing

FAIL = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION fail();
"""
WRITTEN_TABLES = sorted(set(OWN_TABLES.split(", ")) - {"reporting_events", "account_settings"})


def a_batch_of_everything(paris: Rollup) -> Batch:
    return paris.read_all(
        {
            0: [make_event(1), make_event(2, "conversation_bot_handoff"), make_event(1), b"{", None],
            1: [make_event(3, created_at=LAST_WEEK), make_event(4, "conversation_resolved")],
        }
    )


@pytest.mark.parametrize("table", WRITTEN_TABLES)
def test_an_error_at_any_table_leaves_nothing(paris: Rollup, table: str) -> None:
    batch, before = a_batch_of_everything(paris), paris.contents()
    paris.conn.execute(FAIL.format(table))
    with pytest.raises(psycopg.errors.RaiseException):
        paris.write(batch)
    assert paris.contents() == before
    paris.conn.execute(f"DROP TRIGGER fail ON {table}")
    paris.write(batch)
    assert all(paris.contents(WRITTEN_TABLES).values())
    assert paris.outcomes() == Outcomes(messages=7, counted=3, duplicates=1, late=1, skipped=1, dead=1)


def test_an_error_at_commit_leaves_nothing(paris: Rollup) -> None:
    batch, before = a_batch_of_everything(paris), paris.contents()
    paris.conn.execute(
        FAIL.split("CREATE TRIGGER", maxsplit=1)[0] + "CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON consumer_offsets"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"
    )
    with pytest.raises(psycopg.errors.RaiseException):
        paris.write(batch)
    assert paris.contents() == before


# -- many batches


def test_many_events_of_many_accounts_in_any_split_are_exact(rollup: Rollup) -> None:
    numbers = random.Random(11)
    zones = ["UTC", "Asia/Kathmandu", "America/New_York", "Pacific/Chatham"]
    rollup.always_had({account: numbers.choice(zones) for account in range(30)})
    names = [m.event for m in rollup.registry.metrics]
    events = [
        make_event(
            i * 17 % 20011,
            numbers.choice(names),
            NOON - numbers.random() * 2 * DAY,
            account_id=numbers.randrange(31),
            user_id=numbers.choice([None, 1, 2]),
            inbox_id=numbers.choice([None, 1, 2]),
            conversation_id=numbers.choice([None, *range(9)]),
            value=numbers.choice([None, numbers.uniform(-1e6, 1e9)]),
        )
        for i in range(3000)
    ]
    sent = events + numbers.choices(events, k=400)
    numbers.shuffle(sent)
    while sent:
        size = numbers.randrange(1, 900)
        rollup.write(
            rollup.read_all({p: sent[p:size:PARTITIONS] for p in range(PARTITIONS) if sent[p:size:PARTITIONS]})
        )
        sent = sent[size:]
    assert rollup.table() == rollup.model(*events)
    days = rollup.conn.execute("SELECT sum(events)::int, min(date) FROM rollup_days").fetchone()
    assert days == (sum(e.account_id != 30 for e in events), date(2026, 3, 9))
