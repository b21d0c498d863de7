"""SIGSTOP for longer than the session timeout: others take over, and the zombie that wakes up does no harm."""

import pytest

from tests.chaos.group import PROTOCOLS, SESSION_MS, Variables
from tests.chaos.world import World
from tests.fixtures.processes import wait_for

IMPATIENT: Variables = {"DB_STATEMENT_TIMEOUT_SECONDS": 2}
"""How long a transaction of a frozen process may keep others from its partitions."""


@pytest.mark.quick
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_zombie_wakes_up(world: World, protocol: str) -> None:
    members = PROTOCOLS[protocol] | IMPATIENT
    world.begin()
    heir, zombie = world.start(**members), world.start(**members)
    world.until_read(300)
    world.until(lambda: zombie.metric("assigned_partitions") > 0, "partitions of the one that will be a zombie")
    world.wait(world.chance.uniform(0, 0.3))  # anywhere in a transaction
    world.freeze(zombie)
    world.until(lambda: heir.metric("assigned_partitions") == world.partitions, "an heir of all partitions")
    world.until_read(100)
    world.thaw(zombie)
    world.wait(world.chance.uniform(0, 1))
    world.settle()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_static_zombie_wakes_up_beside_its_successor(world: World, protocol: str) -> None:
    members = PROTOCOLS[protocol] | IMPATIENT | {"KAFKA_GROUP_INSTANCE_ID": "one"}
    world.begin()
    zombie = world.start(**members)
    world.until_read(300)
    world.wait(world.chance.uniform(0, 0.3))
    world.freeze(zombie)
    successor = world.start(**members)
    successor.wait_for_log("partitions_assigned")
    world.until_read(50)
    world.thaw(zombie)
    if protocol == "classic":  # it is fenced, and says so
        wait_for(lambda: zombie.code is not None, "the end of the fenced one", successor)
        assert zombie.code == 7, zombie.tail()
        world.forget(zombie)
    else:  # it has been given up, and waits until the name is free
        world.until(lambda: zombie.get("/readyz")[0] == 503, "a zombie that knows that it has nothing")
    world.until_read(50)
    world.settle()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_everybody_is_frozen_again_and_again(world: World, protocol: str) -> None:
    members = PROTOCOLS[protocol] | IMPATIENT
    world.begin()
    both = [world.start(**members) for _ in range(2)]
    world.until_read(200)
    for _ in range(3):
        consumer = world.chance.choice(both)
        world.freeze(consumer)
        # Sometimes too short for anybody to notice, sometimes long enough to be given up.
        world.wait(world.chance.uniform(0.2, 1.6) * SESSION_MS / 1000)
        world.thaw(consumer)
        world.wait(world.chance.uniform(0, 0.5))
    world.settle()
