"""The registry's whole table in both paths, and a registry with more in it: nothing but the registry changes."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from consumer.rollup.rebuild import Rebuilder
from consumer.rollup.registry import REGISTRY, Dimension, Kind, Metric, Registry
from tests.fixtures.rollup import TODAY, Rollup, make_event
from tests.model import Key, Numbers, RawEvent

TEAMS = Registry(
    metrics=(
        *REGISTRY.metrics,
        Metric("csat_given", "csat_count", Kind.COUNT),
        Metric("csat_given", "csat_agents_count", Kind.DISTINCT, member="user_id"),
        Metric("csat_skipped", "csat_count", Kind.COUNT),  # two events feed one metric
        Metric("first_response", "response", Kind.DURATION),
        Metric("reply_time", "response", Kind.DURATION),
    ),
    dimensions=(*REGISTRY.dimensions, Dimension("team", "team_id")),
)


@dataclass(frozen=True)
class TeamEvent(RawEvent):
    """An event of an application that has teams."""

    team_id: int | None = None


@pytest.fixture(params=["live", "rebuilt"])
def path(request: pytest.FixtureRequest) -> str:
    """Which way events come into the rollup."""
    return str(request.param)


@pytest.fixture
def teams(database_url: str) -> Iterator[Rollup]:
    """A rollup with more metrics and one more dimension."""
    made = Rollup(database_url, TEAMS)
    made.conn.execute("ALTER TABLE reporting_events ADD COLUMN team_id integer")
    made.always_had({42: "UTC"})
    yield made
    made.close()


def take_in(rollup: Rollup, path: str, *events: RawEvent) -> None:
    """Count events of one day the one way or the other."""
    if path == "live":
        rollup.count(*events)
    else:
        rollup.raw(*events)
        rollup.rebuild(TODAY)


@pytest.mark.parametrize("name", [*REGISTRY.event_names, "conversation_opened", "Reply_Time", ""])
def test_each_event_feeds_its_rows(rollup: Rollup, path: str, name: str) -> None:
    """Every combination of nulls, each in an account of its own."""
    events = []
    for account, nulls in enumerate(itertools.product([False, True], repeat=5)):
        columns = ("user_id", "inbox_id", "value", "value_in_business_hours", "conversation_id")
        absent = {column: None for column, is_null in zip(columns, nulls, strict=True) if is_null}
        plain = replace(make_event(0, name, account_id=account), **absent)  # type: ignore[arg-type]
        events += [replace(plain, id=2 * account), replace(plain, id=2 * account + 1)]
    rollup.always_had(dict.fromkeys(range(32), "UTC"))
    if path == "live":
        rollup.count(*events)
    else:
        rollup.raw(*events)
        for account in range(32):
            rollup.rebuild(TODAY, account)
    assert rollup.table() == rollup.model(*events)


def test_the_table_of_the_registry_as_people_read_it(rollup: Rollup, path: str) -> None:
    rollup.always_had({42: "UTC"})
    take_in(rollup, path, *[make_event(i, name) for i, name in enumerate(REGISTRY.event_names)])
    count, duration = Numbers(1, 0, 0), Numbers(1, 90_500_000, 60_250_000)
    metrics = {
        "resolutions_count": count,
        "resolution_time": duration,
        "first_response": duration,
        "reply_time": duration,
        "bot_resolutions_count": count,
        "bot_handoffs_count": count,
    }
    assert rollup.table() == {
        Key(42, TODAY, dimension, number, metric): numbers
        for metric, numbers in metrics.items()
        for dimension, number in (("account", 42), ("agent", 3), ("inbox", 7))
    }


def test_one_null_id_leaves_the_other_dimensions(rollup: Rollup, path: str) -> None:
    rollup.always_had({42: "UTC"})
    events = [make_event(1, user_id=None), make_event(2, inbox_id=None), make_event(3, value=None)]
    take_in(rollup, path, *events)
    assert rollup.table() == rollup.model(*events)


def test_a_registry_with_more_in_it(teams: Rollup, path: str) -> None:
    names = (*TEAMS.event_names, "conversation_opened")
    plain = [
        make_event(i, names[i % len(names)], user_id=i % 3 or None, conversation_id=i % 4 or None) for i in range(80)
    ]
    events = [TeamEvent(**vars(event), team_id=event.id % 5 or None) for event in plain]
    take_in(teams, path, *events)
    assert teams.table() == teams.model(*events)
    found = {(key.dimension_type, key.metric) for key in teams.table()}
    assert {("team", "csat_count"), ("team", "response"), ("agent", "csat_agents_count")} <= found


def test_both_ways_agree_on_a_registry_with_more_in_it(teams: Rollup) -> None:
    names = TEAMS.event_names
    events = [
        TeamEvent(**vars(make_event(i, names[i % len(names)], user_id=i % 3, value=i / 7)), team_id=i % 2)
        for i in range(80)
    ]
    teams.raw(*events)
    teams.count(*events)
    assert teams.rebuild(TODAY).changed == 0
    teams.count(*events)
    assert teams.table() == teams.model(*events)


def test_what_a_metric_missed_before_it_was_there_is_rebuilt(database_url: str) -> None:
    """Days counted under the older registry can be told, and a rebuild brings them up to the new one."""
    before = Rollup(database_url)
    before.conn.execute("ALTER TABLE reporting_events ADD COLUMN team_id integer")
    before.always_had({42: "UTC"})
    events = [
        TeamEvent(**vars(make_event(i, name)), team_id=1) for i, name in enumerate(("csat_given", "reply_time") * 3)
    ]
    before.raw(*events)
    before.count(*events)
    older = before.conn.execute("SELECT date FROM rollup_days WHERE registry <> %s", (TEAMS.fingerprint,)).fetchall()
    assert older == [(TODAY,)]
    after = before.connect()
    rebuilt = Rebuilder(after, TEAMS, 3).rebuild(42, TODAY, before.now_us)
    before.registry = TEAMS
    assert rebuilt.events == 6
    assert before.table() == before.model(*events)
    assert before.conn.execute("SELECT registry, events FROM rollup_days").fetchall() == [(TEAMS.fingerprint, 6)]
    before.close()
