"""One consumer process: it counts everything exactly, tells of it, ends as it should and goes on where it stopped."""

import base64
import signal
from collections import Counter
from typing import Any

import psycopg
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from consumer.metric_catalogue import CATALOGUE, PREFIX
from local.events import produce
from local.processes import free_port
from tests.fixtures.events import (
    assert_exact,
    end_offsets,
    load,
    mixed_load,
    prepare,
    read_messages,
    rebuild_stale_days,
    rollup_of_model,
    rollup_of_table,
    stored_offsets,
    total,
    wait_until_read,
)
from tests.fixtures.processes import Consumer, RunProgram, StartConsumer, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

ERROR_CLASSES_OF_FAULTS = {"syntax", "type", "timestamp", "missing", "encoding"}
"""What the generator's bad messages are; the one with NaN is a matter of syntax in JSON."""


def test_everything_is_counted_exactly_and_told_in_metrics(
    conn: Connection,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    consumer_variables: dict[str, str],
) -> None:
    topic = make_topic(3)
    sample = mixed_load(6_000)
    prepare(conn, sample)
    produce(kafka_bootstrap, topic, sample.messages())
    consumer = start_consumer(topic)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)

    expected, became = sample.expected, total(conn)
    assert became.messages == expected.messages
    assert became.dead == expected.dead > 0
    assert became.skipped == expected.skipped > 0
    assert became.duplicates + became.counted + became.late == expected.duplicates + expected.events
    assert became.counted > 0
    assert became.late > 0
    assert became.duplicates > 0

    wait_for(
        lambda: (
            consumer.metrics("events_total")
            == {
                ("counted",): became.counted,
                ("duplicate",): became.duplicates,
                ("late",): became.late,
                ("skipped",): became.skipped,
                ("dead",): became.dead,
            }
        ),
        f"outcomes in metrics as in {became}",
        consumer,
    )
    assert consumer.metric("messages_consumed_total", topic) == expected.messages
    assert consumer.metric("events_skipped_total", "unknown_event") == expected.skipped
    classes = {labels for labels, count in consumer.metrics("dead_letters_total").items() if count}
    assert classes == {(name,) for name in ERROR_CLASSES_OF_FAULTS}
    assert consumer.metric("batch_events_count") == consumer.metric("transactions_total") > 1
    assert consumer.metric("batch_events_sum") == expected.messages
    assert consumer.metric("assigned_partitions") == 3
    nothing = {(str(partition), topic): 0.0 for partition in range(3)}
    for lag in ("consumer_lag_messages", "consumer_lag_seconds"):
        wait_for(lambda lag=lag: consumer.metrics(lag) == nothing, f"{lag} of 0", consumer)  # type: ignore[misc]
    wait_for(lambda: consumer.metric("pending_events") == 0, "no pending events", consumer)
    _assert_all_in_the_catalogue(consumer)
    assert [consumer.get(page)[0] for page in ("/livez", "/readyz", "/startupz")] == [200, 200, 200]
    letters = consumer.wait_for_log("dead_letters")
    assert {"topic", "partition", "offset", "count", "message"} <= letters.keys()

    assert consumer.terminate() == 0
    assert consumer.lines()[-1]["event"] == "stopped"
    assert consumer.err.read_text() == ""
    assert _committed_in_kafka(kafka_bootstrap, consumer_variables["KAFKA_GROUP_ID"]) == stored_offsets(conn, topic)
    rebuild_stale_days(conn)
    assert_exact(conn)
    assert rollup_of_table(conn) == rollup_of_model(conn)


def _assert_all_in_the_catalogue(consumer: Consumer) -> None:
    """/metrics shows the metrics that docs/metrics.md (the catalogue) lists, all of them and no others."""
    _, page = consumer.get("/metrics")
    named = {line.split()[2] for line in page.splitlines() if line.startswith(f"# TYPE {PREFIX}")}
    assert named == {PREFIX + row.name for row in CATALOGUE}


def _committed_in_kafka(bootstrap: str, group: str) -> dict[int, int]:
    """Kafka's copy of the group's offsets, for lag tools."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    found = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
    return {p.partition: p.offset for p in found.topic_partitions}


def test_two_topics_dead_letters_tombstones_and_a_restart(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    first, second = make_topic(2), make_topic(1)
    sample, other = load(1_500), load(1_500, 2, first_id=10_001)
    prepare(conn, sample, other)
    bad = b'{"id": "seven"}'
    headers: list[tuple[str, str | bytes | None]] = [("source", b"\xff\x00"), ("source", None), ("trace", b"abc")]
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    producer.produce(first, bad, b"42", partition=1, headers=headers, timestamp=1_700_000_000_123)
    producer.produce(first, None, b"42", partition=0)
    producer.produce(second, b"\xff", None, partition=0)
    nowhere = b'{"id": 1, "name": "reply_time", "account_id": 99, "created_at": "2026-01-01T00:00:00Z", "value": 1}'
    producer.produce(second, nowhere, b"99", partition=0)
    assert producer.flush(30) == 0
    produce(kafka_bootstrap, first, sample.messages())
    topics = f"{first}, {second}:json"

    consumer = start_consumer(topics)
    wait_until_read(conn, kafka_bootstrap, first, consumer)
    wait_until_read(conn, kafka_bootstrap, second, consumer)
    assert consumer.terminate() == 0
    produce(kafka_bootstrap, second, other.messages())
    # The log is read once more from the start of one partition: what was counted is a duplicate, what was buried stays.
    conn.execute("UPDATE consumer_offsets SET next_offset = 0 WHERE topic = %s AND partition = 1", (first,))
    stored = stored_offsets(conn, first) | {2: stored_offsets(conn, second)[0]}
    again = start_consumer(topics)
    expected = {f"{first}[0]": stored[0], f"{first}[1]": stored[1], f"{second}[0]": stored[2]}
    wait_until_read(conn, kafka_bootstrap, first, again)
    wait_until_read(conn, kafka_bootstrap, second, again)
    assert dict(o for line in again.logged("partitions_assigned") for o in line["offsets"].items()) == expected

    read_again = end_offsets(kafka_bootstrap, first)[1]
    became = total(conn)
    assert became.messages == 3_004 + read_again
    assert (became.counted, became.duplicates, became.skipped, became.dead) == (3_000, read_again - 1, 2, 3)
    assert_exact(conn)
    assert again.metrics("events_total")["duplicate",] == read_again - 1
    rows = conn.execute(
        'SELECT topic, partition, "offset", key, value, headers, error_class, reason,'
        " extract(epoch FROM message_timestamp)::text FROM dead_letters ORDER BY topic = %s DESC",
        (first,),
    ).fetchall()
    assert [row[:5] for row in rows] == [(first, 1, 0, b"42", bad), (second, 0, 0, None, b"\xff")]
    as_text = [["source", base64.b64encode(b"\xff\x00").decode()], ["source", None], ["trace", "YWJj"]]
    assert [row[5] for row in rows] == [as_text, []]
    assert [row[6] for row in rows] == ["type", "encoding"]
    assert "id" in rows[0][7]
    assert rows[0][8] == "1700000000.123000"


def _block(conn: Connection) -> None:
    """Hold the days: the consumer's next transaction waits for ours."""
    conn.execute("BEGIN")
    conn.execute("SELECT FROM rollup_days FOR UPDATE")


def test_sigterm_commits_what_was_read_and_the_second_ends_at_once(
    conn: Connection, database_url: str, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(2)
    sample, more = load(2_000), load(2_000, 2, first_id=5_000)
    prepare(conn, sample, more)
    settings: dict[str, str | int] = {
        "BATCH_MAX_EVENTS": 400,
        "FETCH_MAX_EVENTS": 100,
        "KAFKA_GROUP_INSTANCE_ID": "only",
    }
    with psycopg.connect(database_url, autocommit=True) as other:
        _block(other)
        consumer = start_consumer(topic, **settings)
        consumer.wait_for_log("started")
        produce(kafka_bootstrap, topic, sample.messages())
        wait_for(lambda: consumer.metric("pending_events") >= 400, "batches that wait", consumer)
        read = _consumed_at_rest(consumer, topic)
        consumer.send(signal.SIGTERM)
        consumer.wait_for_log("stopping")
        assert read_messages(conn) == 0
        assert consumer.get("/readyz")[0] == 503
        other.execute("ROLLBACK")
        assert consumer.wait_for_stop() == 0
        assert read_messages(conn) == read

        stored = stored_offsets(conn, topic)
        _block(other)
        produce(kafka_bootstrap, topic, more.messages())
        consumer = start_consumer(topic, **settings)
        wait_for(lambda: consumer.metric("pending_events") >= 400, "batches that wait", consumer)
        assert consumer.wait_for_log("partitions_assigned")["offsets"] == {
            f"{topic}[{partition}]": offset for partition, offset in stored.items()
        }
        _assert_lag_counts_from_the_stored_offsets(consumer, topic, stored, end_offsets(kafka_bootstrap, topic))
        consumer.send(signal.SIGTERM)
        consumer.wait_for_log("stopping")
        consumer.send(signal.SIGTERM)
        assert consumer.wait(3) == -signal.SIGTERM
        other.execute("ROLLBACK")
    consumer = start_consumer(topic, **settings)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert total(conn).messages == 4_000
    assert_exact(conn)


def _assert_lag_counts_from_the_stored_offsets(
    consumer: Consumer, topic: str, stored: dict[int, int], ends: dict[int, int]
) -> None:
    """Also before this process has committed anything."""
    behind = {(str(partition), topic): float(end - stored[partition]) for partition, end in ends.items()}
    wait_for(lambda: consumer.metrics("consumer_lag_messages") == behind, f"a lag of {behind}", consumer)
    assert consumer.metric("transactions_total") == 0


def _consumed_at_rest(consumer: Consumer, topic: str) -> float:
    """How many messages were read, once the full writer keeps the reader from reading more."""
    seen: Counter[float] = Counter()

    def stands_still() -> float:
        count = consumer.metric("messages_consumed_total", topic)
        seen[count] += 1
        paused = consumer.logged("paused")
        return count if paused and seen[count] > 3 else 0

    return wait_for(stands_still, "a reader that waits for the writer", consumer)


def test_sigterm_while_nothing_answers_yet(start_consumer: StartConsumer, make_topic: MakeTopic) -> None:
    topic, port = make_topic(), free_port()
    without_broker = start_consumer(topic, KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")
    without_database = start_consumer(topic, DATABASE_URL=f"postgresql://postgres@127.0.0.1:{port}/postgres")
    wait_for(
        lambda: any("no broker answers yet" in line["message"] for line in without_broker.logged("kafka_client")),
        "a line that no broker answers",
        without_broker,
    )
    without_database.wait_for_log("database_lost")
    for consumer in (without_broker, without_database):
        assert consumer.get("/livez")[0] == 200
        assert consumer.get("/startupz")[0] == consumer.get("/readyz")[0] == 503
    assert "database" in without_database.get("/startupz")[1]
    for consumer in (without_broker, without_database):
        consumer.send(signal.SIGTERM)
    for consumer in (without_broker, without_database):
        assert consumer.wait_for_stop() == 0
        assert consumer.lines()[-1]["event"] == "stopped"


def test_partitions_added_while_it_runs_are_read(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(1)
    sample, more = load(1_000), load(1_000, 2, first_id=5_000)
    prepare(conn, sample, more)
    produce(kafka_bootstrap, topic, sample.messages())
    consumer = start_consumer(topic, KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS=1_000)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap, "log_level": 0})
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
    wait_for(lambda: len(end_offsets(kafka_bootstrap, topic)) == 3, "three partitions")
    produce(kafka_bootstrap, topic, more.messages())
    assert end_offsets(kafka_bootstrap, topic)[2] > 0  # before anybody consumes it
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert total(conn).counted == 2_000
    assert_exact(conn)


@pytest.mark.parametrize(("name", "value"), [("KAFKA_TOPICS", "a:xml"), ("KAFKA_ENABLE_AUTO_COMMIT", "true")])
def test_a_wrong_setting_is_one_line_that_names_it(run_program: RunProgram, name: str, value: str) -> None:
    code, out, err = run_program("consumer", METRICS_PORT=0, **{name: value})
    assert (code, out) == (2, "")
    assert f"{name} is wrong" in err
    assert err.count("\n") == 1
