"""Kafka is killed, hangs, is out of reach or not there yet, under load and with two consumers.

Whoever cannot reach it is dropped by the group, or does not even notice; others may get its partitions meanwhile. Its
stored offsets keep what it still has in hand from being counted twice, and it comes back without a restart.
"""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local.kafka import Kafka
from tests.chaos.conftest import MakeWorld
from tests.chaos.group import PROTOCOLS
from tests.chaos.proxy import Proxy
from tests.chaos.world import World
from tests.fixtures.processes import Consumer
from tests.fixtures.services import KAFKA_PROPERTIES

KILLS = 3
STORM_STEPS = 10
MOST_GROWTH = 100_000_000
"""Bytes that a consumer may grow by while it waits."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """The only way to the broker for clients that are told so."""
    with Proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def broker(proxy: Proxy) -> Iterator[Kafka]:
    """A broker that tests may stop, and leave running."""
    folder = Path(tempfile.mkdtemp(prefix="reporting-rollup-chaos-"))
    broker = Kafka(folder / "kafka", properties=KAFKA_PROPERTIES, behind=proxy.port)
    proxy.target = broker.behind_port
    with broker:
        yield broker
    broker.remove()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_world(broker: Kafka, proxy: Proxy, make_world: MakeWorld) -> Iterator[World]:
    """A world whose topic is on that broker; the proxy does no harm in the beginning."""
    broker.start()  # a test that failed may have left it as it was
    proxy.restore()
    yield make_world(bootstrap=broker.bootstrap)
    proxy.restore()


def behind(proxy: Proxy) -> str:
    return f"127.0.0.1:{proxy.port}"


def memory(consumer: Consumer) -> int:
    return int(psutil.Process(consumer.pid).memory_info().rss)


def until_all_are_members(world: World, seconds: float = 60) -> None:
    """Wait until every consumer owns something again, together all, and is ready."""

    def owned() -> bool:
        each = [consumer.metric("assigned_partitions") for consumer in world.consumers]
        ready = [consumer.get("/readyz")[0] for consumer in world.consumers]
        return all(each) and sum(each) == world.partitions and set(ready) == {200}

    world.until(owned, "a group that is whole again", seconds)


@pytest.mark.quick
def test_killed_under_load(broker: Kafka, own_world: World) -> None:
    """It has no time to write down where its logs end, and looks through them as it starts."""
    own_world.begin()
    for _ in range(2):
        own_world.start()
    own_world.until_read(1)
    for _ in range(KILLS):
        own_world.wait(own_world.chance.uniform(0.2, 1.5))
        broker.kill()
        own_world.wait(own_world.chance.uniform(0, 1.5))
        assert [consumer.get("/livez")[0] for consumer in own_world.consumers] == [200, 200]
        broker.start()
        if own_world.chance.random() < 0.5:
            own_world.until_read(1)
    own_world.until_read(1)
    own_world.settle()


@pytest.mark.parametrize(
    ("protocol", "seconds"),
    [("classic", 5), ("consumer", 5), pytest.param("classic", 60, marks=pytest.mark.timeout(240))],
)
def test_it_hangs(broker: Kafka, own_world: World, protocol: str, seconds: int) -> None:
    """For longer than the session timeout. To everybody it is as if it had become unreachable."""
    own_world.begin()
    for _ in range(2):
        own_world.start(**PROTOCOLS[protocol])
    own_world.until_read(1)
    until_all_are_members(own_world)
    before = [memory(consumer) for consumer in own_world.consumers]
    assert broker.pid is not None
    process = psutil.Process(broker.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        own_world.wait(seconds)
        if protocol == "classic":
            for consumer in own_world.consumers:
                assert "group" in consumer.wait_for_status("/readyz", 503)
        assert [consumer.get("/livez")[0] for consumer in own_world.consumers] == [200, 200]
        for consumer, was in zip(own_world.consumers, before, strict=True):
            assert memory(consumer) - was < MOST_GROWTH
    finally:
        process.send_signal(signal.SIGCONT)
    # Silence may leave a request of the client waiting, for its socket.timeout.ms: a minute by default. Then it joins.
    until_all_are_members(own_world, 90 + seconds)
    own_world.settle()


def test_it_is_not_there_yet(broker: Kafka, own_world: World) -> None:
    own_world.begin()
    broker.stop()
    waiting = [own_world.start() for _ in range(2)]
    for consumer in waiting:
        own_world.until(lambda c=consumer: "no broker answers" in c.tail(), "a consumer that says what it waits for")  # type: ignore[misc]
        assert consumer.get("/startupz")[0] == consumer.get("/readyz")[0] == 503
        assert consumer.get("/livez")[0] == 200
    broker.start()
    for consumer in waiting:
        consumer.wait_for_log("started")
    until_all_are_members(own_world)
    own_world.settle()


@pytest.mark.parametrize(
    ("protocol", "fault"),
    [("classic", "silence"), ("classic", "refuse"), ("classic", "lose_packets"), ("consumer", "lose_packets")],
)
def test_a_member_is_cut_off(own_world: World, proxy: Proxy, protocol: str, fault: str) -> None:
    """From Kafka alone: it may go on with what it had read, while another one gets its partitions."""
    members = PROTOCOLS[protocol]
    own_world.begin()
    cut_off = own_world.start(KAFKA_BOOTSTRAP_SERVERS=behind(proxy), **members)
    other = own_world.start(**members)
    until_all_are_members(own_world)
    own_world.until_read(1)
    {"silence": proxy.silence, "lose_packets": proxy.lose_packets, "refuse": proxy.refuse}[fault]()
    own_world.until(lambda: other.metric("assigned_partitions") == own_world.partitions, "an heir of all partitions")
    if protocol == "classic":  # by its own clock; with `consumer`, it only learns of it when it comes back
        cut_off.wait_for_log("partitions_lost")
        assert "group" in cut_off.wait_for_status("/readyz", 503)
    assert cut_off.get("/livez")[0] == 200
    own_world.until_read(100)
    proxy.restore()
    until_all_are_members(own_world, 90)  # as above
    own_world.settle()


@pytest.mark.quick
def test_a_storm_between_consumers_and_kafka(own_world: World, proxy: Proxy) -> None:
    own_world.begin()
    for _ in range(2):
        own_world.start(KAFKA_BOOTSTRAP_SERVERS=behind(proxy), **PROTOCOLS["classic"])
    own_world.until_read(1)
    proxy.storm(own_world.chance, own_world.wait, STORM_STEPS, delay=0.2, bytes_per_second=5_000, longest=1.0)
    own_world.settle()
