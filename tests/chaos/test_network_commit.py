"""The moment that nobody can see: COMMIT is lost, half sent, answered late or not at all, again and again.

Whether it happened, the stored offsets say; a batch that is written again although it had been committed meets its own
offsets (a conflict), and is not counted twice.
"""

import random
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.postgres_wire import COMMIT, PostgresWire, through
from tests.chaos.proxy import Cut, Deed, Hold, Interfere, Piece, Proxy
from tests.chaos.world import World

WRITER = "reporting-rollup consumer"
"""What the connection that counts calls itself; only its COMMITs matter."""
ROUNDS = 10


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
