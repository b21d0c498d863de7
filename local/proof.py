"""The proof, for the demo and the benchmark: the whole rollup recomputed from the raw events in SQL and compared.

It shares the registry's table and the days' boundaries with the product, and none of its statements. Run it while
nothing is being counted and no day is stale: a day that waits for its rebuild differs from its raw events, rightly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row

from consumer.rollup import days
from consumer.rollup.registry import REGISTRY, Registry

Connection = psycopg.Connection[Any]

DAYS_OF_ACCOUNTS = """
SELECT d.account_id, d.date, s.reporting_timezone
FROM rollup_days AS d JOIN account_settings AS s USING (account_id)
WHERE s.reporting_timezone IS NOT NULL
"""
# Rows that break the bounds of a duration are left out, as they are everywhere; NaN is PostgreSQL's largest number.
COMPARE = """
WITH day AS MATERIALIZED (
    SELECT * FROM unnest(%(accounts)s::int[], %(dates)s::date[], %(starts)s::timestamptz[], %(ends)s::timestamptz[])
        AS d(account_id, date, starts, ends)
), event AS (
    SELECT e.*, d.date,
        coalesce(round(e.value * 1e6::float8)::bigint, 0) AS value_us,
        coalesce(round(e.value_in_business_hours * 1e6::float8)::bigint, 0) AS business_us
    FROM reporting_events AS e
    JOIN day AS d ON d.account_id = e.account_id AND e.created_at >= d.starts AND e.created_at < d.ends
    WHERE coalesce(abs(e.value) <= 1e9, true) AND coalesce(abs(e.value_in_business_hours) <= 1e9, true)
), fed AS NOT MATERIALIZED (
    SELECT e.account_id, e.date, dimension.type AS dimension_type, dimension.id AS dimension_id, m.metric, m.kind,
        CASE m.kind WHEN 'duration' THEN e.value_us ELSE 0 END AS value_us,
        CASE m.kind WHEN 'duration' THEN e.business_us ELSE 0 END AS business_us,
        {member} AS member
    FROM event AS e
    JOIN (VALUES {metrics}) AS m(event, metric, kind) ON m.event = e.name
    CROSS JOIN LATERAL (VALUES {dimensions}) AS dimension(type, id)
    WHERE dimension.id IS NOT NULL
), raw AS (
    SELECT account_id, date, dimension_type, dimension_id, metric,
        count(*) AS n, sum(value_us) AS value_us, sum(business_us) AS business_us
    FROM fed WHERE kind <> 'distinct' GROUP BY 1, 2, 3, 4, 5
    UNION ALL
    SELECT account_id, date, dimension_type, dimension_id, metric, count(DISTINCT member), 0, 0
    FROM fed WHERE kind = 'distinct' AND member IS NOT NULL GROUP BY 1, 2, 3, 4, 5
), rollup AS (
    SELECT r.* FROM reporting_events_rollups AS r JOIN account_settings AS s USING (account_id)
    WHERE s.reporting_timezone IS NOT NULL
)
SELECT account_id, date, dimension_type, dimension_id, metric,
    raw.n AS raw_count, raw.value_us * 0.000001 AS raw_sum, raw.business_us * 0.000001 AS raw_business,
    rollup.count AS rollup_count, rollup.sum_value AS rollup_sum, rollup.sum_value_business_hours AS rollup_business
FROM raw FULL JOIN rollup USING (account_id, date, dimension_type, dimension_id, metric)
WHERE (raw.n, raw.value_us * 0.000001, raw.business_us * 0.000001)
    IS DISTINCT FROM (rollup.count, rollup.sum_value, rollup.sum_value_business_hours)
ORDER BY 1, 2, 3, 4, 5
LIMIT {limit}
"""
ROWS = """
SELECT count(*) FROM reporting_events_rollups AS r JOIN account_settings AS s USING (account_id)
WHERE s.reporting_timezone IS NOT NULL
"""
BALANCE = """
SELECT group_id, topic, partition, next_offset, messages, counted, duplicates, late, skipped, dead
FROM consumer_offsets ORDER BY group_id, topic, partition
"""


class Difference(NamedTuple):
    """A rollup row that is not what the raw events give; None where one of the two has no such row. Seconds."""

    account_id: int
    date: date
    dimension_type: str
    dimension_id: int
    metric: str
    raw_count: int | None
    raw_sum: Decimal | None
    raw_business: Decimal | None
    rollup_count: int | None
    rollup_sum: Decimal | None
    rollup_business: Decimal | None

    def __str__(self) -> str:
        def said(count: int | None, total: Decimal | None, business: Decimal | None) -> str:
            return "no row" if count is None else f"count {count}, sum {total} s, in business hours {business} s"

        return (
            f"account {self.account_id}, {self.date}, {self.dimension_type} {self.dimension_id}, {self.metric}:"
            f" raw events give {said(self.raw_count, self.raw_sum, self.raw_business)};"
            f" the rollup has {said(self.rollup_count, self.rollup_sum, self.rollup_business)}"
        )


class Balance(NamedTuple):
    """What became of a partition's messages, by `consumer_offsets`."""

    group_id: str
    topic: str
    partition: int
    next_offset: int
    messages: int
    counted: int
    duplicates: int
    late: int
    skipped: int
    dead: int

    @property
    def adds_up(self) -> bool:
        """Whether every message has exactly one outcome."""
        return self.messages == self.counted + self.duplicates + self.late + self.skipped + self.dead


def differences(conn: Connection, limit: int = 20, registry: Registry = REGISTRY) -> list[Difference]:
    """Up to `limit` rows in which the rollup is not what the raw events give; an empty list proves it exact.

    Compares all days in `rollup_days` of all accounts that have a time zone, in one snapshot. A rollup row of
    another day is a difference too: nothing may write one. Takes a few seconds per million raw events, and no lock.
    """
    with _snapshot(conn) as cursor:
        found = cursor.execute(DAYS_OF_ACCOUNTS).fetchall()
        bounds = [_bounds(zone, day) for _, day, zone in found]
        parameters = {
            "accounts": [account_id for account_id, _, _ in found],
            "dates": [day for _, day, _ in found],
            "starts": [start for start, _ in bounds],
            "ends": [end for _, end in bounds],
        }
        cursor.execute(_comparison(limit, registry), parameters)
        return [Difference(*row) for row in cursor.fetchall()]


def rows(conn: Connection) -> int:
    """How many rollup rows `differences` compares."""
    with _snapshot(conn) as cursor:
        return int(cursor.execute(ROWS).fetchall()[0][0])


def balance(conn: Connection) -> list[Balance]:
    """The balance sheet of every partition that was ever read, in order."""
    with _snapshot(conn) as cursor:
        return [Balance(*row) for row in cursor.execute(BALANCE).fetchall()]


def _comparison(limit: int, registry: Registry) -> sql.Composed:
    members = [
        sql.SQL("WHEN {} THEN e.{}").format(m.metric, sql.Identifier(m.member)) for m in registry.metrics if m.member
    ]
    return sql.SQL(COMPARE).format(
        member=sql.SQL("CASE m.metric {} END").format(sql.SQL(" ").join(members)) if members else sql.SQL("0"),
        metrics=sql.SQL(", ").join(
            sql.SQL("({}, {}, {})").format(m.event, m.metric, str(m.kind)) for m in registry.metrics
        ),
        dimensions=sql.SQL(", ").join(
            sql.SQL("({}, e.{}::bigint)").format(d.type, sql.Identifier(d.column)) for d in registry.dimensions
        ),
        limit=limit,
    )


def _bounds(zone: str, day: date) -> tuple[datetime, datetime]:
    """[start, end) of a local day."""
    number = (day - date(1970, 1, 1)).days
    epoch, microsecond = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
    return (
        epoch + days.day_start_us(zone, number) * microsecond,
        epoch + days.day_start_us(zone, number + 1) * microsecond,
    )


@contextmanager
def _snapshot(conn: Connection) -> Iterator[psycopg.Cursor[TupleRow]]:
    """A cursor in one transaction that sees one state of the database, unless the caller's own has begun already.

    The transaction speaks UTC, so that a raw created_at without time zone compares as UTC.
    """
    own = conn.info.transaction_status is TransactionStatus.IDLE
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        if own:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        before = conn.info.parameter_status("TimeZone")
        cursor.execute("SET LOCAL TimeZone = 'UTC'")
        cursor.execute("SET LOCAL work_mem = '128MB'")
        yield cursor
        if not own:
            cursor.execute("SELECT set_config('TimeZone', %s, true)", (before,))
