"""The rebuild: one (account, day) recomputed from its raw events, in one transaction, while consumers go on.

1. share the settings lock
2. lock the day; live batches with events of this day wait from here, those of other days do not
3. read the raw events once, into a temporary table: all that follows comes from that snapshot, so no row can slip
   in between what is added up and what is claimed
4. if ids were counted that raw does not have, replace nothing: the day stays stale
5. replace the day's rows and members, leaving those that are right alone
6. if the day is counted live, claim its raw ids
7. drop the late events that raw has by now; the day's new state; commit
"""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from consumer.errors import RollupError
from consumer.rollup.batch import Int64Array
from consumer.rollup.bitmap import REBUILD_SHARD, already_counted, claim
from consumer.rollup.days import day_number, day_start_us, instant, local_day
from consumer.rollup.registry import Kind, Registry
from consumer.rollup.statements import STATEMENTS


class RebuildError(RollupError):
    """A day cannot be rebuilt; nothing of it was changed."""


class Result(StrEnum):
    """How a rebuild ended."""

    REBUILT = "rebuilt"
    SETTLING = "settling"
    """Rebuilt, and to be rebuilt again once the account's change of time zone has settled."""
    MISSING = "missing"
    """Nothing was replaced: events that were counted are not in raw."""
    LATE = "late"
    """Rebuilt, but late events of the day are not in raw yet; it stays stale."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild found and did.

    Attributes:
        account_id, date, timezone: the day.
        result: how it ended.
        events: valid raw events of the day.
        invalid: raw events left out because a message could not have them either.
        missing: counted events that raw does not have.
        changed: rollup rows written or removed.
    """

    account_id: int
    date: date
    timezone: str
    result: Result
    events: int
    invalid: int
    missing: int
    changed: int


class Rebuilder:
    """Rebuilds days on one connection.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        registry: what to count by.
        open_days: as the consumers have it.

    Raises:
        RebuildError: there is no table of raw events.
    """

    def __init__(self, conn: psycopg.Connection, registry: Registry, open_days: int) -> None:
        self._conn = conn
        self._registry = registry
        self._open_days = open_days
        row = conn.execute(STATEMENTS["raw_time_type"]).fetchone()
        if row is None:
            raise RebuildError("there is no table reporting_events to rebuild from: apply the migrations")
        self._raw_has_zone = row[0] == "timestamp with time zone"
        self._sql = _compose(registry)
        conn.execute(STATEMENTS["create_stages"])
        conn.execute(self._sql["create_raw_stage"])

    def rebuild(self, account_id: int, day: date, now_us: int, *, force: bool = False) -> Rebuilt:
        """Rebuild one day. Blocks while live batches or other rebuilds hold it.

        Args:
            account_id: an account with a time zone.
            day: a local date of the account.
            now_us: the present, microseconds since the epoch; decides whether a day never seen is open.
            force: take raw as the truth even if it lacks events that were counted, or that came late.

        Raises:
            RebuildError: the account has no time zone.
            psycopg.Error: the database refused or is away; nothing was changed.
        """
        conn = self._conn
        key: dict[str, Any] = {"account": account_id, "date": day}
        with conn.transaction():
            conn.execute(STATEMENTS["share_settings"])  # 1
            timezone = self._timezone(account_id)
            number = day_number(day)
            in_window = number > local_day(timezone, now_us) - self._open_days
            fingerprint = self._registry.fingerprint
            state = {**key, "timezone": timezone, "in_window": in_window, "registry": fingerprint}
            row = conn.execute(STATEMENTS["lock_day"], state).fetchone()  # 2
            if row is None:
                raise RebuildError(f"account {account_id}, {day}: its row in rollup_days vanished")
            recorded, closed, counted, settled = row
            found = [late for (late,) in conn.execute(STATEMENTS["late_events_found"], key)]
            ids, every = self._stage(key, timezone, number)  # 3
            events, invalid = len(ids), len(every) - len(ids)
            known = recorded == timezone and counted is not None
            if known and not force:  # 4
                new = 0 if closed else int((~already_counted(conn, ids)).sum())
                missing = counted + new - events
                if missing > 0:
                    conn.execute(STATEMENTS["mark_stale"], key)
                    return Rebuilt(account_id, day, timezone, Result.MISSING, events, invalid, missing, 0)
            changed = self._replace(key)  # 5
            closed = closed if known else not in_window
            if not closed and events:  # 6
                conn.execute(STATEMENTS["lock_rebuild_bits"])
                claim(conn, ids, np.zeros(events, np.int16), [REBUILD_SHARD], number)
            if force:  # 7
                conn.execute(STATEMENTS["forget_late_events"], key)
            else:
                conn.execute(STATEMENTS["remove_late_events"], {**key, "ids": [*found, *every.tolist()]})
            left = conn.execute(STATEMENTS["late_events_left"], key).fetchone() == (True,)
            finish = {
                **key,
                "timezone": timezone,
                "closed": closed,
                # An unknown count stays unknown until the change of time zone has settled.
                "events": events if known or settled else None,
                "registry": fingerprint,
                "stale": left or not settled,
                "settled": settled,
            }
            conn.execute(STATEMENTS["finish_rebuild"], finish)
        result = Result.REBUILT if settled else Result.SETTLING
        if left and settled:
            result = Result.LATE
        return Rebuilt(account_id, day, timezone, result, events, invalid, 0, changed)

    def _timezone(self, account_id: int) -> str:
        row = self._conn.execute(STATEMENTS["account_timezone"], {"account": account_id}).fetchone()
        if row is None or row[0] is None:
            raise RebuildError(
                f"account {account_id} has no reporting_timezone, so its days have no bounds: set one in "
                "account_settings, for example Europe/Paris"
            )
        return str(row[0])

    def _stage(self, key: dict[str, Any], timezone: str, number: int) -> tuple[Int64Array, Int64Array]:
        """Read the day's raw events; the ids of the valid ones and of all."""
        bounds = [instant(day_start_us(timezone, day)) for day in (number, number + 1)]
        if not self._raw_has_zone:
            bounds = [bound.replace(tzinfo=None) for bound in bounds]
        names = list(self._registry.event_names)
        self._conn.execute(self._sql["stage_raw_events"], {**key, "names": names, "start": bounds[0], "end": bounds[1]})
        with self._conn.cursor(binary=True) as cursor:
            rows = cursor.execute(STATEMENTS["staged_ids"]).fetchall()
        every = np.array([identity for identity, _ in rows], np.int64)
        return every[np.array([valid for _, valid in rows], np.bool_)], every

    def _replace(self, key: dict[str, Any]) -> int:
        """Make the day's rows and members those of the staged raw events; how many rows changed."""
        conn, metrics = self._conn, self._registry.metrics
        additive = [m for m in metrics if m.kind is not Kind.DISTINCT]
        feeds = {
            "events": [m.event for m in additive],
            "metrics": [m.metric for m in additive],
            "adds_time": [m.kind is Kind.DURATION for m in additive],
        }
        conn.execute(self._sql["stage_rollups_from_raw"], {**key, **feeds})
        for metric in {m.metric: m for m in metrics if m.member}.values():
            names = [m.event for m in metrics if m.metric == metric.metric]
            statement = self._sql[f"stage_members_from_raw {metric.member}"]
            conn.execute(statement, {**key, "metric": metric.metric, "names": names})
        conn.execute(STATEMENTS["stage_member_counts"])
        removed = conn.execute(STATEMENTS["remove_rollups"], key).rowcount
        replaced = conn.execute(STATEMENTS["replace_rollups"]).rowcount
        conn.execute(STATEMENTS["remove_members"], key)
        conn.execute(STATEMENTS["replace_members"])
        return removed + replaced


def _compose(registry: Registry) -> dict[str, sql.Composed]:
    """The statements that name the registry's columns. Names are quoted; values stay parameters."""
    columns = [sql.Identifier(c) for c in registry.id_columns]
    comma = sql.SQL(", ")
    dimensions = [(sql.Literal(d.type), sql.Identifier(d.column)) for d in registry.dimensions]
    is_grouped = [sql.SQL("WHEN grouping({0}) = 0 THEN {1}").format(column, kind) for kind, column in dimensions]
    grouped_id = [sql.SQL("WHEN grouping({0}) = 0 THEN {0}").format(column) for _, column in dimensions]
    case = sql.SQL("CASE {} END")
    composed = {
        "create_raw_stage": sql.SQL(STATEMENTS["create_raw_stage"]).format(
            columns=comma.join(sql.SQL("{} bigint").format(c) for c in columns)
        ),
        "stage_raw_events": sql.SQL(STATEMENTS["stage_raw_events"]).format(
            columns=comma.join(columns),
            raw_columns=comma.join(sql.SQL("r.{}").format(c) for c in columns),
        ),
        "stage_rollups_from_raw": sql.SQL(STATEMENTS["stage_rollups_from_raw"]).format(
            dimension_type=case.format(sql.SQL(" ").join(is_grouped)),
            dimension_id=case.format(sql.SQL(" ").join(grouped_id)),
            grouping_sets=comma.join(sql.SQL("(name, {})").format(column) for _, column in dimensions),
        ),
    }
    values = comma.join(sql.SQL("({}, {})").format(kind, column) for kind, column in dimensions)
    for member in {m.member for m in registry.metrics if m.member}:
        composed[f"stage_members_from_raw {member}"] = sql.SQL(STATEMENTS["stage_members_from_raw"]).format(
            member=sql.Identifier(member), dimensions=values
        )
    return composed
