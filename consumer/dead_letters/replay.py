"""The replay: dead letters go through the handler of their topic again, and what is an event now is counted.

One transaction, beside the consumers:

    1. share the settings lock, as a batch does
    2. lock the letters; those that another replay holds are left to it. Decode them
    3. lock their partitions' rows of consumer_offsets, sorted; the offsets in them stay as they are
    4. days, ids, members and totals: the steps 3 to 6 of a batch. An id is claimed in its partition's shard, which
       the row of 3 guards; in the rebuilds' shard if that row is gone
    5. move the balance from dead to what became of the letters; mark them; commit

Why this is exact: a letter is marked in the transaction that counts its event, under the locks of a live batch. An
event that was counted otherwise (sent again, rebuilt from its raw row) has its bit, or lies on a day that only rebuilds
count: it is a duplicate, or late. A kill at any point leaves a letter that waits, or one that is done.

Consumers wait for the rows of 3, and so must we not wait long from their first one on: timeouts are short, and whoever
calls tries again. So a rebuild that takes minutes delays a replay, and no consumer of another day.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from typing import Any

import psycopg

from consumer.dead_letters.statements import STATEMENTS
from consumer.handlers import Decoded, Handler
from consumer.rollup.accounts import AccountZones
from consumer.rollup.aggregate import Dated, aggregate, date_events, split_key
from consumer.rollup.batch import BoolArray, Events
from consumer.rollup.bitmap import REBUILD_SHARD
from consumer.rollup.days import day_date
from consumer.rollup.store import Found, Rules, Timer, check_settings, count_events

LOCK_TIMEOUT, STATEMENT_TIMEOUT = "1s", "2s"
"""How long to wait for a lock, and for all locks of a statement, while consumers may wait for ours."""


class Outcome(StrEnum):
    """What became of a letter in a replay."""

    COUNTED = "counted"
    DUPLICATE = "duplicate"
    """Its event was counted otherwise."""
    LATE = "late"
    """Its day is not counted live; a rebuild of the day counts it from the raw events."""
    SKIPPED = "skipped"
    """It is an event, but nothing counts it."""
    BAD = "bad"
    """It still cannot be an event, and waits on."""
    NO_HANDLER = "no handler"
    """Nobody says what the messages of its topic are; it waits on."""
    BUSY = "busy"
    """Another replay has it in hand."""
    ALREADY = "already"
    """It was replayed before."""
    DISCARDED = "discarded"
    """Somebody decided that it shall not count."""
    UNKNOWN = "unknown"
    """There is no such letter."""


DONE = (Outcome.COUNTED, Outcome.DUPLICATE, Outcome.LATE, Outcome.SKIPPED)
"""Outcomes that a replay marks; their words are those of `dead_letters.outcome`."""
_BALANCE = {Outcome.DUPLICATE: "duplicates"}
_WHY_SKIPPED = {"unknown_event": "no metric reads its event", "tombstone": "it has no value"}


@dataclass(frozen=True, slots=True)
class Replayed:
    """A letter and what became of it.

    Attributes:
        id, topic, partition, offset: the letter; its place is None if there is no such letter.
        outcome: what became of it.
        detail: a sentence for people; empty where the outcome says it all.
        cause: the error class, if it is bad.
        event_id, account_id, day: the event, and its account's local day; None if it is none that counts.
    """

    id: int
    topic: str | None
    partition: int | None
    offset: int | None
    outcome: Outcome
    detail: str = ""
    cause: str | None = None
    event_id: int | None = None
    account_id: int | None = None
    day: date | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do about the letter."""
        return self.outcome in (*DONE, Outcome.ALREADY)


def replay(
    conn: psycopg.Connection,
    topic: str,
    ids: Sequence[int],
    handler: Handler,
    accounts: AccountZones,
    rules: Rules,
    now_us: int,
    *,
    dry_run: bool = False,
) -> list[Replayed]:
    """Replay letters of one group and topic in one transaction. Returns after PostgreSQL answered COMMIT.

    Args:
        conn: an autocommit connection prepared by `consumer.rollup.store.prepare`, used by nobody else meanwhile.
        topic: of the letters; their group is `rules.group_id`.
        ids: of the letters, each once; all their values are held in memory.
        handler: what the topic's messages are.
        accounts: the settings to cut days with.
        rules: what to count by.
        now_us: the present, microseconds since the epoch.
        dry_run: do all of it and roll back.

    Returns:
        What became of each letter, by rising id; ids that are none of theirs are not in it.

    Raises:
        SettingsChanged: settings are newer than `accounts`; nothing was written.
        psycopg.Error: the database refused or is away. Nothing was written, unless the connection was lost at COMMIT:
            then the letters tell.
    """
    with conn.transaction(force_rollback=dry_run):
        check_settings(conn, accounts.version)  # 1
        rows = conn.execute(STATEMENTS["lock_waiting"], {"ids": list(ids)}).fetchall()  # 2
        letters = [Replayed(row[0], topic, row[1], row[2], Outcome.SKIPPED) for row in rows]
        decoded = handler.decode([row[3] for row in rows], now_us)
        partitions = sorted({row[1] for row in rows})
        where = {"group_id": rules.group_id, "topic": topic, "partitions": partitions}
        conn.execute(STATEMENTS["wait_briefly"], {"lock": LOCK_TIMEOUT, "statement": STATEMENT_TIMEOUT})
        shards: dict[int, int] = dict(conn.execute(STATEMENTS["lock_balances"], where).fetchall())  # 3
        events = _with_source(decoded, [partitions.index(row[1]) for row in rows])
        dated, has_zone = date_events(events, accounts)
        totals = aggregate(dated, rules.registry)
        claimed_in = [shards.get(p, REBUILD_SHARD) for p in partitions]
        found = count_events(conn, dated, totals, accounts, rules, claimed_in, now_us, Timer(_untimed))  # 4
        results = _results(letters, decoded, dated, has_zone, found)
        _mark(conn, results, where)  # 5
        left = sorted(set(ids) - {letter.id for letter in letters})
        ends = conn.execute(STATEMENTS["ends"], {"ids": left}).fetchall() if left else []
    return sorted([*results, *(_ended(row, topic) for row in ends)], key=lambda letter: letter.id)


def _with_source(decoded: Decoded, places: Sequence[int]) -> Events:
    e = decoded.events
    source = e.source.copy()
    source[:] = [places[i] for i in decoded.index.tolist()]
    return replace(e, source=source)


def _results(
    letters: Sequence[Replayed], decoded: Decoded, dated: Dated, has_zone: BoolArray, found: Found
) -> list[Replayed]:
    """Each letter with what became of it, in their order."""
    results = list(letters)
    for reject in decoded.rejects:
        results[reject.index] = replace(
            letters[reject.index], outcome=Outcome.BAD, detail=reject.reason, cause=reject.error_class
        )
    for why, index in decoded.skipped.items():
        for at in index.tolist():
            results[at] = replace(letters[at], detail=_WHY_SKIPPED.get(why, why))
    events = decoded.events
    for at, event_id, account in zip(
        decoded.index[~has_zone].tolist(),
        events.id[~has_zone].tolist(),
        events.account_id[~has_zone].tolist(),
        strict=True,
    ):
        detail = f"account {account} has no reporting_timezone"
        results[at] = replace(letters[at], detail=detail, event_id=event_id, account_id=account)
    account_ids, days = (column.tolist() for column in split_key(dated.key))
    for place, at in enumerate(decoded.index[has_zone].tolist()):
        outcome, detail = Outcome.DUPLICATE, "its event was counted before"
        day = day_date(days[place])
        if found.fresh[place]:
            outcome, detail = Outcome.COUNTED, ""
        elif not found.live[place]:
            outcome, detail = Outcome.LATE, "its day is not counted live: a rebuild counts it from the raw events"
        results[at] = replace(
            letters[at],
            outcome=outcome,
            detail=detail,
            event_id=int(dated.events.id[place]),
            account_id=account_ids[place],
            day=day,
        )
    return results


def _mark(conn: psycopg.Connection, results: Sequence[Replayed], where: Mapping[str, Any]) -> None:
    """The letters' rows, and the balance of their partitions. Nothing is waited for here: all of it is locked."""
    bad = [letter for letter in results if letter.outcome is Outcome.BAD]
    done = [letter for letter in results if letter.outcome in DONE]
    if bad:
        said = {"causes": [letter.cause for letter in bad], "reasons": [letter.detail for letter in bad]}
        conn.execute(STATEMENTS["mark_tried"], {"ids": [letter.id for letter in bad], **said})
    if done:
        number = Counter((letter.partition, letter.outcome) for letter in done)
        moved = {_BALANCE.get(o, o.value): [number[p, o] for p in where["partitions"]] for o in DONE}
        conn.execute(STATEMENTS["move_balance"], {**where, **moved})
        outcomes = [letter.outcome.value for letter in done]
        conn.execute(STATEMENTS["mark_replayed"], {"ids": [letter.id for letter in done], "outcomes": outcomes})


def _ended(row: tuple[Any, ...], topic: str) -> Replayed:
    """A letter that could not be locked: it has ended already, or another replay has it."""
    letter, partition, offset, replayed_at, outcome, discarded_at, discard_reason = row
    if replayed_at is not None:
        return Replayed(letter, topic, partition, offset, Outcome.ALREADY, outcome)
    if discarded_at is not None:
        return Replayed(letter, topic, partition, offset, Outcome.DISCARDED, discard_reason)
    return Replayed(letter, topic, partition, offset, Outcome.BUSY, "another replay has it in hand")


def _untimed(stage: str, seconds: float) -> None:
    """A transaction's timing; nobody asks."""
