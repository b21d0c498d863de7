"""Spoilt and very large messages through a real topic and the consumer itself: exact, and in bounded memory."""

import hashlib
import os
import random
import sys
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from bench.usage import peak_memory
from tests.fixtures.events import assert_exact, load, prepare, rebuild_stale_days, total, wait_until_read
from tests.fixtures.processes import Consumer, StartConsumer
from tests.fixtures.services import MakeTopic
from tests.fuzz import MORE
from tests.fuzz.mutations import PIECES, TOKENS

Connection = psycopg.Connection[Any]

NO_LIMITS: dict[str, str | int] = {"DEAD_LETTER_MAX_RATIO": "1", "DEAD_LETTER_MAX_CONSECUTIVE": 0}
AS_DEPLOYED: dict[str, str | int] = {"FETCH_MAX_EVENTS": 20_000, "BATCH_MAX_EVENTS": 400_000, "BATCH_MAX_WAIT_MS": 100}
"""The defaults, where tests have smaller ones."""
STAMPS = [1, -70_000_000_000_000, -62_135_596_800_001, 1_770_000_000_000_000, 253_402_300_799_999, 253_402_300_800_000]
"""Of producers that stamp messages as they like, milliseconds; most are no date of the years 1 to 9999."""
LARGE = 10_000_000
TOPIC_LIMIT = 12_000_000
MOST_MEMORY = 700_000_000
"""Bytes. Twenty messages of 10 MB peak at 360 to 410 MB, as thirty do: docs/performance.md says why it is not less."""


def spoil(value: bytes, chance: random.Random) -> bytes:
    """The message with a piece of it replaced; it is no event any more, as it ends too early."""
    start, end = sorted(chance.choices(range(len(value)), k=2))
    piece = chance.choice([*PIECES, *(token.encode() for token in TOKENS)])
    return (value[:start] + piece + value[end:]).rstrip(b"}] \n")


def send(
    producer: Producer,
    topic: str,
    value: bytes,
    key: bytes | None,
    headers: list[tuple[str, bytes]],
    timestamp: int = 0,
) -> None:
    while True:
        try:
            producer.produce(topic, value, key, partition=0, headers=headers, timestamp=timestamp)  # type: ignore[arg-type]
            return
        except BufferError:
            producer.poll(0.1)


def test_spoilt_messages_of_a_topic(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    seed = int(os.environ.get("RANDOM_SEED") or random.SystemRandom().randrange(2**32))
    print(f"RANDOM_SEED={seed}")  # noqa: T201 - pytest shows it when the test has failed
    chance = random.Random(seed)
    topic = make_topic(1, message_timestamp_after_max_ms=2**63 - 1)
    sample = load(1_500 * MORE, seed % 1_000)
    prepare(conn, sample)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "log_level": 0})
    sent: list[tuple[bytes, bytes | None, list[tuple[str, bytes]]]] = []
    for key, value in sample.messages():
        sent.append((value, key, []))
        if chance.random() < 0.3:
            odd_key = chance.choice([None, b"", b"999", b"\xff\0", key * 500])
            headers = [("trace\0", chance.randbytes(9)), ("", b"")][: chance.randrange(3)]
            sent.append((spoil(value, chance), odd_key, headers))
    for message in sent:
        send(producer, topic, *message, timestamp=chance.choice(STAMPS) if chance.random() < 0.2 else 0)
    assert producer.flush(30) == 0

    consumer = start_consumer(topic, **NO_LIMITS, **AS_DEPLOYED)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert consumer.terminate() == 0
    bad = {offset: message for offset, message in enumerate(sent) if not message[0].endswith(b"}")}
    letters = conn.execute('SELECT "offset", value, key FROM dead_letters ORDER BY "offset"').fetchall()
    assert letters == [(offset, value, key) for offset, (value, key, _) in bad.items()]
    became = total(conn)
    assert (became.messages, became.counted, became.dead) == (len(sent), len(sample), len(bad))
    rebuild_stale_days(conn)
    assert_exact(conn)


@pytest.mark.parametrize("part", ["value", "key", "header"])
def test_large_messages_do_not_fill_the_memory(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer, part: str
) -> None:
    topic = make_topic(1, max_message_bytes=TOPIC_LIMIT)
    sample = load(25_000)  # more than is read at once, so that the next read asks for many
    prepare(conn, sample)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "message.max.bytes": TOPIC_LIMIT, "log_level": 0})
    large = random.Random(1).randbytes(LARGE)
    messages = list(sample.messages())
    for key, value in messages[:-500]:
        send(producer, topic, value, key, [])
    assert producer.flush(60) == 0
    for _ in range(20):
        value, key = large if part == "value" else b"{", large if part == "key" else b"1"
        send(producer, topic, value, key, [("content", large)] if part == "header" else [])
        assert producer.flush(60) == 0
    for key, value in messages[-500:]:
        send(producer, topic, value, key, [])
    assert producer.flush(60) == 0

    consumer = start_consumer(topic, **NO_LIMITS, **AS_DEPLOYED)
    wait_until_read(conn, kafka_bootstrap, topic, consumer, seconds=120)  # 200 MB into a table
    assert_peak_below(MOST_MEMORY, consumer)
    assert consumer.terminate() == 0
    became = total(conn)
    assert (became.messages, became.counted, became.dead) == (25_020, 25_000, 20)
    digest = hashlib.md5(large, usedforsecurity=False).hexdigest()
    column = {"value": "md5(value)", "key": "md5(key)", "header": "md5(decode(headers -> 0 ->> 1, 'base64'))"}[part]
    assert conn.execute(f"SELECT count(*) FROM dead_letters WHERE {column} = %s", (digest,)).fetchone() == (20,)
    rebuild_stale_days(conn)
    assert_exact(conn)


def assert_peak_below(most: int, consumer: Consumer) -> None:
    peak = peak_memory(consumer.pid)
    if sys.platform == "linux":
        assert peak is not None
        print(f"peak {peak / 1e6:.0f} MB")  # noqa: T201
        assert peak < most
