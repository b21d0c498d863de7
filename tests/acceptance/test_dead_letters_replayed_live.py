"""Replays beside consumers under load: several at once, killed at any moment, each letter counts once."""

import os
import random
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Producer

from tests.fixtures.events import Trickle, assert_exact, load, prepare, rebuild_stale_days, total, wait_until_read
from tests.fixtures.letters import WRAPPER
from tests.fixtures.processes import Program, StartConsumer, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]
DIED = 4_000
LIVING = 3_000
KILLS = 4


def test_replays_killed_and_side_by_side_beside_a_consumer(
    conn: Connection,
    database_url: str,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("RANDOM_SEED") or random.SystemRandom().randrange(2**32))
    print(f"RANDOM_SEED={seed}")  # noqa: T201 - pytest shows it when the test has failed
    chance = random.Random(seed)
    topic = make_topic(3)
    dying, living = load(DIED, seed), load(LIVING, seed + 1, first_id=10_000)
    prepare(conn, dying, living)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "partitioner": "murmur2_random", "log_level": 0})
    again = []
    for key, value in dying.messages():
        producer.produce(topic, WRAPPER + (value or b""), key)
        if chance.random() < 0.3:  # the producer sends some of them again, in good form
            again.append((key, value))
    assert producer.flush(30) == 0
    consumer = start_consumer(topic, DEAD_LETTER_MAX_RATIO="1", DEAD_LETTER_MAX_CONSECUTIVE=0)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert total(conn).dead == DIED
    # As if the program had learnt the newer form.
    conn.execute("UPDATE dead_letters SET value = substr(value, %s)", (len(WRAPPER) + 1,))

    environment = {**os.environ, "DATABASE_URL": database_url, "KAFKA_TOPICS": topic}
    replays: list[Program] = []

    def replay() -> Program:
        folder = tmp_path / f"replay-{len(replays)}"
        replays.append(Program(folder, ["consumer", "dead-letters", "replay", "--all", "--json"], environment))
        return replays[-1]

    def done() -> int:
        row = conn.execute("SELECT count(*) FROM dead_letters WHERE replayed_at IS NOT NULL").fetchone()
        return int(row[0]) if row else 0

    with Trickle(kafka_bootstrap, topic, living, per_second=500):
        for key, value in again:
            producer.produce(topic, value, key)
        assert producer.flush(30) == 0
        for _ in range(KILLS):
            one, other = replay(), replay()
            before = done()
            wait_for(lambda: one.code is not None or other.code is not None or done() > before, "a replayed letter")  # noqa: B023
            chance.choice((one, other)).kill()
            for program in (one, other):
                program.kill()
        while done() < DIED:
            assert replay().wait() in (0, 1)  # 1: letters of a transaction whose end PostgreSQL has not noticed yet
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    became = total(conn)
    assert became.dead == 0
    assert became.messages == DIED + len(again) + LIVING
    assert became.counted + became.late + became.duplicates == became.messages
    outcomes = dict(conn.execute("SELECT outcome, count(*) FROM dead_letters GROUP BY outcome").fetchall())
    assert outcomes["counted"] > 0
    assert outcomes["duplicate"] > 0
    rebuild_stale_days(conn)
    assert_exact(conn)
    assert consumer.terminate() == 0
