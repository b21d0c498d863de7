"""How PostgreSQL carries out the statement that rebuilds closed days: by the application's index, one range for each
account and event name, whatever the planner knows or believes of the tables. A plan is kept for all days of a
connection, so a wrong one costs a whole backfill dearly: it reads the day of every account for each account.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from consumer.rollup.raw_stage import RawStage
from consumer.rollup.registry import REGISTRY
from consumer.rollup.statements import STATEMENTS
from tests.fixtures.rollup import NOON, Rollup

ACCOUNTS = 300
LAST_WEEK = (NOON - timedelta(days=7)).date()
Node = dict[str, Any]


def fill(rollup: Rollup, *, analyze: bool) -> None:
    """Four events of each account on one day."""
    rollup.conn.execute(
        "INSERT INTO reporting_events (id, name, value, account_id, conversation_id, created_at, updated_at)"
        " SELECT n, (ARRAY['reply_time', 'conversation_bot_handoff'])[1 + n %% 2], 1.5, 1 + n / 4, n,"
        " %(day)s::date + n * interval '1 minute', now() FROM generate_series(0, %(last)s) AS n",
        {"day": LAST_WEEK, "last": ACCOUNTS * 4 - 1},
    )
    if analyze:
        rollup.conn.execute("ANALYZE")


def kept_plan(conn: psycopg.Connection[Any], stage: RawStage) -> Node:
    """The plan that is kept for the statement, as of its first execution on this connection."""
    where = {**stage._where(LAST_WEEK, "UTC", [5, 6]), "date": LAST_WEEK, "counted": [0, 0]}
    with conn.transaction(force_rollback=True):
        conn.execute(STATEMENTS["begin_rebuild"])
        statement = stage._sql["rebuild_closed_days"]
        conn.execute(statement, where, prepare=True)
        (name, types) = conn.execute(
            "SELECT name, parameter_types::text[] FROM pg_prepared_statements WHERE statement LIKE '%%asked AS MAT%%'"
        ).fetchall()[0]
        placeholders = sql.SQL(", ").join(sql.SQL("NULL::{}").format(sql.SQL(each)) for each in types)
        explain = sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE {} ({})").format(sql.Identifier(name), placeholders)
        row = conn.execute(explain).fetchone()
        assert row is not None
        plan: Node = row[0][0]["Plan"]
        return plan


def nodes(plan: Node) -> Iterator[Node]:
    """The plan's nodes."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def conditions(plan: Node, table: str) -> list[str]:
    """By what each reading of a table finds its rows; empty if it reads them all."""
    found: list[str] = []
    for node in nodes(plan):
        if node.get("Relation Name") == table and node["Node Type"] != "ModifyTable":
            below = [child.get("Index Cond", "") for child in nodes(node)]
            found.append(" ".join(below))
    return found


@pytest.mark.parametrize("filled", ["before", "before and analysed", "after the plan was made"])
def test_raw_events_are_read_by_account_and_name(rollup: Rollup, filled: str) -> None:
    rollup.always_had({42: "UTC"})
    if filled != "after the plan was made":
        fill(rollup, analyze="analysed" in filled)
    with rollup.conn.cursor():
        stage = RawStage(rollup.conn, REGISTRY)
    plan = kept_plan(rollup.conn, stage)
    if filled == "after the plan was made":
        fill(rollup, analyze=False)
        plan = kept_plan(rollup.conn, stage)
    reads = conditions(plan, "reporting_events")
    assert len(reads) == 2  # all names, and once more those that have members
    for condition in reads:
        assert "account_id = asked" in condition
        assert "name = " in condition
        assert "created_at >= " in condition
    for condition in conditions(plan, "reporting_events_rollups") + conditions(plan, "rollup_members"):
        assert "(account_id = ANY " in condition
        assert "date = " in condition
    # Events are not sorted to be grouped; only the few rows that are written are put in order.
    assert not [node for node in nodes(plan) if node["Node Type"] == "Aggregate" and node["Strategy"] == "Sorted"]
