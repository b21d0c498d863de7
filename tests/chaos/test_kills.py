"""SIGKILL, at any moment: a crash repeats a whole transaction or nothing of it."""

import pytest

from tests.chaos.group import PROTOCOLS
from tests.chaos.world import World

KILLS = 4


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
