"""The moment that nobody can see: COMMIT is lost, half sent, answered late or not at all, again and again.

Whether it happened, the stored offsets say; a batch that is written again although it had been committed meets its own
offsets (a conflict), and is not counted twice.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.chaos.postgres_wire import COMMIT, PostgresWire, through
from tests.chaos.proxy import Cut, Deed, Hold, Interfere, Piece, Proxy
from tests.chaos.world import World
from tests.fixtures.processes import Consumer

WRITER = "reporting-rollup consumer"
"""What the connection that counts calls itself; only its COMMITs matter."""
ROUNDS = 10
KILLS = 4
STATEMENTS = 14
"""About as many statements has a transaction; a kill after more than it has happens at its COMMIT."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(wire=PostgresWire) as proxy:
        yield proxy


class Sometimes:
    """Does something to some COMMITs (or their answers), one time in three, and counts how often."""

    def __init__(self, chance: random.Random, deed: Callable[[random.Random], Deed], *, to_server: bool) -> None:
        self._chance = random.Random(chance.randrange(2**64))
        self._deed = deed
        self._to_server = to_server
        self.times = 0

    def __call__(self, piece: Piece) -> Deed:
        ours = (piece.client, piece.label, piece.to_server) == (WRITER, COMMIT, self._to_server)
        if not ours or self._chance.random() > 1 / 3:
            return None
        self.times += 1
        return self._deed(self._chance)


def begin_behind(proxy: Proxy, world: World, interfere: Interfere, **variables: str | int) -> None:
    """Load, and two consumers that reach PostgreSQL through the proxy."""
    proxy.interfere = interfere
    world.begin()
    for _ in range(2):
        world.start(DATABASE_URL=through(proxy, world.url), **variables)


def conflicts(world: World) -> float:
    return sum(consumer.metric("offset_conflicts_total") for consumer in world.consumers)


@pytest.mark.quick
def test_the_answer_to_commit_is_lost_again_and_again(world: World, proxy: Proxy) -> None:
    lost = Sometimes(world.chance, lambda chance: Cut(chance.random()), to_server=False)
    begin_behind(proxy, world, lost)
    world.until(lambda: lost.times >= ROUNDS, f"{ROUNDS} lost answers")
    proxy.interfere = lambda _: None
    world.until(lambda: conflicts(world) >= lost.times - len(world.consumers), "batches that met their own offsets")
    world.settle()


def test_half_of_commit_arrives(world: World, proxy: Proxy) -> None:
    cut = Sometimes(world.chance, lambda chance: Cut(chance.random()), to_server=True)
    begin_behind(proxy, world, cut)
    world.until(lambda: cut.times >= ROUNDS, f"{ROUNDS} cut COMMITs")
    proxy.interfere = lambda _: None
    world.settle()


@pytest.mark.parametrize("seconds", [3, 6])
def test_the_answer_to_commit_is_late(world: World, proxy: Proxy, seconds: int) -> None:
    """By more than the statement timeout of 2 s, and by more than the patience of 4 s with a server that hangs."""
    late = Sometimes(world.chance, lambda _: Hold(seconds), to_server=False)
    begin_behind(proxy, world, late, DB_STATEMENT_TIMEOUT_SECONDS=2)
    world.until(lambda: late.times >= 2, "late answers")
    if seconds == 6:
        world.until(lambda: conflicts(world) >= 1, "a consumer that did not wait, and met its own offsets")
    proxy.interfere = lambda _: None
    world.settle()


class Trap:
    """Kills a consumer at the first moment of a transaction that comes after `step` statements of it: before the
    statement is sent, or when its answer comes. A COMMIT springs it in any case."""

    def __init__(self, step: int, *, to_server: bool) -> None:
        self._step = step
        self._to_server = to_server
        self.consumer: Consumer | None = None
        self.sprung = ""

    def __call__(self, piece: Piece) -> Deed:
        if self.sprung:
            return Cut()
        at_once = piece.step >= self._step or piece.label == COMMIT
        if self.consumer and piece.client == WRITER and piece.to_server == self._to_server and at_once:
            os.kill(self.consumer.pid, signal.SIGKILL)
            self.sprung = piece.label
            return Cut()
        return None


@pytest.mark.quick
def test_killed_between_any_two_statements(world: World) -> None:
    world.begin()
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(wire=PostgresWire)) for _ in range(2)]

        def start(at: int) -> Consumer:  # a static member, whose successor need not wait for its session to end
            url = through(proxies[at], world.url)
            return world.start(DATABASE_URL=url, KAFKA_GROUP_INSTANCE_ID=f"member-{at}")

        members = [start(at) for at in range(2)]
        for kill in range(KILLS):
            at = world.chance.randrange(2)
            # The last one is the worst: COMMIT has happened, and its answer is under way.
            step = STATEMENTS + 100 if kill == KILLS - 1 else world.chance.randrange(STATEMENTS + 1)
            trap = Trap(step, to_server=kill < KILLS - 1 and world.chance.random() < 0.5)
            victim = members[at]
            world.forget(victim)
            trap.consumer, proxies[at].interfere = victim, trap
            world.until(lambda trap=trap: trap.sprung, f"a transaction of member {at} beyond statement {step}")  # type: ignore[misc]
            assert victim.wait() == -signal.SIGKILL
            proxies[at].interfere = lambda _: None
            members[at] = start(at)
        world.until_read(1)
        world.settle()
