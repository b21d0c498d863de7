"""The proof must be able to fail: every way in which a rollup can differ from its raw events is found."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import psycopg
import pytest

from consumer.rollup.registry import REGISTRY, Dimension, Registry
from local import proof
from tests.fixtures.rollup import NOON, TODAY, Rollup, make_event
from tests.model import RawEvent

NAMES = REGISTRY.event_names


@pytest.fixture
def proven(rollup: Rollup) -> Rollup:
    """A rollup of two accounts that equals its raw events."""
    rollup.always_had({42: "Asia/Kathmandu", 43: "America/New_York"})
    events = [
        make_event(
            i, NAMES[i % len(NAMES)], account_id=42 + i % 2, user_id=i % 3 or None, conversation_id=i % 4 or None
        )
        for i in range(60)
    ]
    rollup.raw(*events)
    rollup.count(*events)
    assert proof.differences(rollup.conn) == []
    return rollup


def only(rollup: Rollup) -> proof.Difference:
    (difference,) = proof.differences(rollup.conn)
    return difference


def test_it_counts_what_it_compares(proven: Rollup) -> None:
    assert proof.rows(proven.conn) == len(proven.table())


@pytest.mark.parametrize(
    "change", ["count = count + 1", "sum_value = sum_value + 0.000001", "sum_value_business_hours = 0"]
)
def test_a_row_that_says_something_else_is_found(proven: Rollup, change: str) -> None:
    where = "account_id = 42 AND dimension_type = 'account' AND metric = 'reply_time'"
    proven.conn.execute(f"UPDATE reporting_events_rollups SET {change} WHERE {where}")
    found = only(proven)
    assert found[:5] == (42, TODAY, "account", 42, "reply_time")
    assert found.raw_count
    assert (found.raw_count, found.raw_sum, found.raw_business) != (
        found.rollup_count,
        found.rollup_sum,
        found.rollup_business,
    )
    assert str(found).startswith(
        f"account 42, 2026-03-11, account 42, reply_time: raw events give count {found.raw_count}"
    )


def test_a_row_that_is_missing_is_found(proven: Rollup) -> None:
    proven.conn.execute(
        "DELETE FROM reporting_events_rollups WHERE dimension_type = 'inbox' AND account_id = 43"
        " AND metric = 'bot_handoffs_count'"
    )
    found = only(proven)
    assert (found.rollup_count, found.rollup_sum) == (None, None)
    assert str(found).endswith("the rollup has no row")


@pytest.mark.parametrize("date", ["2026-03-11", "2020-01-01"])
def test_a_row_too_many_is_found(proven: Rollup, date: str) -> None:
    proven.conn.execute(
        "INSERT INTO reporting_events_rollups VALUES (42, %s, 'agent', 999, 'reply_time', 1, 2.5, 0)", (date,)
    )
    found = only(proven)
    assert (found.raw_count, found.rollup_sum) == (None, Decimal("2.5"))
    assert "raw events give no row" in str(found)


def test_a_raw_event_that_was_not_counted_is_found(proven: Rollup) -> None:
    proven.raw(make_event(1000, user_id=None, inbox_id=None))
    found = only(proven)
    assert found.raw_count is not None
    assert found.rollup_count == found.raw_count - 1


def test_a_raw_event_that_is_gone_is_found(proven: Rollup) -> None:
    proven.conn.execute("DELETE FROM reporting_events WHERE id = 7")
    assert proof.differences(proven.conn)


def test_no_more_than_asked_for(proven: Rollup) -> None:
    proven.conn.execute("UPDATE reporting_events_rollups SET count = count + 1")
    assert len(proof.differences(proven.conn, limit=3)) == 3


def test_bad_raw_rows_are_left_out(proven: Rollup) -> None:
    bad = [float("nan"), float("inf"), -float("inf"), 1e9 + 1]
    proven.raw(*[make_event(1000 + i, value=value) for i, value in enumerate(bad)])
    assert proof.differences(proven.conn) == []


def test_accounts_without_time_zone_are_left_out(proven: Rollup) -> None:
    proven.set_timezone(43, None)
    proven.conn.execute("UPDATE reporting_events_rollups SET count = 0 WHERE account_id = 43")
    assert proof.differences(proven.conn) == []
    assert proof.rows(proven.conn) == sum(key.account_id == 42 for key in proven.table())


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
def test_neither_the_sessions_zone_nor_the_columns_type_matters(proven: Rollup, zone: str, kind: str) -> None:
    if kind == "timestamptz":
        proven.conn.execute(
            "ALTER TABLE reporting_events ALTER COLUMN created_at TYPE timestamptz USING created_at AT TIME ZONE 'UTC'"
        )
    proven.conn.execute(f"SET TimeZone = '{zone}'")
    assert proof.differences(proven.conn) == []
    with proven.conn.transaction():
        assert proof.differences(proven.conn) == []
        assert proven.conn.execute("SHOW TimeZone").fetchall() == [(zone,)]
    assert proven.conn.execute("SHOW TimeZone").fetchall() == [(zone,)]


def test_all_of_it_is_one_snapshot(proven: Rollup) -> None:
    """Inside a transaction of the caller's it sees what that one sees."""
    other = psycopg.connect(proven.url, autocommit=True)
    with proven.conn.transaction():
        proven.conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        before = proof.rows(proven.conn)
        other.execute("DELETE FROM reporting_events_rollups")
        assert proof.differences(proven.conn) == []
        assert proof.rows(proven.conn) == before
    assert proof.differences(proven.conn)
    other.close()


def test_the_balance_sheet(proven: Rollup) -> None:
    proven.count(make_event(1), b"{", None)
    first, *others = proof.balance(proven.conn)
    assert first == proof.Balance("tests", "reporting_events", 0, 63, 63, 60, 1, 0, 1, 1)
    assert first.adds_up
    assert not first._replace(late=1).adds_up
    assert [row.messages for row in others] == [0, 0, 0]


@dataclass(frozen=True)
class TeamEvent(RawEvent):
    """An event of an application that has teams."""

    team_id: int | None = None


@pytest.fixture
def teams(database_url: str) -> Iterator[Rollup]:
    """A rollup with one more dimension."""
    made = Rollup(database_url, Registry(REGISTRY.metrics, (*REGISTRY.dimensions, Dimension("team", "team_id"))))
    made.conn.execute("ALTER TABLE reporting_events ADD COLUMN team_id integer")
    made.always_had({42: "UTC"})
    yield made
    made.close()


def test_it_follows_the_registry(teams: Rollup) -> None:
    events = [TeamEvent(**vars(make_event(i, NAMES[i % 5], NOON)), team_id=i % 3) for i in range(30)]
    teams.raw(*events)
    teams.count(*events)
    assert proof.differences(teams.conn, registry=teams.registry) == []
    assert {found.dimension_type for found in proof.differences(teams.conn, limit=100)} == {"team"}
