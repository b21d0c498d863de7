"""Members that come and go all the time, and partitions that are added: everything is read, and once."""

import pytest

from tests.chaos.group import PROTOCOLS, one_is_quick
from tests.chaos.world import World

TURNS = 8
MOST_MEMBERS = 4


@pytest.mark.parametrize("protocol", one_is_quick("consumer"))
def test_members_join_and_leave_every_second(world: World, protocol: str) -> None:
    members = PROTOCOLS[protocol]
    world.begin()
    world.start(**members)
    world.until_read(100)
    for _ in range(TURNS):
        if len(world.consumers) == 1 or (len(world.consumers) < MOST_MEMBERS and world.chance.random() < 0.5):
            world.start(**members)
        else:
            leaver = world.chance.choice(world.consumers)
            # One that is starting ends at once at SIGTERM: nothing of it is there to be ended in order.
            if leaver.logged("http_listening") and world.chance.random() < 0.5:
                world.terminate(leaver)
            else:
                world.kill(leaver)
        world.wait(world.chance.uniform(0.5, 1.2))
    world.until_read(1)
    world.settle()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_partitions_are_added_under_load(world: World, protocol: str) -> None:
    members = PROTOCOLS[protocol] | {"KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS": 1_000}
    world.begin()
    for _ in range(2):
        world.start(**members)
    world.until_read(200)
    world.topic.grow(world.partitions + 3)
    # Accounts move to other partitions from here on: their events are in two partitions at a time.
    world.wait(world.chance.uniform(0.5, 2))
    if world.chance.random() < 0.5:
        world.kill(world.chance.choice(world.consumers))
        world.start(**members)
    new = range(world.partitions, world.partitions + 3)
    world.until(
        lambda: all(world.offsets().get(partition, 0) > 0 for partition in new), "reading of all new partitions"
    )
    world.settle()
