"""Marked contents of messages, good, bad and huge, are looked for in all that a consumer says at debug level. They are
in the tables where they belong, and nowhere else."""

import json
from typing import Any

import psycopg
from confluent_kafka import Producer

from tests.fixtures.events import total, wait_until_read
from tests.fixtures.processes import Consumer, StartConsumer
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

MARK = "hunter2-marked"
PAGES = ("/metrics", "/status", "/readyz", "/livez", "/startupz")


def row(**columns: object) -> bytes:
    """An event of now, some of its columns marked."""
    plain = {"id": 1, "name": "reply_time", "account_id": 42, "created_at": "2026-03-11T12:00:00Z", "value": 1.5}
    return json.dumps({**plain, **columns}).encode()


GOOD = [row(id=1, note=MARK), row(id=2, name=MARK), row(id=3, account_id=43, note=MARK)]
"""Counted; of an unknown event; of an account without a time zone."""
BAD = [
    MARK.encode(),
    f'"{MARK}"'.encode(),
    f'{{"id": "{MARK}'.encode(),
    MARK.encode() + b"\xff\xfe",
    row(id=MARK),
    row(id=4, account_id=MARK),
    row(id=5, created_at=MARK),
    row(id=6, created_at=f"2026-03-11T12:00:00Z{MARK}"),
    row(id=7, name=f"{MARK}\0"),
    row(id=8, value=MARK),
    row(id=9, **{MARK: 1}, account_id=2**40),
    b"[" * 5_000 + MARK.encode() + b"]" * 5_000,
    row(id=10, value=MARK, note=MARK * 40_000),  # half a megabyte
    json.dumps({MARK: MARK}).encode(),
]


def everything_said(consumer: Consumer) -> str:
    pages = "".join(consumer.get(page)[1] for page in PAGES) if consumer.code is None else ""
    return consumer.out.read_text() + consumer.err.read_text() + pages


def send(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for value in values:
        producer.produce(topic, value, MARK.encode(), headers=[(MARK, MARK.encode())])
    assert producer.flush(30) == 0


def test_contents_of_messages_are_in_no_log_line_page_or_error(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (42, 'UTC')")
    topic = make_topic(1)
    send(kafka_bootstrap, topic, *GOOD, *BAD)
    # A log line for each: it tells of the first one of a batch.
    one = {"FETCH_MAX_EVENTS": 1, "BATCH_MAX_EVENTS": 1}
    consumer = start_consumer(topic, LOG_LEVEL="debug", DEAD_LETTER_MAX_RATIO=1, **one)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    became = total(conn)
    assert (became.dead, became.messages) == (len(BAD), len(GOOD) + len(BAD))
    letters = consumer.wait_for_log("dead_letters", len(BAD))
    assert "dead-letters list" in letters["message"]
    assert MARK not in everything_said(consumer)

    # An error of PostgreSQL that quotes the row: it does not pass, and ends the consumer with a traceback.
    conn.execute("ALTER TABLE dead_letters ADD CONSTRAINT never CHECK (false) NOT VALID")
    send(kafka_bootstrap, topic, BAD[0])
    assert consumer.wait() == 1
    said = everything_said(consumer)
    assert "Traceback" in said
    assert "violates check constraint" in said
    assert MARK not in said


def test_a_flood_is_told_without_what_is_in_it(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(1)
    send(kafka_bootstrap, topic, *BAD)
    consumer = start_consumer(topic, LOG_LEVEL="debug", DEAD_LETTER_MAX_CONSECUTIVE=3)
    assert consumer.wait() == 6
    assert "cannot be events" in consumer.logged("failed")[0]["message"]
    assert MARK not in everything_said(consumer)
