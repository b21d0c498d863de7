"""A newer tzdata moves the boundaries of days between counting and recounting (docs/decisions/0004-time-zones.md)."""

import re
import shutil
from datetime import date
from importlib import resources
from pathlib import Path

import pytest

from tests.chaos.world import World
from tests.fixtures.events import ZONES

DECISION = Path(__file__).parents[2] / "docs/decisions/0004-time-zones.md"
STAND_INS = {"Europe/Berlin": "Europe/Istanbul", "Asia/Kolkata": "Asia/Dhaka", "America/New_York": "America/Halifax"}
"""What an old release may have believed of a zone: hours and half hours off."""


@pytest.fixture
def older_tzdata(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with a tzdata that is wrong about some zones."""
    folder = tmp_path / "site"
    shutil.copytree(Path(str(resources.files("tzdata"))), folder / "tzdata")
    zones = folder / "tzdata" / "zoneinfo"
    for name, stand_in in STAND_INS.items():
        shutil.copyfile(zones / stand_in, zones / name)
    return folder


def what_to_do(zone: str, first: date) -> str:
    """The statement in the decision, for another zone and date."""
    statement: str
    (statement,) = re.findall(r"^```sql\n(.*?)^```", DECISION.read_text(), re.MULTILINE | re.DOTALL)
    assert "'America/Sao_Paulo'" in statement
    assert "'2026-10-31'" in statement
    return statement.replace("America/Sao_Paulo", zone).replace("2026-10-31", str(first))


def test_tzdata_is_updated(world: World, older_tzdata: Path) -> None:
    assert STAND_INS.keys() < set(ZONES)
    world.begin()
    for _ in range(2):
        world.start(PYTHONPATH=str(older_tzdata))
    world.until_read(world.chance.randrange(500, 1_000))
    if world.chance.random() < 0.5:
        world.run("backfill", "--stale", PYTHONPATH=str(older_tzdata))
    for consumer in list(world.consumers):
        world.terminate(consumer)
    world.load.rest()
    first, last = world.dates()
    code, out, _ = world.run("backfill", "verify", "--all-accounts", "--date", f"{first}..{last}")
    assert code == 1, f"verify does not see that days were cut elsewhere:\n{out}"
    for zone in STAND_INS:
        world.conn.execute(what_to_do(zone, first))
    world.load.go_on()
    for _ in range(2):
        world.start()
    world.until_read(100)
    world.settle()
