"""A Kafka client that was told of a cluster without brokers knows nobody any more whom it could ask, and does not say
so. The consumer notices, and goes on with a new client."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from local.events import produce
from local.kafka import Kafka
from tests.fixtures.events import assert_exact, load, prepare, wait_until_read
from tests.fixtures.forgetful_broker import ForgetfulBroker
from tests.fixtures.processes import Consumer, StartConsumer, wait_for
from tests.fixtures.services import KAFKA_PROPERTIES

Connection = psycopg.Connection[Any]

TOPIC = "events"
FORGETS_SECONDS = 3.0
"""Time enough for the client to ask, which it does every half second; the one that asks for the ids of topics comes
first at times."""
SECONDS = 90.0
"""Without messages for 10 s, without brokers for 20, asked every 4, and time to join a group."""


@pytest.fixture
def way(tmp_path: Path) -> Iterator[ForgetfulBroker]:
    """The only way to a broker that has a topic."""
    with ForgetfulBroker() as way:
        kafka = Kafka(tmp_path / "kafka", properties=KAFKA_PROPERTIES, behind=way.port)
        way.target = kafka.behind_port
        with kafka:
            admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
            admin.create_topics([NewTopic(TOPIC, 2, 1)])[TOPIC].result(30)
            yield way
        kafka.remove()


def lose_brokers(way: ForgetfulBroker, consumer: Consumer) -> None:
    way.forgets = True
    wait_for(lambda: way.last_forgot, "a question for metadata", consumer)
    time.sleep(FORGETS_SECONDS)
    way.forgets = False


@pytest.mark.timeout(300)
def test_a_client_that_lost_its_brokers_is_replaced(
    way: ForgetfulBroker, conn: Connection, start_consumer: StartConsumer
) -> None:
    bootstrap = f"127.0.0.1:{way.port}"
    early, late = load(200), load(100, seed=2, first_id=1_000)
    prepare(conn, early, late)
    consumer = start_consumer(
        TOPIC,
        KAFKA_BOOTSTRAP_SERVERS=bootstrap,
        KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS=500,  # how often it asks by itself; else only when something is wrong
        KAFKA_SESSION_TIMEOUT_MS=6_000,
        # Otherwise a client that knows nobody any more goes back to its bootstrap servers, except when its threads end
        # in an unlucky order: then it stays lost, and so it is here always.
        KAFKA_METADATA_RECOVERY_STRATEGY="none",
    )
    produce(bootstrap, TOPIC, early.messages())
    wait_until_read(conn, bootstrap, TOPIC, consumer)

    lose_brokers(way, consumer)
    produce(bootstrap, TOPIC, late.messages())
    wait_for(lambda: "has lost its brokers" in consumer.tail(200), "a new client", consumer, seconds=SECONDS)
    wait_until_read(conn, bootstrap, TOPIC, consumer, seconds=SECONDS)
    consumer.wait_for_status("/readyz", 200)
    assert_exact(conn)
    assert consumer.terminate() == 0
