"""SIGKILL, at any moment and at every named one: a crash repeats a whole transaction or nothing of it."""

import threading
from contextlib import ExitStack

import pytest

from tests.chaos.group import PROTOCOLS
from tests.chaos.postgres_wire import COMMIT, PostgresWire, through
from tests.chaos.proxy import Cut, Deed, Piece, Proxy
from tests.chaos.world import World
from tests.fixtures.processes import Consumer, wait_for

KILLS = 4
POINTS = 3
"""Named points of a run, besides the two around COMMIT."""
STATEMENTS = 16
"""About how many a transaction has; a point beyond the last one is its COMMIT."""
WRITER = "reporting-rollup consumer"
"""What the connection that writes calls itself."""


@pytest.mark.quick
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_consumers_are_killed_at_random(world: World, protocol: str) -> None:
    members = PROTOCOLS[protocol]
    world.begin()
    for _ in range(2):
        world.start(**members)
    for _ in range(KILLS):
        world.until_read(world.chance.randrange(1, 150))
        world.wait(world.chance.uniform(0, 0.3))  # anywhere: reading, in a transaction, in a rebalance
        world.kill(world.chance.choice(world.consumers))
        world.start(**members)
    world.until_read(1)
    world.settle()


class Assassin:
    """Kills a consumer at a point of its n-th transaction: before a statement leaves it, or before COMMIT's answer
    reaches it.

    Args:
        transactions: how many to let pass first.
        step: the statement, counted from BEGIN, which is 0; the COMMIT if the transaction has fewer.
        answer: the answer to COMMIT instead: it happened, and nobody has told the consumer.
    """

    def __init__(self, transactions: int, step: int, *, answer: bool = False) -> None:
        self._left = transactions
        self._step = step
        self._answer = answer
        self._done = threading.Event()
        self.victim: Consumer | None = None
        self.where = ""

    @property
    def done(self) -> bool:
        """Whether it has killed."""
        return self._done.is_set()

    def __call__(self, piece: Piece) -> Deed:
        """A proxy's `interfere`: runs while the piece waits to be sent on."""
        if self._done.is_set():
            return Cut()
        if piece.client != WRITER or not self._is_there(piece) or self.victim is None:
            return None
        self.victim.kill()
        self.where = f"{'answer to ' if self._answer else ''}{piece.label}"
        self._done.set()
        return Cut()

    def _is_there(self, piece: Piece) -> bool:
        if piece.to_server and piece.label == "BEGIN":
            self._left -= 1
        if self._left >= 0:
            return False
        if self._answer:
            return not piece.to_server and piece.label == COMMIT
        return piece.to_server and (piece.step >= self._step or piece.label == COMMIT)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_consumers_are_killed_at_named_points(world: World, stack: ExitStack, protocol: str) -> None:
    members = PROTOCOLS[protocol]
    world.begin()
    steps = [0, *world.chance.sample(range(1, STATEMENTS), POINTS), 10**6]
    assassins = [Assassin(world.chance.randrange(1, 6), step) for step in steps]
    assassins.append(Assassin(world.chance.randrange(1, 6), 0, answer=True))
    world.chance.shuffle(assassins)
    for assassin in assassins:
        proxy = stack.enter_context(Proxy(wire=PostgresWire))
        url = through(proxy, world.url)
        proxy.interfere = assassin
        # The same static member each time: its partitions are the next one's at once.
        victim = world.start(DATABASE_URL=url, KAFKA_GROUP_INSTANCE_ID="victim", **members)
        assassin.victim = victim
        wait_for(lambda assassin=assassin: assassin.done, "a kill", seconds=60)  # type: ignore[misc]
        world.forget(victim)
        assert victim.code == -9
        print(f"killed before {assassin.where}")  # noqa: T201 - pytest shows it when the test has failed
    world.settle(**members)
