"""What every scenario gets: a seed, chance that depends on nothing else, and a world to break.

    make chaos SEED=7           one seed
    make chaos SEEDS=30         seeds 1 to 30
    make chaos ONLY=storm       the scenarios whose name has that word

A failure prints the command that repeats it.
"""

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.chaos.group import quicken
from tests.chaos.world import World
from tests.fixtures.processes import RunProgram, StartConsumer
from tests.fixtures.services import MakeTopic

SEEDS = 2
"""Seeds of a run that names none."""
TIMEOUT_SECONDS = 300
"""Of a scenario, which takes 10 to 20 s on a machine that has nothing else to do."""
RAW_FIRST = 0.5
"""Share of scenarios in which raw rows come before their messages."""
FOLDER = Path(__file__).parent


def seeds() -> list[int]:
    """What SEED or SEEDS asks for."""
    if one := os.environ.get("SEED"):
        return [int(one)]
    return list(range(1, int(os.environ.get("SEEDS") or SEEDS) + 1))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each scenario once a seed."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", seeds(), ids=lambda seed: f"seed{seed}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder is left out of a run that does not ask for it."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("chaos")
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure says how to see it again."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    callspec = getattr(item, "callspec", None)
    if report.failed and callspec is not None and "seed" in callspec.params:
        name = getattr(item, "originalname", item.name)
        report.sections.append(("repeat it with", f"make chaos SEED={callspec.params['seed']} ONLY={name}"))
    return report  # type: ignore[return-value]


@pytest.fixture
def chance(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """The test's randomness: the same for the same seed and test, whatever else runs."""
    return random.Random(f"{seed}:{_without_seed(request.node.name)}")


class MakeWorld(Protocol):
    """`make_world(partitions=6, url=..., bootstrap=...)`; one a test."""

    def __call__(
        self,
        partitions: int = 4,
        *,
        url: str | None = None,
        bootstrap: str | None = None,
        raw_first: bool | None = None,
        **config: object,
    ) -> World: ...


@pytest.fixture
def make_world(
    seed: int,
    chance: random.Random,
    request: pytest.FixtureRequest,
    make_topic: MakeTopic,
    consumer_variables: dict[str, str],
    start_consumer: StartConsumer,
    run_program: RunProgram,
) -> Iterator[MakeWorld]:
    """Makes the test's world: on the run's Kafka and a fresh database, or on servers of the test's own.

    `url` names a migrated, empty database; `bootstrap` a broker, on which the topic is made. With `raw_first` the
    application writes every raw row before its message, and accounts' time zones change; unless a test says, chance
    decides. `config` is the topic's, on the run's own Kafka.
    """
    made: list[World] = []

    def make(
        partitions: int = 4,
        *,
        url: str | None = None,
        bootstrap: str | None = None,
        raw_first: bool | None = None,
        **config: object,
    ) -> World:
        own_broker = bootstrap is not None and bootstrap != consumer_variables["KAFKA_BOOTSTRAP_SERVERS"]
        variables = dict(consumer_variables)
        variables["DATABASE_URL"] = url or variables["DATABASE_URL"]
        variables["KAFKA_BOOTSTRAP_SERVERS"] = bootstrap or variables["KAFKA_BOOTSTRAP_SERVERS"]
        quicken(variables["KAFKA_BOOTSTRAP_SERVERS"], variables["KAFKA_GROUP_ID"])
        world = World(
            chance,
            variables,
            None if own_broker else make_topic(partitions, **config),
            partitions,
            start_consumer,
            run_program,
            raw_first=chance.random() < RAW_FIRST if raw_first is None else raw_first,
        )
        made.append(world)
        return world

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A world of four partitions on the run's own services."""
    return make_world()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opens, whatever happens."""
    with ExitStack() as opened:
        yield opened


def _without_seed(name: str) -> str:
    """A test's name with its parameters but the seed: the same test under another seed draws from its own numbers."""
    head, bracket, parameters = name.partition("[")
    kept = [each for each in parameters.removesuffix("]").split("-") if not each.startswith("seed")]
    return head + bracket + "-".join(kept)
