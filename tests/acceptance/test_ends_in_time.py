"""SIGTERM ends a consumer within its time whatever is away."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg.conninfo import conninfo_to_dict

from local.events import produce
from local.kafka import Kafka
from tests.chaos.group import PROTOCOLS
from tests.chaos.proxy import Proxy
from tests.fixtures.events import load, prepare
from tests.fixtures.processes import StartConsumer, wait_for
from tests.fixtures.ways import broker_behind_proxy, url_through

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def kafka_way() -> Iterator[tuple[Proxy, Kafka]]:
    with broker_behind_proxy() as way:
        yield way


@pytest.fixture
def database_way(database_url: str) -> Iterator[Proxy]:
    with Proxy(int(conninfo_to_dict(database_url)["port"] or 5432)) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("protocol", "fault", "away", "starting"),
    [
        ("classic", "silence", "both", True),
        ("classic", "refuse", "kafka", True),
        ("classic", "silence", "kafka", False),
        ("classic", "refuse", "kafka", False),
        ("consumer", "silence", "kafka", False),
        ("classic", "silence", "database", False),
    ],
)
def test_it_ends(
    protocol: str,
    fault: str,
    away: str,
    starting: bool,
    conn: Connection,
    database_url: str,
    kafka_way: tuple[Proxy, Kafka],
    database_way: Proxy,
    start_consumer: StartConsumer,
) -> None:
    """To leave the group is a courtesy: without it the session times out."""
    to_kafka, broker = kafka_way
    topic, sample = f"{protocol}-{fault}-{away}-{starting}", load(200)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
    prepare(conn, sample)
    ways = {"kafka": [to_kafka], "database": [database_way], "both": [to_kafka, database_way]}[away]

    def take_away() -> None:
        for way in ways:
            way.silence() if fault == "silence" else way.refuse()

    try:
        if starting:
            take_away()
        consumer = start_consumer(
            topic,
            KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{to_kafka.port}",
            DATABASE_URL=url_through(database_way, database_url),
            **PROTOCOLS[protocol],
        )
        if not starting:
            consumer.wait_for_log("partitions_assigned")
            produce(broker.bootstrap, topic, sample.messages())
            take_away()
        wait_for(lambda: consumer.get("/readyz")[0] == 503, "it to notice", consumer)
        assert consumer.terminate() == 0
    finally:
        to_kafka.restore()
