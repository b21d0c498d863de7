"""A day's rollup rows beside what its raw events give for them: a query of its own, for any registry."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from psycopg import sql

from backfill.snapshot import Connection
from consumer.rollup.registry import Kind, Registry
from consumer.rollup.statements import load_statements

STATEMENTS = load_statements("backfill", "explain.sql")


@dataclass(frozen=True, slots=True)
class Compared:
    """A rollup row beside its raw events; None where one of them has nothing. Sums and means in seconds."""

    dimension_type: str
    dimension_id: int
    metric: str
    rollup_count: int | None
    rollup_sum: Decimal | None
    rollup_business: Decimal | None
    raw_count: int | None
    raw_sum: Decimal | None
    raw_business: Decimal | None
    same: bool
    mean: Decimal | None
    """sum / count of the rollup, of a duration."""


def compare_rows(conn: Connection, registry: Registry, within: dict[str, Any], metric: str | None) -> list[Compared]:
    """Every row of the day, or those of one metric.

    Args:
        conn: in a snapshot.
        registry: what to count by.
        within: `account`, `date`, and `start` and `end` as created_at has them.
        metric: all of them if None.
    """
    feeds = [m for m in registry.metrics if metric in (None, m.metric)]
    asked = {
        **within,
        "names": [m.event for m in feeds],
        "metric": metric,
        "events": [m.event for m in feeds],
        "metrics": [m.metric for m in feeds],
        "kinds": [str(m.kind) for m in feeds],
    }
    durations = {m.metric for m in registry.metrics if m.kind is Kind.DURATION}
    rows = []
    for columns in conn.execute(_rows_against_raw(registry), asked):
        metric_name, count, total = columns[2:5]
        mean = round(total / count, 6) if count and metric_name in durations else None
        same = columns[3:6] == columns[6:9]
        rows.append(Compared(*(*columns, same, mean)))
    return rows


def _rows_against_raw(registry: Registry) -> sql.Composed:
    """The comparison over the registry's columns. Names are quoted; values stay parameters."""
    columns = dict.fromkeys(("account_id", *registry.id_columns))
    members = [
        sql.SQL("WHEN {} THEN e.{}").format(m.metric, sql.Identifier(m.member)) for m in registry.metrics if m.member
    ]
    return sql.SQL(STATEMENTS["rows_against_raw"]).format(
        columns=sql.SQL(", ").join(sql.SQL("r.{}").format(sql.Identifier(column)) for column in columns),
        dimensions=sql.SQL(", ").join(
            sql.SQL("({}, e.{}::bigint)").format(d.type, sql.Identifier(d.column)) for d in registry.dimensions
        ),
        member=sql.SQL("CASE f.metric {} END::bigint").format(sql.SQL(" ").join(members))
        if members
        else sql.SQL("NULL::bigint"),
    )
