"""A broker or a database that is away, as a consumer starts or while it runs: it stays, is not ready and says why, asks
less and less often, says so once and not at every attempt, and goes on when there is an answer again."""

import json
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg.conninfo import conninfo_to_dict

from local.events import produce
from local.kafka import Kafka
from local.processes import free_port
from tests.chaos.proxy import Proxy
from tests.fixtures.events import assert_exact, load, prepare, total, wait_until_read
from tests.fixtures.processes import Consumer, StartConsumer, wait_for
from tests.fixtures.ways import broker_behind_proxy, url_through

pytestmark = pytest.mark.timeout(300)

Connection = psycopg.Connection[Any]

GROWN_SECONDS = 2.0
"""Between two attempts to connect: many times the first wait, and below the longest."""
MOST_ATTEMPTS = 40
"""To connect, until they are so far apart."""
MOST_LINES = 12
"""Of librdkafka's own, in a log of seconds."""
BACK_SECONDS = 60.0
"""What was away is back, and its clients ask for it rarely."""


class Way:
    """A proxy to a server that the test takes away and gives back: connections are accepted and reset at once."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.target = proxy.target

    def take_away(self) -> None:
        self.proxy.target = free_port()  # where nobody listens
        self.proxy.cut()

    def give_back(self) -> None:
        self.proxy.target = self.target

    def until_attempts_are_rare(self, consumer: Consumer) -> None:
        """Wait until an attempt came long after the one before, and not after too many."""
        start = last = self.proxy.sessions
        at = time.monotonic()

        def rare() -> bool:
            nonlocal last, at
            now, sessions = time.monotonic(), self.proxy.sessions
            if sessions == last:
                return False
            gap, last, at = now - at, sessions, now
            return gap >= GROWN_SECONDS and sessions - start > 3

        wait_for(rare, f"an attempt {GROWN_SECONDS} s after another", consumer, seconds=BACK_SECONDS)
        assert last - start <= MOST_ATTEMPTS


@pytest.fixture(scope="module")
def kafka_way() -> Iterator[tuple[Way, Kafka]]:
    with broker_behind_proxy() as (proxy, broker):
        yield Way(proxy), broker


@pytest.fixture
def database_way(database_url: str) -> Iterator[Way]:
    with Proxy(int(conninfo_to_dict(database_url)["port"] or 5432)) as proxy:
        yield Way(proxy)


def reasons(consumer: Consumer) -> str:
    """Why it is not ready; nothing if it is."""
    code, body = consumer.get("/readyz")
    answer = json.loads(body)
    assert (code == 200) == answer["ok"] == (not answer["reasons"])
    return "; ".join(answer["reasons"])


@pytest.mark.parametrize("running", [False, True], ids=["as it starts", "while it runs"])
@pytest.mark.parametrize("away", ["database", "kafka"])
def test_it_waits(
    away: str,
    running: bool,
    conn: Connection,
    database_url: str,
    database_way: Way,
    kafka_way: tuple[Way, Kafka],
    start_consumer: StartConsumer,
) -> None:
    to_kafka, broker = kafka_way
    way = database_way if away == "database" else to_kafka
    topic, sample = f"{away}-{running}", load(200)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
    prepare(conn, sample)
    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{to_kafka.proxy.port}",
        "DATABASE_URL": url_through(database_way.proxy, database_url),
    }
    try:
        if not running:
            way.take_away()
        consumer = start_consumer(topic, **variables)
        if running:
            consumer.wait_for_log("partitions_assigned")  # so that what is sent now gets as far as the writer
            consumer.wait_for_status("/readyz", 200)
            way.take_away()
        produce(broker.bootstrap, topic, sample.messages())
        wait_for(lambda: f"{away}: " in reasons(consumer), f"a reason that names {away}", consumer)
        assert ("starting" in reasons(consumer)) != running
        if away == "database":
            way.until_attempts_are_rare(consumer)
            assert len(consumer.logged("database_lost")) <= (2 if running else 1)  # the writer's, and the reader's
        else:
            # Each attempt waits for an answer; the lines of librdkafka and ours about it come once a minute.
            wait_for(lambda sessions=way.proxy.sessions: way.proxy.sessions > sessions + 5, "attempts", consumer)  # type: ignore[misc]
            texts = [line["message"] for line in consumer.logged("kafka_client")]
            assert len(texts) <= MOST_LINES
            assert len([text for text in texts if "no broker answers yet" in text]) == (0 if running else 1)
        assert consumer.get("/livez")[0] == 200
        assert consumer.get("/readyz")[0] == 503
    finally:
        way.give_back()
    wait_for(lambda: consumer.get("/readyz")[0] == 200, "a consumer that is ready", consumer, seconds=BACK_SECONDS)
    wait_until_read(conn, broker.bootstrap, topic, consumer)
    if away == "database":
        consumer.wait_for_log("database_back")
    assert total(conn).counted == sample.expected.events
    assert_exact(conn)
    assert consumer.terminate() == 0
