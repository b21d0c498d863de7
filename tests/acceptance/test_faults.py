"""What goes wrong around a consumer: kills, a database that crashes, settings that change, a log that lost its start.

Kills come at random points; the seed is printed with a failure, and RANDOM_SEED gives it again.
"""

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from local.events import produce
from local.migrate import migrate
from local.postgres import Postgres
from tests.fixtures.events import (
    Trickle,
    assert_all_counted,
    assert_exact,
    load,
    mixed_load,
    prepare,
    read_messages,
    stored_offsets,
    total,
    wait_until_read,
)
from tests.fixtures.processes import StartConsumer, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

KILLS = 4
SMALL = {"BATCH_MAX_EVENTS": 60, "FETCH_MAX_EVENTS": 30}
"""Transactions so small that a few thousand events take seconds."""


@pytest.fixture
def own_postgres(service_folder: Path) -> Iterator[Postgres]:
    """A server that the test may stop, with a migrated database."""
    with Postgres(service_folder / "postgres", settings={"fsync": "off"}) as server:
        migrate(server.url("rollup"))
        yield server


def test_killed_again_and_again_it_counts_exactly(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    seed = int(os.environ.get("RANDOM_SEED") or random.SystemRandom().randrange(2**32))
    print(f"RANDOM_SEED={seed}")  # noqa: T201 - pytest shows it when the test has failed
    chance = random.Random(seed)
    topic = make_topic(3)
    sample = mixed_load(5_000, seed)
    prepare(conn, sample)
    produce(kafka_bootstrap, topic, sample.messages())
    # A static member: the next one gets its partitions at once, and not when its session has timed out.
    settings: dict[str, str | int] = {**SMALL, "KAFKA_GROUP_INSTANCE_ID": "only"}
    every = sample.expected.messages
    for kill in range(1, KILLS + 1):
        consumer = start_consumer(topic, **settings)
        enough = read_messages(conn) + chance.randrange(1, every // (KILLS + 2))
        wait_for(lambda enough=enough: read_messages(conn) >= enough, f"{enough} messages", consumer)  # type: ignore[misc]
        threading.Event().wait(chance.uniform(0, 0.02))  # anywhere in a transaction
        consumer.kill()
        assert read_messages(conn) < every, f"it was too quick for kill {kill}"
    consumer = start_consumer(topic, **settings)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert total(conn).dead == sample.expected.dead
    assert_all_counted(conn, sample)


def test_postgresql_crashes_under_load_and_comes_back(
    own_postgres: Postgres, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic, url = make_topic(3), own_postgres.url("rollup")
    sample = mixed_load(6_000)
    with psycopg.connect(url, autocommit=True) as conn:
        prepare(conn, sample)
    with Trickle(kafka_bootstrap, topic, sample, per_second=2_000):
        consumer = start_consumer(topic, DATABASE_URL=url)
        with psycopg.connect(url, autocommit=True) as conn:
            wait_for(lambda: read_messages(conn) > 500, "messages read", consumer)
        own_postgres.stop("immediate")
        consumer.wait_for_log("database_lost")
        consumer.wait_for_log("paused")
        assert "database" in consumer.wait_for_status("/readyz", 503)
        assert consumer.get("/livez")[0] == 200
        assert consumer.metric("db_up") == 0
        # Longer than the session's timeout without polling would be: it keeps its place in the group.
        wait_for(lambda: consumer.metric("paused_seconds_total", "database") > 2, "a pause", consumer)
        own_postgres.start()
        consumer.wait_for_log("database_back")
        consumer.wait_for_log("resumed")
        consumer.wait_for_status("/readyz", 200)
    with psycopg.connect(url, autocommit=True) as conn:
        wait_until_read(conn, kafka_bootstrap, topic, consumer)
        assert consumer.metrics("rebalances_total")["lost",] == consumer.metrics("rebalances_total")["revoked",] == 0
        assert consumer.metrics("db_retries_total")["none",] > 0
        assert_all_counted(conn, sample)
        stored = stored_offsets(conn, topic)

    own_postgres.stop("immediate")
    produce(kafka_bootstrap, topic, sample.messages())
    wait_for(lambda: consumer.metric("pending_events") > 0, "a batch in hand", consumer)
    assert consumer.terminate() == 0  # gives its batch up within its time
    own_postgres.start()
    with psycopg.connect(url, autocommit=True) as conn:
        assert stored_offsets(conn, topic) == stored


def test_time_zones_change_while_it_counts(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(3)
    sample = mixed_load(6_000)
    prepare(conn, sample)
    conn.execute("UPDATE rollup_control SET settle_seconds = 0")
    change = "UPDATE account_settings SET reporting_timezone = %s WHERE account_id %% 3 = %s"
    with Trickle(kafka_bootstrap, topic, sample, per_second=2_000):
        consumer = start_consumer(topic, **SMALL)
        for step, name in enumerate(("Asia/Kathmandu", "America/St_Johns", None), start=1):
            enough = read_messages(conn) + 400
            wait_for(lambda enough=enough: read_messages(conn) > enough, "messages", consumer)  # type: ignore[misc]
            conn.execute(change, (name, step % 3))
            wait_for(
                lambda step=step: consumer.metric("settings_reloads_total") >= step,  # type: ignore[misc]
                f"reload {step} of settings",
                consumer,
            )
        skipped = "events_skipped_total"
        wait_for(lambda: consumer.metric(skipped, "no_timezone") > 0, "events of accounts switched off", consumer)
        conn.execute(change, ("Australia/Lord_Howe", 0))  # switched on again
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert total(conn).late > sample.expected.late  # of days that waited for their rebuild
    assert_all_counted(conn, sample)


def test_an_offset_that_is_gone_stops_it_until_it_may_reset(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(1)
    first, second = load(1_000), load(1_000, 2, first_id=5_000)
    prepare(conn, first, second)
    produce(kafka_bootstrap, topic, first.messages())
    settings: dict[str, str | int] = {"KAFKA_GROUP_INSTANCE_ID": "only"}
    consumer = start_consumer(topic, **settings)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert consumer.terminate() == 0

    produce(kafka_bootstrap, topic, second.messages())
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap, "log_level": 0})
    for deleted in admin.delete_records([TopicPartition(topic, 0, 1_300)]).values():
        deleted.result(30)
    consumer = start_consumer(topic, **settings)
    assert consumer.wait() == 5
    said = consumer.wait_for_log("failed")["message"]
    assert f"{topic}[0]: the stored offset 1000 lies before the log's start 1300" in said
    assert "up to 300 unread messages" in said
    assert "ON_OFFSET_GAP=reset" in said
    assert "python -m backfill" in said
    assert total(conn).messages == 1_000
    consumer = start_consumer(topic, ON_OFFSET_GAP="reset", **settings)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert f"{topic}[0]" in consumer.wait_for_log("offset_gap")["message"]
    assert consumer.metric("offset_gaps_total") == 1
    assert total(conn).counted == 1_700
    assert consumer.terminate() == 0

    admin.delete_topics([topic])[topic].result(30)
    wait_for(lambda: topic not in admin.list_topics(timeout=10).topics, "the topic to go")
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    produce(kafka_bootstrap, topic, second.messages())
    consumer = start_consumer(topic, **settings)
    assert consumer.wait() == 9
    said = consumer.wait_for_log("failed")["message"]
    assert f"{topic}[0]: the topic was deleted and made again" in said
    assert "ON_OFFSET_GAP=reset" in said
    consumer = start_consumer(topic, ON_OFFSET_GAP="reset", **settings)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert (total(conn).counted, total(conn).duplicates) == (2_000, 700)
    assert_exact(conn)
