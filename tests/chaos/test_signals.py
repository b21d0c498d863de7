"""SIGTERM in every state: ended within 10 seconds, with 0, nothing lost or repeated. A second one ends it at once."""

import signal
from collections.abc import Callable
from contextlib import ExitStack

import psycopg
import pytest

from tests.chaos.group import PROTOCOLS
from tests.chaos.postgres_wire import PostgresWire, through
from tests.chaos.proxy import Proxy
from tests.chaos.world import World
from tests.fixtures.processes import Consumer

Fault = Callable[[World, ExitStack], Consumer]


def starting(world: World, stack: ExitStack) -> Consumer:
    """Before it has read anything, from the moment on at which it can be asked."""
    consumer = world.start()
    consumer.wait_for_log("http_listening")
    world.wait(world.chance.uniform(0, 0.5))
    return consumer


def rebalancing(world: World, stack: ExitStack) -> Consumer:
    """While others come and go."""
    consumer = world.start()
    world.until(lambda: consumer.logged("partitions_assigned"), "partitions")
    world.start()
    world.kill(world.start())
    world.wait(world.chance.uniform(0, 2))
    return consumer


def database_refuses(world: World, stack: ExitStack) -> Consumer:
    """PostgreSQL cannot be reached."""
    proxy, consumer = behind_a_proxy(world, stack)
    proxy.refuse()
    consumer.wait_for_log("database_lost")
    world.wait(world.chance.uniform(0, 2))
    return consumer


def database_hangs(world: World, stack: ExitStack) -> Consumer:
    """PostgreSQL takes everything and answers nothing."""
    proxy, consumer = behind_a_proxy(world, stack)
    proxy.silence()
    world.wait(world.chance.uniform(0, 3))
    return consumer


def paused(world: World, stack: ExitStack) -> Consumer:
    """Somebody holds the days; the batches that wait fill what may wait, and reading is paused."""
    consumer = world.start()
    world.until(lambda: consumer.metric("transactions_total") > 0, "transactions")
    holder = stack.enter_context(psycopg.connect(world.url))
    holder.execute("SELECT FROM rollup_days FOR UPDATE")
    consumer.wait_for_log("paused")
    stack.callback(holder.rollback)
    return consumer


def behind_a_proxy(world: World, stack: ExitStack) -> tuple[Proxy, Consumer]:
    """A consumer that counts, and what stands between it and PostgreSQL."""
    proxy = stack.enter_context(Proxy(wire=PostgresWire))
    consumer = world.start(DATABASE_URL=through(proxy, world.url))
    world.until(lambda: consumer.metric("transactions_total") > 0, "transactions")
    return proxy, consumer


STATES: dict[str, Fault] = {
    state.__name__: state for state in (starting, rebalancing, database_refuses, database_hangs, paused)
}


@pytest.mark.parametrize("state", STATES)
def test_sigterm(world: World, stack: ExitStack, state: str) -> None:
    world.begin()
    consumer = STATES[state](world, stack)
    world.terminate(consumer)
    stack.close()
    world.settle()


@pytest.mark.parametrize("state", ["paused", "database_hangs"])
def test_a_second_sigterm_ends_it_at_once(world: World, stack: ExitStack, state: str) -> None:
    world.begin()
    consumer = STATES[state](world, stack)
    consumer.send(signal.SIGTERM)
    consumer.wait_for_log("stopping")
    consumer.send(signal.SIGTERM)
    assert consumer.wait(3) == -signal.SIGTERM
    world.forget(consumer)
    stack.close()
    world.settle()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_everybody_is_sent_sigterm_again_and_again(world: World, protocol: str) -> None:
    world.begin()
    for _ in range(3):
        for _ in range(2):
            world.start(**PROTOCOLS[protocol])
        world.until_read(world.chance.randrange(1, 200))
        for consumer in list(world.consumers):
            consumer.wait_for_log("http_listening")
            consumer.send(signal.SIGTERM)
        for consumer in list(world.consumers):
            assert consumer.wait_for_stop() == 0, consumer.tail()
            world.forget(consumer)
    world.settle()
