"""The original algorithm, for comparison: six grouped queries an account-day, then DELETE and INSERT.

What it is measured by, so it is written to be fast as it stands: one connection, statements that psycopg prepares,
time zones known beforehand, one INSERT for all rows. It takes no lock, claims no ids, adds seconds up in floating
point, and what consumers count meanwhile is lost or counted twice. It writes into the same table as the rest, which has
one index where the original's has four.
"""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from consumer.rollup.days import day_number, day_start_us, instant

DIMENSIONS = (
    ("account", "account_id"),
    ("agent", "user_id"),
    ("inbox", "inbox_id"),
)
COUNTS = {
    "conversation_resolved": "resolutions_count",
    "conversation_bot_resolved": "bot_resolutions_count",
}
TIMES = {
    "conversation_resolved": "resolution_time",
    "first_response": "first_response",
    "reply_time": "reply_time",
}
NAMES = sorted({*COUNTS, *TIMES})
HANDOFF = "conversation_bot_handoff"

SUM_TOLERANCE_SECONDS = Decimal("0.001")
"""How far its sums may lie from the exact ones: it adds seconds up as floating-point numbers."""

TOTALS = sql.SQL("""
SELECT {column}, name, count(*), sum(value), sum(value_in_business_hours) FROM reporting_events
WHERE account_id = %(account)s AND name = ANY(%(names)s) AND created_at >= %(start)s AND created_at < %(end)s
    AND {column} IS NOT NULL
GROUP BY {column}, name
""")
HANDOFFS = sql.SQL("""
SELECT {column}, count(DISTINCT conversation_id) FROM reporting_events
WHERE account_id = %(account)s AND name = %(handoff)s AND created_at >= %(start)s AND created_at < %(end)s
    AND {column} IS NOT NULL
GROUP BY {column}
""")
DELETE: LiteralString = "DELETE FROM reporting_events_rollups WHERE account_id = %s AND date = %s"
INSERT: LiteralString = """
INSERT INTO reporting_events_rollups
    (account_id, date, dimension_type, dimension_id, metric, count, sum_value, sum_value_business_hours)
SELECT %s, %s, * FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::bigint[], %s::float8[], %s::float8[])
"""


Row = tuple[str, int, str, int, float, float]
"""dimension_type, dimension_id, metric, count, sum_value, sum_value_business_hours; sums in seconds."""


class Reference:
    """Rebuilds days by the original algorithm.

    Args:
        conn: in autocommit.
        timezones: account id -> IANA name.
    """

    def __init__(self, conn: psycopg.Connection[Any], timezones: dict[int, str]) -> None:
        self._conn = conn
        self._timezones = timezones
        self._totals = {kind: TOTALS.format(column=sql.Identifier(column)) for kind, column in DIMENSIONS}
        self._handoffs = {kind: HANDOFFS.format(column=sql.Identifier(column)) for kind, column in DIMENSIONS}

    def rebuild(self, account: int, day: date) -> int:
        """Rebuild one day; how many rows it has now."""
        zone, number = self._timezones[account], day_number(day)
        start, end = (instant(day_start_us(zone, n)).replace(tzinfo=None) for n in (number, number + 1))
        the_day = {"account": account, "start": start, "end": end, "names": NAMES, "handoff": HANDOFF}
        rows = [row for kind, _ in DIMENSIONS for row in self._rows(kind, the_day)]
        with self._conn.transaction():
            self._conn.execute(DELETE, (account, day))
            if rows:
                self._conn.execute(INSERT, (account, day, *map(list, zip(*rows, strict=True))))
        return len(rows)

    def _rows(self, kind: str, the_day: dict[str, Any]) -> Iterator[Row]:
        for identity, name, count, seconds, business in self._conn.execute(self._totals[kind], the_day):
            if name in COUNTS:
                yield kind, identity, COUNTS[name], count, 0.0, 0.0
            if name in TIMES:
                yield kind, identity, TIMES[name], count, seconds or 0.0, business or 0.0
        for identity, conversations in self._conn.execute(self._handoffs[kind], the_day):
            if conversations:
                yield kind, identity, "bot_handoffs_count", conversations, 0.0, 0.0
