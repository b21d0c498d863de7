"""Bytes in a broker's log change: the consumer ends before them and counts nothing that is behind. Once the log is
whole again, it goes on as if nothing had been.

A batch's fields: https://kafka.apache.org/documentation/#recordbatch
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from local.kafka import Kafka
from tests.chaos.topic import Topic
from tests.fixtures.events import assert_exact, load, prepare, stored_offsets, wait_until_read
from tests.fixtures.processes import StartConsumer
from tests.fixtures.services import KAFKA_PROPERTIES

Connection = psycopg.Connection[Any]

TOPIC = "events"
DAMAGED = 3
"""The offset of the batch that is damaged; every message is a batch of its own, so whole ones lie behind it."""
LENGTH_END, MAGIC, CHECKSUM, CODEC, RECORDS = 12, 16, 17, 22, 61
"""Where these begin in a batch (the first: where what the length counts begins)."""


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Kafka]:
    """A broker whose log the test may change."""
    with Kafka(tmp_path / "kafka", properties=KAFKA_PROPERTIES) as kafka:
        Topic(kafka.bootstrap, TOPIC).make(1)
        yield kafka
    kafka.remove()


def batch_at(log: bytes, offset: int) -> int:
    """Where the batch that begins with an offset lies in a segment."""
    at = 0
    while True:
        first, length = struct.unpack_from(">qi", log, at)
        if first == offset:
            return at
        at += LENGTH_END + length


def test_nothing_behind_damaged_bytes_is_counted(
    kafka: Kafka, tmp_path: Path, conn: Connection, start_consumer: StartConsumer
) -> None:
    sample = load(6)
    prepare(conn, sample)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 0})
    for key, value in sample.messages():
        producer.produce(TOPIC, value, key)
        assert producer.flush(30) == 0
    (segment,) = (tmp_path / "kafka").glob(f"**/{TOPIC}-0/*.log")
    whole = segment.read_bytes()
    batch = batch_at(whole, DAMAGED)
    file = os.open(segment, os.O_RDWR)

    for field, damage in [
        (MAGIC, b"\x03"),  # outside of what the checksum covers
        (CHECKSUM, b"\xff"),
        (CODEC, b"\x07"),
        (RECORDS, b"\xff\xff\xff\x07"),
        (RECORDS + 100, b"\xff"),
    ]:
        os.pwrite(file, damage, batch + field)
        consumer = start_consumer(TOPIC, KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap)
        assert consumer.wait() == 1, field
        failed = consumer.wait_for_log("failed")["message"]
        assert failed.startswith(f"{TOPIC}[0]: ")
        assert "corrupt" in failed
        assert stored_offsets(conn, TOPIC)[0] <= DAMAGED
        assert conn.execute("SELECT FROM dead_letters").fetchall() == []
        os.pwrite(file, whole[batch + field :][: len(damage)], batch + field)
    os.close(file)

    consumer = start_consumer(TOPIC, KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap)
    wait_until_read(conn, kafka.bootstrap, TOPIC, consumer)
    assert_exact(conn)
    assert consumer.terminate() == 0
