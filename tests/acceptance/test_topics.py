"""What topics do to a consumer: they are deleted and made again while it reads, and hold messages of all sorts."""

import signal
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from local.events import produce
from tests.fixtures.events import (
    assert_exact,
    load,
    prepare,
    rebuild_stale_days,
    total,
    wait_until_read,
)
from tests.fixtures.processes import Consumer, StartConsumer, wait_for
from tests.fixtures.services import MakeTopic
from tests.fixtures.wire import produce_raw

Connection = psycopg.Connection[Any]

FEW = 200
"""Messages in a topic's first log. The second one is longer, so that the next offset of the first lies in it."""


def make_again(bootstrap: str, topic: str) -> None:
    """Delete the topic and make it again."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.delete_topics([topic])[topic].result(30)
    wait_for(lambda: topic not in admin.list_topics(timeout=10).topics, "the topic to go")
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)


@pytest.mark.parametrize("choice", ["stop", "reset"])
def test_a_topic_made_again_while_it_is_read(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer, choice: str
) -> None:
    topic = make_topic(1)
    sample = load(1_000)
    prepare(conn, sample)
    messages = list(sample.messages())
    produce(kafka_bootstrap, topic, islice(messages, FEW))
    consumer = start_consumer(topic, ON_OFFSET_GAP=choice)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    consumer.freeze()  # so that it never sees that there was no topic
    make_again(kafka_bootstrap, topic)
    produce(kafka_bootstrap, topic, messages)
    consumer.send(signal.SIGCONT)
    if choice == "stop":
        assert consumer.wait() == 9
        said = consumer.wait_for_log("failed")["message"]
        assert f"{topic}[0]: the topic was deleted and made again" in said
        assert "ON_OFFSET_GAP=reset" in said
        return
    # Until it has noticed, the new log's offsets look like the next ones of the old log; they may even reach its end.
    wait_for(lambda: consumer.metric("offset_gaps_total") == 1, "a start in the new log", consumer)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert total(conn).counted == len(messages)
    assert total(conn).duplicates >= FEW
    rebuild_stale_days(conn)
    assert_exact(conn)
    assert consumer.terminate() == 0


def test_a_header_that_cannot_be_read_does_not_keep_messages(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(1)
    sample = load(100)
    prepare(conn, sample)
    good = [value for _, value in sample.messages() if value is not None]
    unreadable = [(b"\xff\xfe", b"content")]
    produce_raw(kafka_bootstrap, topic, 0, good[0], unreadable)  # nobody asks for the headers of a good one
    produce_raw(kafka_bootstrap, topic, 0, b"{", unreadable)
    produce_raw(kafka_bootstrap, topic, 0, b"[", [(b"trace", b"abc")])
    produce(kafka_bootstrap, topic, ((b"1", value) for value in good[1:]))
    consumer = start_consumer(topic)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert (total(conn).counted, total(conn).dead) == (len(good), 2)
    letters = conn.execute('SELECT "offset", value, headers, reason FROM dead_letters ORDER BY "offset"').fetchall()
    assert [letter[:3] for letter in letters] == [(1, b"{", []), (2, b"[", [["trace", "YWJj"]])]
    assert letters[0][3].endswith("; its headers are left out: a name is not UTF-8")
    assert "header" not in letters[1][3]
    assert_exact(conn)
    assert consumer.terminate() == 0


GARBAGE = 300
GARBAGE_BYTES = 900_000
MOST_MEMORY_BYTES = 500_000_000
"""Of the whole process, which holds 120 MB before it reads anything."""


def test_large_garbage_is_buried_in_bounded_memory(
    conn: Connection,
    database_url: str,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
) -> None:
    topic = make_topic(1)
    sizes: dict[str, str | int] = {"BATCH_MAX_EVENTS": 400_000, "FETCH_MAX_EVENTS": 20_000}  # as they are by default
    consumer = start_consumer(topic, **sizes, DEAD_LETTER_MAX_RATIO="1", DEAD_LETTER_MAX_CONSECUTIVE=0)
    consumer.wait_for_log("partitions_assigned")
    with psycopg.connect(database_url) as keeper:
        keeper.execute("SELECT FROM consumer_offsets FOR UPDATE")  # nothing can be written
        producer = Producer({"bootstrap.servers": kafka_bootstrap, "compression.type": "lz4", "log_level": 0})
        for number in range(GARBAGE):
            producer.produce(topic, b"%06d" % number + b"x" * (GARBAGE_BYTES - 6), partition=0)
            producer.flush(30)
        consumer.wait_for_log("paused")  # enough waits, by its bytes: as events, these would be few
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    used = most_memory(consumer)
    print(f"{used / 1e6:.0f} MB")  # noqa: T201 - pytest shows it when the test has failed
    assert used < MOST_MEMORY_BYTES, f"{used / 1e6:.0f} MB"
    assert (total(conn).messages, total(conn).dead) == (GARBAGE, GARBAGE)
    found = conn.execute(
        "SELECT \"offset\", convert_from(substr(value, 1, 6), 'UTF8')::int, length(value)"
        ' FROM dead_letters ORDER BY "offset"'
    ).fetchall()
    assert found == [(number, number, GARBAGE_BYTES) for number in range(GARBAGE)]
    assert consumer.terminate() == 0


def most_memory(consumer: Consumer) -> int:
    """The most bytes that the process has ever held at once (Linux)."""
    lines = Path(f"/proc/{consumer.pid}/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kilobytes) * 1024
