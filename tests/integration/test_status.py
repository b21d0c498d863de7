"""`status`: each number of a situation that is known, and each thing that needs somebody."""

import io
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from confluent_kafka import Producer

from backfill.snapshot import snapshot
from backfill.status import read_status, with_lag
from backfill.status_findings import Status, reading_problems
from backfill.status_report import print_status
from backfill.topic_logs import TopicLog, topic_logs
from consumer.rollup.batch import Partition
from consumer.tables import print_json
from tests.fixtures.rollup import GROUP, NOON, TODAY, TOPIC, TOPIC_ID, Rollup, make_event
from tests.fixtures.services import MakeTopic

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LAST_WEEK = NOON - 7 * DAY


def status_of(rollup: Rollup) -> Status:
    """The status at the rollup's present."""
    with snapshot(rollup.conn):
        return read_status(rollup.conn)


def printed(status: Status) -> str:
    """What a person reads."""
    out = io.StringIO()
    print_status(status, out)
    return out.getvalue()


@pytest.fixture
def paris(rollup: Rollup) -> Rollup:
    """Account 42 has been in Paris for ever."""
    rollup.always_had({42: "Europe/Paris"})
    return rollup


def test_a_rollup_that_has_just_been_made_needs_nobody(rollup: Rollup) -> None:
    status = status_of(rollup)
    assert status.accounts == {"with_timezone": 0, "without_timezone": 0}
    assert (status.days, status.oldest_waiting, status.problems) == ({}, None, [])
    assert status.checked_at == NOON
    assert status.late_events == {"waiting": 0, "days": 0, "since": None}
    assert status.bitmap == {"rows": 0, "bits_bytes": 0, "last_day": None}
    assert [(p.next_offset, p.lag) for p in status.partitions] == [(0, None)] * 4
    assert "Nothing needs anybody." in printed(status)


def test_days_of_every_state(paris: Rollup) -> None:
    paris.always_had({7: "Asia/Kolkata", 8: "UTC", 9: "UTC"})
    paris.set_timezone(10, None)
    old = make_event(1, created_at=LAST_WEEK)
    paris.raw(old)
    paris.count(make_event(2), make_event(3, account_id=7), make_event(4, account_id=8))
    paris.rebuild(LAST_WEEK.date())  # closed
    paris.count(make_event(5, created_at=LAST_WEEK, account_id=9))  # stale
    paris.set_timezone(7, "Asia/Tokyo")  # five days that settle
    paris.set_timezone(8, None)
    paris.conn.execute("UPDATE late_events SET recorded_at = now()")  # its default is not the test's clock
    status = status_of(paris)
    assert status.accounts == {"with_timezone": 3, "without_timezone": 2}
    assert status.days == {"open": 1, "closed": 1, "stale": 1, "settling": 5, "not covered": 1}
    rows = printed(status).splitlines()
    assert "late events            1 on 1 days, since 2026-03-11 12:00:00Z" in rows
    for state, count in status.days.items():
        assert any(line.startswith(f"{state} ") and f" {count} " in line for line in rows), state


def test_what_became_of_messages_and_where_ids_are(paris: Rollup) -> None:
    paris.count(make_event(1), make_event(1), make_event(4097, account_id=5), b"{}", b"oops", partition=2)
    paris.now += timedelta(seconds=90)
    status = status_of(paris)
    row = status.partitions[2]
    assert (row.group_id, row.topic, row.partition, row.topic_id) == (GROUP, TOPIC, 2, TOPIC_ID)
    assert (row.next_offset, row.messages) == (5, 5)
    assert (row.counted, row.duplicates, row.late, row.skipped, row.dead) == (1, 1, 0, 1, 2)
    assert (row.updated_at, row.age_seconds, row.lag) == (NOON, 90.0, None)
    assert status.bitmap == {"rows": 1, "bits_bytes": 1, "last_day": TODAY}
    assert [(d["error_class"], d["count"]) for d in status.dead_letters] == [("missing", 1), ("syntax", 1)]
    sizes = {str(size["table"]): size for size in status.sizes}
    expected = paris.conn.execute("SELECT pg_table_size('counted_events'), pg_indexes_size('dead_letters')").fetchone()
    assert (sizes["counted_events"]["table_bytes"], sizes["dead_letters"]["index_bytes"]) == expected
    assert "1 missing, 1 syntax" in printed(status)


def test_drift_that_audits_found(paris: Rollup) -> None:
    paris.count(make_event(1), make_event(2, created_at=NOON - DAY), make_event(3, created_at=NOON - 2 * DAY))
    paris.conn.execute("UPDATE rollup_days SET drift = 3, audited_at = now() WHERE date = %s", (TODAY - DAY,))
    paris.conn.execute("UPDATE rollup_days SET audited_at = now() - interval '1 h' WHERE date = %s", (TODAY - 2 * DAY,))
    status = status_of(paris)
    assert status.audits == {"days": 2, "last": NOON, "days_with_drift": 1, "drift_rows": 3}
    assert "3 rows on 1 days" in printed(status)
    assert status.problems == []


def test_a_day_that_is_stale_for_longer_than_an_hour_needs_somebody(paris: Rollup) -> None:
    paris.count(make_event(1, created_at=LAST_WEEK), make_event(2, created_at=LAST_WEEK - DAY))
    paris.now += HOUR
    status = status_of(paris)
    assert status.problems == []
    assert status.oldest_waiting is not None
    assert (status.oldest_waiting.date, status.oldest_waiting.since) == ((LAST_WEEK - DAY).date(), NOON)
    paris.now += timedelta(seconds=1)
    (problem,) = status_of(paris).problems
    assert problem.what.startswith("2 days wait for a rebuild for longer than an hour; the oldest is account 42, ")
    assert "python -m backfill --stale" in problem.do
    assert "explain --account 42 --date 2026-03-03" in problem.do
    paris.raw(make_event(1, created_at=LAST_WEEK), make_event(2, created_at=LAST_WEEK - DAY))
    paris.rebuild_stale()
    assert status_of(paris).problems == []


def test_a_change_of_time_zone_that_nobody_took_up_needs_somebody(paris: Rollup) -> None:
    paris.set_timezone(42, "Asia/Tokyo")
    assert status_of(paris).problems == []
    paris.now += 2 * HOUR
    (problem,) = status_of(paris).problems
    assert problem.what.startswith("5 days wait")
    assert "settling since 2026-03-11 12:00:00Z" in problem.what


def test_days_of_an_account_that_was_switched_off_do_not_wait(paris: Rollup) -> None:
    paris.count(make_event(1, created_at=LAST_WEEK))
    paris.set_timezone(42, None)
    paris.now += 2 * HOUR
    status = status_of(paris)
    assert (status.days, status.oldest_waiting, status.problems) == ({"not covered": 1}, None, [])


def test_it_is_one_snapshot_and_writes_nothing(paris: Rollup) -> None:
    before = paris.contents()
    other = paris.connect()
    with snapshot(paris.conn):
        first = read_status(paris.conn)
        other.execute("INSERT INTO late_events VALUES (42, %s, 1)", (TODAY,))
        assert replace(read_status(paris.conn), sizes=first.sizes) == first
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), snapshot(paris.conn):
        paris.conn.execute("DELETE FROM late_events")
    assert status_of(paris).late_events["waiting"] == 1
    other.execute("DELETE FROM late_events")
    assert paris.contents() == before


# -- with a broker


MINUTE_AGO, LONG_AGO = timedelta(minutes=1), timedelta(minutes=6)


def adopt(rollup: Rollup, topic: str, offsets: dict[int, int], age: timedelta, *, group: str = "g", **ids: str) -> None:
    """Let a group have read partitions of a topic up to these offsets, and committed that so long ago."""
    with rollup.conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO consumer_offsets (group_id, topic, topic_id, partition, next_offset, updated_at)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [(group, topic, ids.get("topic_id", "?"), p, offset, rollup.now - age) for p, offset in offsets.items()],
        )


def send(bootstrap: str, topic: str, partition: int, count: int, at: datetime | None = None) -> None:
    """Produce messages, written at an instant of the producer's choosing."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for number in range(count):
        stamp = {} if at is None else {"timestamp": int(at.timestamp() * 1000)}
        producer.produce(topic, str(number).encode(), partition=partition, **stamp)  # type: ignore[arg-type]
    assert producer.flush(30) == 0


@pytest.fixture
def present(rollup: Rollup) -> Rollup:
    """A rollup whose present is the broker's, and that knows no partition yet."""
    rollup.conn.execute("TRUNCATE consumer_offsets")
    rollup.now = datetime.now(UTC)
    return rollup


def with_kafka(rollup: Rollup, bootstrap: str) -> Status:
    """The status with what the broker says."""
    return with_lag(status_of(rollup), {"bootstrap.servers": bootstrap, "client.id": "test"})


def id_of(bootstrap: str, topic: str) -> str:
    """The broker's id of a topic."""
    return topic_logs({"bootstrap.servers": bootstrap}, [topic], 10)[Partition(topic, 0)].topic_id


def test_lag_is_the_end_less_the_stored_offset(present: Rollup, kafka_bootstrap: str, make_topic: MakeTopic) -> None:
    topic = make_topic(2)
    send(kafka_bootstrap, topic, 0, 5)
    adopt(present, topic, {0: 2, 1: 0}, LONG_AGO, topic_id=id_of(kafka_bootstrap, topic))
    status = with_kafka(present, kafka_bootstrap)
    assert [(p.end_offset, p.lag) for p in status.partitions] == [(5, 3), (0, 0)]
    assert status.kafka == f"{kafka_bootstrap} answered"
    # The unread messages have only just been written: nobody is late yet.
    assert status.partitions[0].unread_since is not None
    assert status.problems == []


def test_messages_that_wait_for_long_need_somebody(
    present: Rollup, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(3)
    for partition in range(3):
        send(kafka_bootstrap, topic, partition, 2, present.now - LONG_AGO)
    identity = id_of(kafka_bootstrap, topic)
    adopt(present, topic, {0: 0, 1: 2}, LONG_AGO, topic_id=identity)
    adopt(present, topic, {2: 0}, MINUTE_AGO, topic_id=identity)  # it is being caught up
    adopt(present, topic, {0: 1, 1: 2, 2: 2}, LONG_AGO, topic_id=identity, group="other")
    status = with_kafka(present, kafka_bootstrap)
    assert [p.what.split(",")[:2] for p in status.problems] == [
        [f"{topic}[0]", " group g: 2 messages are unread"],
        [f"{topic}[0]", " group other: 1 messages are unread"],
    ]
    assert "nothing was committed for 360 s" in status.problems[0].what
    assert "python -m consumer" in status.problems[0].do


def test_markers_of_transactions_are_no_messages(present: Rollup, kafka_bootstrap: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"1", timestamp=int((present.now - LONG_AGO).timestamp() * 1000))
    producer.commit_transaction(30)
    adopt(present, topic, {0: 1}, LONG_AGO, topic_id=id_of(kafka_bootstrap, topic))
    status = with_kafka(present, kafka_bootstrap)
    assert [(p.lag, p.unread_since) for p in status.partitions] == [(1, None)]
    assert status.problems == []


def test_offsets_that_do_not_fit_and_partitions_that_nobody_reads(
    present: Rollup, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    topic, made_again, gone = make_topic(3), make_topic(), f"never-{time.monotonic_ns()}"
    for partition in range(3):
        send(kafka_bootstrap, topic, partition, 2)
    adopt(present, topic, {0: 7, 1: 2}, MINUTE_AGO, topic_id=id_of(kafka_bootstrap, topic))
    adopt(present, made_again, {0: 0}, MINUTE_AGO, topic_id="its-former-id")
    adopt(present, gone, {0: 3}, MINUTE_AGO)
    status = with_kafka(present, kafka_bootstrap)
    said = "\n".join(problem.what for problem in status.problems)
    assert len(status.problems) == 4
    assert f"{topic}[0]: the stored offset 7 lies beyond the log's end 2" in said
    assert f"{made_again}[0]: the topic was deleted and made again (its id was its-former-id" in said
    assert f"{gone}[0], group g: the brokers know no such partition" in said
    assert f"{topic}[2], group g: it has messages, and the group has never read any" in said
    assert all(problem.do for problem in status.problems)
    text = printed(status)
    assert text.count("PROBLEM  ") == text.count("     do  ") == 4


def test_an_offset_before_the_logs_start_is_a_gap(rollup: Rollup) -> None:
    row = replace(status_of(rollup).partitions[0], next_offset=3)
    log = TopicLog(row.topic_id, low=5, high=9)
    (problem,) = reading_problems([row], {Partition(row.topic, row.partition): log}, NOON)
    assert "retention deleted up to 2 unread messages" in problem.what
    assert "ON_OFFSET_GAP=reset" in problem.do


def test_a_broker_that_does_not_answer_leaves_lags_unknown(present: Rollup) -> None:
    adopt(present, TOPIC, {0: 2}, LONG_AGO)
    began = time.monotonic()
    status = with_kafka(present, "127.0.0.1:9")
    assert time.monotonic() - began < 10
    assert status.kafka.startswith("unknown: 127.0.0.1:9 does not answer: ")
    assert [(p.end_offset, p.lag) for p in status.partitions] == [(None, None)]
    assert status.problems == []
    assert "unknown" in printed(status)


def test_json_is_one_line_of_plain_values(rollup: Rollup) -> None:
    rollup.always_had({42: "Europe/Paris"})
    rollup.count(make_event(1, created_at=LAST_WEEK), b"oops")
    rollup.now += 2 * HOUR
    out = io.StringIO()
    print_json(status_of(rollup), out)
    (line,) = out.getvalue().splitlines()
    found = json.loads(line)
    assert found["checked_at"] == "2026-03-11T14:00:00+00:00"
    assert found["days"] == {"stale": 1}
    assert found["oldest_waiting"]["date"] == "2026-03-04"
    assert found["partitions"][0]["next_offset"] == 2
    assert found["partitions"][0]["lag"] is None
    assert found["dead_letters"][0]["error_class"] == "syntax"
    assert set(found["problems"][0]) == {"what", "do"}
