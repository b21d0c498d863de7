"""Wall clocks that jump. The window of open days moves with them; nothing is lost, nothing is counted twice."""

from pathlib import Path

import pytest

from tests.chaos.world import World

HOUR, DAY = 3_600, 86_400
CLOCK_FOLDER = Path(__file__).parent / "shifted_clock"


class Clock:
    """The wall clock of the programs that get its `variables`; the test moves it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)
        self.variables: dict[str, str | int] = {"PYTHONPATH": str(CLOCK_FOLDER), "CLOCK_FILE": str(file)}

    def set(self, seconds: float) -> None:
        """So many seconds wrong from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._file)  # nobody reads half of it


@pytest.mark.quick
def test_clocks_jump(world: World, tmp_path: Path) -> None:
    clocks = [Clock(tmp_path / f"clock-{number}") for number in range(2)]
    world.begin()
    for clock in clocks:
        world.start(**clock.variables)
    world.until_read(200)
    jumps = [-HOUR, DAY, -DAY, 2 * DAY, 0, -HOUR * world.chance.random(), DAY * world.chance.random()]
    world.chance.shuffle(jumps)
    for jump in jumps:
        world.chance.choice(clocks).set(jump)
        world.until_read(60)
    for clock in clocks:  # the loop's own timing does not follow the wall clock
        clock.set(0)
    world.until_read(60)
    world.settle()


def test_days_are_closed_by_a_clock_that_is_ahead(world: World, tmp_path: Path) -> None:
    world.ids_are_whole = False  # those of closed days go
    right, ahead = Clock(tmp_path / "right"), Clock(tmp_path / "ahead")
    ahead.set(world.chance.choice([DAY, 2 * DAY, 5 * DAY]))
    world.begin()
    for clock in (right, ahead):
        world.start(**clock.variables)
    for _ in range(2):
        world.until_read(100)
        # Closes days that are still open, prunes their ids, and rebuilds what the other one counted since.
        world.run("backfill", "--stale", **ahead.variables)
        world.run("backfill", "close", **ahead.variables)
        world.until_read(100)
        world.run("backfill", "--stale", **right.variables)
    world.settle()
