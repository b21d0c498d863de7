"""The network between consumers and PostgreSQL: slow, silent, losing everything, refusing, and all of it at random.

Kafka stays within reach, so a member that waits for its database keeps its partitions, is unready but alive, and goes
on without a restart once it can. Batches are small here; what piles up meanwhile is bounded.
"""

import json
from collections.abc import Iterator

import psutil
import pytest

from tests.chaos.postgres_wire import PostgresWire, through
from tests.chaos.proxy import Deed, Hold, Piece, Proxy
from tests.chaos.world import World
from tests.fixtures.processes import Consumer

QUICK = {"DB_STATEMENT_TIMEOUT_SECONDS": 1}
"""So that a silent server is left after 2 s, not 65."""
STORM_STEPS = 12
MOST_GROWTH = 100_000_000
"""Bytes that a consumer may grow by during an outage: far more than its bounded queues, far less than a leak."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(wire=PostgresWire) as proxy:
        yield proxy


def memory(consumer: Consumer) -> int:
    return int(psutil.Process(consumer.pid).memory_info().rss)


def partitions_read(consumer: Consumer) -> int:
    return len(json.loads(consumer.get("/status")[1])["positions"])


def test_slow(world: World, proxy: Proxy) -> None:
    world.begin()
    url = through(proxy, world.url)
    consumers = [world.start(DATABASE_URL=url) for _ in range(2)]
    world.until_read(1)
    proxy.delay = world.chance.uniform(0.025, 0.25)  # there, and back: 50 to 500 ms
    world.wait(2)
    world.until_read(60)
    proxy.restore()
    proxy.bytes_per_second = world.chance.randrange(1_000, 5_000)
    world.wait(4)
    proxy.restore()
    assert [consumer.metric("db_up") for consumer in consumers] == [1, 1]
    world.settle()


@pytest.mark.parametrize("fault", ["silence", "lose_packets", "refuse"])
def test_cut_off(world: World, proxy: Proxy, fault: str) -> None:
    world.begin()
    cut_off = world.start(DATABASE_URL=through(proxy, world.url), **QUICK)
    other = world.start(**QUICK)
    both = [cut_off, other]
    world.until(lambda: [partitions_read(c) for c in both] == [2, 2], "two partitions read by each")
    world.until_read(1)
    before = memory(cut_off)
    {"silence": proxy.silence, "lose_packets": proxy.lose_packets, "refuse": proxy.refuse}[fault]()
    assert "database" in cut_off.wait_for_status("/readyz", 503)
    cut_off.wait_for_log("paused")
    assert cut_off.get("/livez")[0] == 200
    assert cut_off.metric("db_up") == 0
    world.until_read(100)  # by the other one, whose partitions are its own
    assert other.get("/readyz")[0] == 200
    world.wait(3)
    assert [c.metric("rebalances_total", "lost") for c in both] == [0, 0]
    assert [c.metric("assigned_partitions") for c in both] == [2, 2]
    assert memory(cut_off) - before < MOST_GROWTH
    proxy.restore()
    cut_off.wait_for_log("database_back")
    cut_off.wait_for_status("/readyz", 200)
    cut_off.wait_for_log("resumed")
    world.settle()


def test_cut_off_while_it_asks_for_its_offsets(world: World, proxy: Proxy) -> None:
    def never_say(piece: Piece) -> Deed:
        asked = piece.client.endswith("offsets") and piece.label.startswith("SELECT o.topic")
        return Hold(60) if asked and not piece.to_server else None

    world.begin()
    proxy.interfere = never_say
    cut_off = world.start(DATABASE_URL=through(proxy, world.url), **QUICK)
    assert "no answer" in cut_off.wait_for_log("database_lost")["message"]
    assert "database" in cut_off.wait_for_status("/readyz", 503)
    world.until(lambda: cut_off.metric("assigned_partitions") == 4, "a member that waits")
    world.until(lambda: proxy.sessions > 4, "more attempts")
    assert len(cut_off.logged("database_lost")) == 1
    assert world.read() == 0
    proxy.interfere = lambda _: None
    cut_off.wait_for_log("database_back")
    cut_off.wait_for_status("/readyz", 200)
    world.settle()


@pytest.mark.quick
def test_a_storm_of_all_that_networks_do(world: World, proxy: Proxy) -> None:
    world.begin()
    url = through(proxy, world.url)
    for _ in range(2):
        world.start(DATABASE_URL=url, **QUICK)
    world.until_read(1)
    proxy.storm(world.chance, world.wait, STORM_STEPS, delay=0.05, bytes_per_second=3_000, longest=0.8)
    world.settle()
