"""A newer tzdata moves the boundaries of days between counting and recounting (docs/decisions/0004-time-zones.md)."""

from pathlib import Path

from tests.chaos.world import World
from tests.fixtures.events import ZONES
from tests.fixtures.older_tzdata import STAND_INS, what_to_do


def test_tzdata_is_updated(world: World, older_tzdata: Path) -> None:
    assert STAND_INS.keys() < set(ZONES)
    world.begin(unrest=False)  # rebuilds have the same tzdata as consumers
    for _ in range(2):
        world.start(PYTHONPATH=str(older_tzdata))
    world.until_read(world.chance.randrange(500, 1_000))
    if world.chance.random() < 0.5:
        world.run("backfill", "--stale", PYTHONPATH=str(older_tzdata))
    for consumer in list(world.consumers):
        world.terminate(consumer)
    world.rest()
    first, last = world.dates()
    code, out, _ = world.run("backfill", "verify", "--all-accounts", "--date", f"{first}..{last}")
    assert code == 1, f"verify does not see that days were cut elsewhere:\n{out}"
    for zone in STAND_INS:
        world.conn.execute(what_to_do(zone, first))
    world.go_on()
    for _ in range(2):
        world.start()
    world.until_read(100)
    world.settle()
