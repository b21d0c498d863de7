"""The raw events of one date, read once. Those of days that are counted live go into a temporary table, from which all
that is added up or claimed comes; closed days are read, added up and written by a single statement.

Statements that name the registry's columns are composed here; names are quoted, values stay parameters.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from consumer.errors import RollupError
from consumer.rollup.batch import Int64Array
from consumer.rollup.days import day_number, day_start_us, instant
from consumer.rollup.registry import Kind, Registry
from consumer.rollup.statements import STATEMENTS

_COPIED = np.dtype(
    [("columns", ">i2"), ("size", ">i4"), ("account_id", ">i8"), ("size_of_id", ">i4"), ("id", ">i8")], align=False
)
"""A row of two bigints in PostgreSQL's binary COPY."""
_COPY_HEADER = 19
"""Bytes before the first row. Two follow the last."""


class RebuildError(RollupError):
    """Days cannot be rebuilt; nothing of them was changed."""


class RawStage:
    """Raw events on one connection. Its temporary tables are empty again after every transaction.

    Raises:
        RebuildError: there is no table of raw events.
    """

    def __init__(self, conn: psycopg.Connection, registry: Registry) -> None:
        self._conn = conn
        self._registry = registry
        row = conn.execute(STATEMENTS["raw_time_type"]).fetchone()
        if row is None:
            raise RebuildError("there is no table reporting_events to rebuild from: apply the migrations")
        self._raw_has_zone = row[0] == "timestamp with time zone"
        # As bytes: the largest is put together from a hundred parts, which took a tenth of a small day's rebuild.
        self._sql = {name: composed.as_bytes(conn) for name, composed in _compose(registry).items()}
        conn.execute(STATEMENTS["create_stages"])
        conn.execute(self._sql["create_raw_stage"])

    def read(self, day: date, accounts: Mapping[str, Sequence[int]]) -> dict[int, tuple[int, int]]:
        """Read the raw events of a local date.

        Args:
            day: the date.
            accounts: by time zone.

        Returns:
            account id -> (valid events, invalid ones that were left out), for accounts that have any.
        """
        for timezone, account_ids in accounts.items():
            self._conn.execute(self._sql["stage_raw_events"], self._where(day, timezone, account_ids))
        counts = self._conn.execute(STATEMENTS["staged_counts"])
        return {account_id: (valid, invalid) for account_id, valid, invalid in counts}

    def rebuild_closed(self, day: date, counted: Mapping[str, Mapping[int, int]]) -> dict[int, tuple[int, int, int]]:
        """Replace a local date of accounts whose day is not counted live, without staging anything. Days that have
        fewer raw events than were counted are left as they are.

        Args:
            day: the date.
            counted: by time zone: account id -> events that were counted; 0 to replace it in any case.

        Returns:
            account id -> (valid events, invalid ones that were left out, rollup rows written or removed).
        """
        found: dict[int, tuple[int, int, int]] = {}
        for timezone, accounts in counted.items():
            where = {**self._where(day, timezone, list(accounts)), "date": day, "counted": list(accounts.values())}
            for account_id, valid, invalid, changed in self._conn.execute(self._sql["rebuild_closed_days"], where):
                found[account_id] = (valid, invalid, changed)
        return found

    def ids(self, accounts: Sequence[int]) -> tuple[Int64Array, Int64Array]:
        """Accounts and ids of the valid events of these accounts: int64[n] each, 16 bytes an event."""
        with self._conn.cursor() as cursor, cursor.copy(STATEMENTS["staged_ids"], {"accounts": list(accounts)}) as copy:
            copied = bytearray()
            for block in copy:  # joined, all the rows' objects would be held at once: ten times as much
                copied += block
        rows = np.frombuffer(
            copied, _COPIED, offset=_COPY_HEADER, count=(len(copied) - _COPY_HEADER) // _COPIED.itemsize
        )
        return rows["account_id"].astype(np.int64), rows["id"].astype(np.int64)

    def _where(self, day: date, timezone: str, accounts: Sequence[int]) -> dict[str, Any]:
        """Accounts, event names and bounds of a local date, as the type of created_at wants them."""
        number = day_number(day)
        bounds = [instant(day_start_us(timezone, d)) for d in (number, number + 1)]
        if not self._raw_has_zone:
            bounds = [bound.replace(tzinfo=None) for bound in bounds]
        names = list(self._registry.event_names)
        return {"accounts": list(accounts), "names": names, "start": bounds[0], "end": bounds[1]}

    def leave_out(self, accounts: Sequence[int]) -> None:
        """Drop the events of accounts whose day cannot be replaced."""
        self._conn.execute(STATEMENTS["unstage_accounts"], {"accounts": list(accounts)})

    def replace(self, day: date, accounts: Sequence[int]) -> dict[int, int]:
        """Make the accounts' rows and members of the date those of the staged events; rows that are right stay.

        Returns:
            account id -> rollup rows written or removed, for accounts with any.
        """
        conn, metrics = self._conn, self._registry.metrics
        where: dict[str, Any] = {"accounts": list(accounts), "date": day}
        additive = [m for m in metrics if m.kind is not Kind.DISTINCT]
        feeds = {
            "events": [m.event for m in additive],
            "metrics": [m.metric for m in additive],
            "adds_time": [m.kind is Kind.DURATION for m in additive],
        }
        conn.execute(self._sql["stage_rollups_from_raw"], {**where, **feeds})
        for metric in {m.metric: m for m in metrics if m.member}.values():
            names = [m.event for m in metrics if m.metric == metric.metric]
            statement = self._sql[f"stage_members_from_raw {metric.member}"]
            conn.execute(statement, {**where, "metric": metric.metric, "names": names})
        conn.execute(STATEMENTS["stage_member_counts"])
        changed: dict[int, int] = {}
        for statement_name in ("remove_rollups", "replace_rollups"):
            for account_id, rows in conn.execute(STATEMENTS[statement_name], where):
                changed[account_id] = changed.get(account_id, 0) + rows
        conn.execute(STATEMENTS["remove_members"], where)
        conn.execute(STATEMENTS["replace_members"])
        return changed


def _compose(registry: Registry) -> dict[str, sql.Composed]:
    columns = [sql.Identifier(c) for c in registry.id_columns]
    comma = sql.SQL(", ")
    grouped = _grouped(registry, by_valid=False)
    raw_columns = comma.join(sql.SQL("r.{}").format(c) for c in columns)
    composed = {
        "create_raw_stage": sql.SQL(STATEMENTS["create_raw_stage"]).format(
            columns=comma.join(sql.SQL("{} bigint").format(c) for c in columns)
        ),
        "stage_raw_events": sql.SQL(STATEMENTS["stage_raw_events"]).format(
            columns=comma.join(columns),
            raw_columns=raw_columns,
        ),
        "stage_rollups_from_raw": sql.SQL(STATEMENTS["stage_rollups_from_raw"]).format(**grouped),
    }
    additive = [m for m in registry.metrics if m.kind is not Kind.DISTINCT]
    feeds = [sql.SQL("({}, {}, {})").format(m.event, m.metric, m.kind is Kind.DURATION) for m in additive] or [
        sql.Composed([sql.SQL("(NULL::text, NULL::text, false)")])
    ]
    kinds = [sql.SQL("({}, {})").format(sql.Literal(d.type), sql.Identifier(d.column)) for d in registry.dimensions]
    for member in {m.member for m in registry.metrics if m.member}:
        composed[f"stage_members_from_raw {member}"] = sql.SQL(STATEMENTS["stage_members_from_raw"]).format(
            member=sql.Identifier(member), dimensions=comma.join(kinds)
        )
    within = [d.column for d in registry.dimensions if d.column != "account_id"]
    used = comma.join(sql.SQL("e.{}").format(c) for c in columns)

    def raw(names: sql.Composable) -> sql.Composed:
        return sql.SQL(STATEMENTS["raw_events_of"]).format(names=names, raw_columns=used)

    r_kinds = [
        sql.SQL("({}, r.{}::bigint)").format(sql.Literal(d.type), sql.Identifier(d.column)) for d in registry.dimensions
    ]
    members = [
        sql.SQL(
            'SELECT DISTINCT r.account_id, d.type COLLATE "C", d.id, {} COLLATE "C", r.{}::bigint FROM {} '
            "CROSS JOIN LATERAL (VALUES {}) AS d(type, id) WHERE v.valid AND r.{} IS NOT NULL AND d.id IS NOT NULL"
        ).format(
            m.metric,
            sql.Identifier(m.member),
            raw(sql.Literal([other.event for other in registry.metrics if other.metric == m.metric])),
            comma.join(r_kinds),
            sql.Identifier(m.member),
        )
        for m in {m.metric: m for m in registry.metrics if m.member}.values()
        if m.member
    ] or [sql.Composed([sql.SQL("""SELECT 0, '' COLLATE "C", 0::bigint, '' COLLATE "C", 0::bigint WHERE false""")])]
    composed["rebuild_closed_days"] = sql.SQL(STATEMENTS["rebuild_closed_days"]).format(
        raw=raw(sql.SQL("%(names)s")),
        dimensions=comma.join(sql.SQL("r.{}").format(sql.Identifier(c)) for c in within),
        members=sql.SQL(" UNION ALL ").join(members),
        feeds=comma.join(feeds),
        **_grouped(registry, by_valid=True),
    )
    return composed


def _grouped(registry: Registry, *, by_valid: bool) -> dict[str, sql.Composable]:
    """The parts of a statement that groups events by every dimension at once. Grouped by `valid` as well, there always
    is a set of whole accounts."""
    column = {d.column: sql.Identifier(d.column) for d in registry.dimensions}
    every = sql.SQL("account_id, name, valid" if by_valid else "account_id, name")
    # Every set groups by account already; so does the dimension that is the account's, which comes last, as ELSE.
    within = [d for d in registry.dimensions if d.column != "account_id"]
    whole = [d for d in registry.dimensions if d.column == "account_id"]
    sets = [sql.SQL("({}, {})").format(every, column[d.column]) for d in within]
    if whole or by_valid:
        sets.append(sql.SQL("({})").format(every))
    kind = sql.SQL("{}::text").format(sql.Literal(whole[0].type if whole else None))
    is_grouped = [sql.SQL("WHEN grouping({}) = 0 THEN {}").format(column[d.column], d.type) for d in within]
    grouped_id = [sql.SQL("WHEN grouping({0}) = 0 THEN {0}").format(column[d.column]) for d in within]
    case, space, account = sql.SQL("CASE {} ELSE {} END"), sql.SQL(" "), sql.SQL("account_id")
    return {
        "dimension_type": case.format(space.join(is_grouped), kind) if within else kind,
        "dimension_id": case.format(space.join(grouped_id), account) if within else account,
        "grouping_sets": sql.SQL(", ").join(sets),
        "is_whole": sql.SQL(" AND ").join(
            [sql.SQL("true"), *(sql.SQL("grouping({}) = 1").format(column[d.column]) for d in within)]
        ),
    }
