"""Rebuilds of the days that are being counted, changes of time zone, and kills of everybody, all at once."""

import os
from pathlib import Path

import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.group import PROTOCOLS, one_is_quick
from tests.chaos.unrest import SETTLE_SECONDS, change_zone
from tests.chaos.world import World
from tests.fixtures.processes import Program


class Rebuilding:
    """`python -m backfill` over today and the days around it, started again whenever it has ended.

    Args:
        world: whose database.
        folder: for what it writes.
        words: of the command.
    """

    def __init__(self, world: World, folder: Path, *words: str) -> None:
        self._words = ["backfill", *words]
        self._environment = {**os.environ, "DATABASE_URL": world.url}
        self._folder = folder
        self._count = 0
        self._program: Program | None = None
        self.killed = 0

    def keep_going(self) -> Program:
        """It runs, for the first time or once more."""
        if self._program is None or self._program.code is not None:
            # 1: a day could not be rebuilt now, since its raw rows or its time zone are not settled.
            assert self._program is None or self._program.code in {0, 1, -9}, self._program.tail()
            self._count += 1
            self._program = Program(self._folder / f"backfill-{self._count}", self._words, self._environment)
        return self._program

    def kill(self) -> None:
        """SIGKILL."""
        if self._program is not None:
            self.killed += self._program.code is None
            self._program.kill()


@pytest.mark.parametrize("protocol", one_is_quick("classic"))
def test_rebuilds_and_consumers_are_killed_while_time_zones_change(
    make_world: MakeWorld, protocol: str, tmp_path: Path
) -> None:
    # Raw rows come first: whoever changes a time zone may not write rows of older messages later than it settles.
    world = make_world(raw_first=True)
    world.begin(unrest=False)
    world.conn.execute("UPDATE rollup_control SET settle_seconds = %s", (SETTLE_SECONDS,))
    first, last = world.dates()
    dates = f"{first}..{last}"
    rebuilding = Rebuilding(world, tmp_path, "--all-accounts", "--date", dates, "--jobs", "2", "--quiet")
    members = PROTOCOLS[protocol]
    for _ in range(2):
        world.start(**members)
    world.until_read(100)
    for _ in range(10):
        deed = world.chance.choice(["rebuild", "rebuild", "zone", "consumer"])
        rebuilding.keep_going()
        if deed == "rebuild":
            world.wait(world.chance.uniform(0.6, 1.5))  # starting takes half a second
            rebuilding.kill()
        elif deed == "zone":
            change_zone(world.conn, world.chance)
            world.wait(world.chance.uniform(0, 0.5))
        else:
            world.kill(world.chance.choice(world.consumers))
            world.start(**members)
    world.until_read(1)
    rebuilding.kill()
    world.settle()


def test_days_are_rebuilt_without_end_under_load(world: World, tmp_path: Path) -> None:
    """Raw rows come before their messages and after them, and the same days are rebuilt by two at once."""
    world.begin(unrest=False)
    first, last = world.dates()
    words = ("--all-accounts", "--date", f"{first}..{last}", "--quiet")
    both = [Rebuilding(world, tmp_path / name, *words) for name in ("one", "two")]
    for _ in range(2):
        world.start()
    for _ in range(12):
        for each in both:
            each.keep_going()
        world.wait(world.chance.uniform(0.1, 0.6))
        if world.chance.random() < 0.4:
            world.chance.choice(both).kill()
    for each in both:
        each.kill()
    assert sum(each.killed for each in both)
    world.settle()
