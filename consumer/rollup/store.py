"""The transaction: one batch of messages becomes rows, ids and offsets together, or nothing of it happens.

    1. share the settings lock; the batch must be cut into days with the present settings
    2. lock the partitions' offsets, sorted; each must be the batch's start
    3. insert or lock the days, sorted; events of days that are not counted live go to late_events
    4. claim the ids; those already counted drop out
    5. store the members behind distinct counts; the new ones are what the counts grow by
    6. add the totals in one merge; bury the dead letters
    7. move the offsets, with the balance of what became of every message; commit

Why this is exact: an id is claimed under its day's lock, in the transaction that adds its values and moves its offset.
A crash, a zombie, a rebalance or a replay can only repeat the whole or nothing. Nothing here waits for Kafka, and no
row lock is taken outside the sorted order, so consumers and rebuilds cannot deadlock.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
import psycopg

from consumer.errors import SchemaError, SettingsChanged
from consumer.rollup.accounts import AccountZones
from consumer.rollup.aggregate import Dated, Totals, aggregate, date_events, split_key
from consumer.rollup.batch import Batch, BoolArray, Int64Array
from consumer.rollup.bitmap import REBUILD_SHARD, claim
from consumer.rollup.counted import first_of_each
from consumer.rollup.day_locks import lock_days, uncount
from consumer.rollup.graveyard import bury
from consumer.rollup.offsets import lock_offsets, move_offsets
from consumer.rollup.registry import Registry
from consumer.rollup.schema import CONTROL_LOST, refuse_unknown_zones
from consumer.rollup.statements import STATEMENTS

Stage = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a consumer counts by; the same for all its batches."""

    group_id: str
    registry: Registry
    open_days: int


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch.

    Attributes:
        balance: for each of the batch's spans: messages by outcome (counted, duplicates, late, skipped, dead).
        skipped: messages by reason.
        rows: rollup rows inserted or updated.
        counted: bool[n], which of the batch's events were counted.
    """

    balance: tuple[Mapping[str, int], ...]
    skipped: Mapping[str, int]
    rows: int
    counted: BoolArray

    def outcomes(self) -> dict[str, int]:
        """Messages by outcome, all spans together."""
        total: Counter[str] = Counter()
        for row in self.balance:
            total.update(row)
        return {"duplicate" if name == "duplicates" else name: count for name, count in total.items()}


@dataclass(frozen=True, slots=True)
class Found:
    """What was found out about n events while they were counted.

    Attributes:
        live: bool[n], which lie on a day that is counted live; the others are late.
        fresh: bool[n], which of the live ones were counted now; the others were counted before.
        rows: rollup rows inserted or updated.
    """

    live: BoolArray
    fresh: BoolArray
    rows: int


def write(
    conn: psycopg.Connection, batch: Batch, accounts: AccountZones, rules: Rules, now_us: int, stage: Stage
) -> Written:
    """Count a batch in one transaction. Returns after PostgreSQL answered COMMIT.

    Args:
        conn: an autocommit connection prepared by `prepare`, used by nobody else meanwhile.
        batch: what to count.
        accounts: the settings to cut days with.
        rules: what to count by.
        now_us: the present, microseconds since the epoch; decides which unknown days are still open.
        stage: is told (stage, seconds) as stages end.

    Raises:
        OffsetConflict: stored offsets are not the batch's; nothing was written.
        SettingsChanged: settings are newer than `accounts`; nothing was written.
        psycopg.Error: the database refused or is away. Nothing was written, unless the connection was lost at COMMIT:
            then the stored offsets tell.
    """
    timer = Timer(stage)
    dated, has_zone = date_events(batch.events, accounts)
    totals = aggregate(dated, rules.registry)
    timer("aggregate")
    with conn.transaction():
        check_settings(conn, accounts.version)  # 1
        shards = lock_offsets(conn, batch, rules.group_id)  # 2
        timer("offsets")
        found = count_events(conn, dated, totals, accounts, rules, shards, now_us, timer)  # 3, 4, 5, 6
        bury(conn, batch, rules.group_id)
        balance = _balance(batch, dated, has_zone, found)
        move_offsets(conn, batch, balance, rules.group_id)  # 7
        timer("offsets")
    timer("commit")
    skipped: Counter[str] = Counter(no_timezone=int((~has_zone).sum()))
    for span in batch.spans:
        skipped.update(span.skipped)
    kept = has_zone.copy()
    kept[has_zone] = found.fresh
    return Written(balance, skipped, found.rows, kept)


def count_events(
    conn: psycopg.Connection,
    dated: Dated,
    totals: Totals,
    accounts: AccountZones,
    rules: Rules,
    shards: Sequence[int],
    now_us: int,
    timer: "Timer",
) -> Found:
    """Steps 3 to 6: all that counts events, whoever read them from wherever.

    Args:
        conn: in a transaction after step 2.
        dated: the events; `source` is a position in `shards`.
        totals: what they add up to, if all of them count.
        accounts, rules, now_us: as for `write`.
        shards: where the ids are claimed; the transaction holds the rows of `consumer_offsets` they belong to. For
            events of no such row it is the rebuilds' shard.
        timer: is told of the stages.
    """
    live = lock_days(conn, dated, accounts, rules.registry, rules.open_days, now_us)  # 3
    timer("days")
    if REBUILD_SHARD in shards:
        conn.execute(STATEMENTS["lock_rebuild_bits"])
    fresh = _claim(conn, dated, live, shards)  # 4
    timer("ids")
    if not fresh.all():
        uncount(conn, dated, live & ~fresh)
        totals = aggregate(dated.take(fresh), rules.registry)
        timer("aggregate")
    _store_members(conn, totals.members)  # 5
    timer("members")
    rows = _add_rollups(conn, totals.rows, bool(len(totals.members)))  # 6
    timer("upsert")
    return Found(live, fresh, rows)


def prepare(conn: psycopg.Connection) -> None:
    """Make a connection ready for `write`: temporary tables and plans. Call once after connecting."""
    conn.execute(STATEMENTS["create_stages"])
    conn.execute(STATEMENTS["plan_for_lookups"])


def account_zones(conn: psycopg.Connection) -> AccountZones:
    """The accounts that have a rollup, as of now.

    Raises SchemaError for a time zone that this program cannot know, and if the settings' version is gone."""
    rows = conn.execute(STATEMENTS["account_zones"]).fetchall()
    if not rows:
        raise SchemaError(CONTROL_LOST)
    refuse_unknown_zones({name: account for _, account, name in rows if account is not None})
    return AccountZones.of(rows[0][0], {account: name for _, account, name in rows if account is not None})


def check_settings(conn: psycopg.Connection, version: int) -> None:
    """Step 1: keep accounts' settings from changing until the transaction ends.

    Raises:
        SettingsChanged: they are not of this version any more.
    """
    conn.execute(STATEMENTS["share_settings"])
    # A statement of its own: its snapshot is taken after the lock was granted.
    row = conn.execute(STATEMENTS["settings_version"]).fetchone()
    if row is None or row[0] != version:
        raise SettingsChanged(f"account settings moved from version {version} to {row and row[0]}")


def _claim(conn: psycopg.Connection, dated: Dated, live: BoolArray, shards: Sequence[int]) -> BoolArray:
    """bool[n]: events whose id was claimed now; False for late ones and for ids counted before."""
    fresh = live.copy()
    if not live.any():
        return fresh
    fresh[live] = first_of_each(dated.events.id[live])
    candidates = dated.take(fresh)
    last_day = int(split_key(candidates.key)[1].max())
    fresh[fresh] = claim(conn, candidates.events.id, candidates.events.source, shards, last_day)
    return fresh


def _store_members(conn: psycopg.Connection, members: pl.DataFrame) -> None:
    if len(members):
        _copy(conn, "copy_members", members)
        conn.execute(STATEMENTS["count_new_members"])


def _add_rollups(conn: psycopg.Connection, rows: pl.DataFrame, has_members: bool) -> int:
    if len(rows):
        _copy(conn, "copy_rollups", rows)
    elif not has_members:
        return 0
    return conn.execute(STATEMENTS["add_rollups"]).rowcount


def _copy(conn: psycopg.Connection, statement: str, rows: pl.DataFrame) -> None:
    # The columns are numbers, dates and words of the registry: none needs COPY's escapes. Encoded before COPY begins,
    # since no timeout ends the session of a process that is frozen during it (`end_silent_sessions`).
    lines = rows.write_csv(include_header=False, separator="\t").encode()
    with conn.cursor() as cursor, cursor.copy(STATEMENTS[statement]) as copy:
        copy.write(lines)


def _balance(batch: Batch, dated: Dated, has_zone: BoolArray, found: Found) -> tuple[Mapping[str, int], ...]:
    """Messages by outcome for each span; `consumer_offsets` holds a CHECK that they add up."""
    size = len(batch.spans)
    count: Callable[[Any], list[int]] = partial(_per_span, size=size)
    without_zone = count(batch.events.source[~has_zone])
    source, live, fresh = dated.events.source, found.live, found.fresh
    late, counted, duplicates = count(source[~live]), count(source[fresh]), count(source[live & ~fresh])
    return tuple(
        {
            "counted": counted[at],
            "duplicates": duplicates[at],
            "late": late[at],
            "skipped": without_zone[at] + sum(span.skipped.values()),
            "dead": span.dead,
        }
        for at, span in enumerate(batch.spans)
    )


def _per_span(source: Int64Array, size: int) -> list[int]:
    numbers: list[int] = np.bincount(source, minlength=size).tolist()
    return numbers


class Timer:
    """Tells the seconds since the last stage ended."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._last = perf_counter()

    def __call__(self, name: str) -> None:
        now = perf_counter()
        self._stage(name, now - self._last)
        self._last = now
