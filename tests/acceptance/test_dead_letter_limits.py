"""A flood of bad messages stops the consumer at the first that is too many, and a restart stops there again."""

import json
from typing import Any

import psycopg
from confluent_kafka import Producer

from tests.fixtures.events import (
    assert_exact,
    load,
    prepare,
    rebuild_stale_days,
    stored_offsets,
    total,
    wait_until_read,
)
from tests.fixtures.processes import RunProgram, StartConsumer
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]
NO_LIMITS: dict[str, str | int] = {"DEAD_LETTER_MAX_RATIO": "1", "DEAD_LETTER_MAX_CONSECUTIVE": 0}
ALONE: dict[str, str | int] = {"KAFKA_GROUP_INSTANCE_ID": "only"}
"""A static member: the next one gets its partitions at once."""


def send(bootstrap: str, topic: str, *values: bytes, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for value in values:
        producer.produce(topic, value, b"42", partition=partition)
    assert producer.flush(30) == 0


def test_a_flood_stops_it_and_nothing_else_is_lost(
    conn: Connection,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    run_program: RunProgram,
) -> None:
    topic = make_topic(2)
    sample = load(900)
    prepare(conn, sample)
    good = [value for _, value in sample.messages() if value is not None]
    bad = [b'{"id": "secret %d"}' % number for number in range(150)]
    send(kafka_bootstrap, topic, *good[:500], partition=0)
    send(kafka_bootstrap, topic, *good[500:800], *bad, *good[800:], partition=1)

    for _ in range(2):
        consumer = start_consumer(topic, **ALONE)
        assert consumer.wait() == 6
        assert stored_offsets(conn, topic)[1] == 400
        assert total(conn).dead == 100
        assert conn.execute("SELECT counted FROM consumer_offsets WHERE partition = 1").fetchone() == (300,)
        flood = consumer.wait_for_log("too_many_dead_letters")
        assert (flood["partition"], flood["offset"]) == (1, 400)
        said = consumer.wait_for_log("failed")["message"]
        assert f"{topic}[1]: 101 messages in a row up to offset 400 cannot be events (101 type)" in said
        assert "DEAD_LETTER_MAX_CONSECUTIVE=100" in said
        assert consumer.logged("stopped")

    consumer = start_consumer(topic, **ALONE, **NO_LIMITS)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert consumer.terminate() == 0
    became = total(conn)
    assert (became.messages, became.counted, became.dead) == (1_050, 900, 150)
    rebuild_stale_days(conn)
    assert_exact(conn)

    # With limits again: as long as nobody has dealt with the flood, another bad message belongs to it.
    send(kafka_bootstrap, topic, b"{", partition=1)
    consumer = start_consumer(topic, **ALONE)
    assert consumer.wait() == 6
    assert "151 of the last 1000 messages up to offset 550" in consumer.wait_for_log("failed")["message"]
    assert run_program("consumer", "dead-letters", "discard", "--all", "--reason", "a test", "--yes")[0] == 0
    consumer = start_consumer(topic, **ALONE)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert consumer.terminate() == 0
    assert (total(conn).dead, total(conn).messages) == (151, 1_051)


def test_messages_in_a_row_are_counted_across_batches_and_restarts(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(1)
    settings: dict[str, str | int] = {**ALONE, "DEAD_LETTER_MAX_CONSECUTIVE": 5}
    for _ in range(2):
        consumer = start_consumer(topic, **settings)
        for _ in range(2):
            send(kafka_bootstrap, topic, b"{")
            wait_until_read(conn, kafka_bootstrap, topic, consumer)
        assert consumer.terminate() == 0
    consumer = start_consumer(topic, **settings)
    send(kafka_bootstrap, topic, b"{", b"{", b"{")
    assert consumer.wait() == 6
    assert stored_offsets(conn, topic) == {0: 5}
    assert total(conn).dead == 5


def test_now_and_then_a_bad_message_stops_nothing(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(1)
    unknown = json.dumps({"id": 1, "name": "nothing", "account_id": 42, "created_at": "2026-03-11T12:00:00Z"}).encode()
    send(kafka_bootstrap, topic, *([unknown] * 19 + [b"{"]) * 100)
    consumer = start_consumer(topic)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert (total(conn).skipped, total(conn).dead) == (1_900, 100)
    assert consumer.terminate() == 0
