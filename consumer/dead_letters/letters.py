"""Reads letters from PostgreSQL: what is known of them, and their contents."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from consumer.dead_letters.selection import Filters, State
from consumer.dead_letters.statements import STATEMENTS

PAGE = 500
"""Letters picked at once; also the most in one transaction of a replay, so that consumers wait for milliseconds."""
PORTION_BYTES = 16_000_000
"""Contents held in memory at once, if no single letter is larger."""

_STATEMENT = {
    name: sql.SQL(STATEMENTS[name]).format(which=sql.SQL(STATEMENTS["which"]))
    for name in ("pick", "newest", "by_cause")
}


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known of a letter, without its contents. Instants are aware; sizes are in bytes."""

    id: int
    group_id: str
    topic: str
    topic_id: str
    partition: int
    offset: int
    message_timestamp: datetime | None
    recorded_at: datetime
    cause: str
    reason: str
    key_bytes: int
    value_bytes: int
    tried_at: datetime | None
    replayed_at: datetime | None
    outcome: str | None
    discarded_at: datetime | None
    discard_reason: str | None

    @property
    def state(self) -> State:
        """What became of it."""
        if self.replayed_at is not None:
            return State.REPLAYED
        return State.WAITING if self.discarded_at is None else State.DISCARDED


@dataclass(frozen=True, slots=True)
class Contents:
    """A letter as it stood on the topic."""

    letter: Letter
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Cause(NamedTuple):
    """Letters of one error class: how many, and when the first and the last were set aside."""

    cause: str
    letters: int
    first: datetime
    last: datetime


class Picked(NamedTuple):
    """A letter that a command will look at; all its contents take up about `size` bytes of memory, or fewer."""

    id: int
    group_id: str
    topic: str
    partition: int
    offset: int
    value_bytes: int
    size: int


def newest(conn: psycopg.Connection, filters: Filters, most: int) -> list[Letter]:
    """The letters set aside last, newest first."""
    return [Letter(*row) for row in conn.execute(_STATEMENT["newest"], {**filters.parameters(), "most": most})]


def by_cause(conn: psycopg.Connection, filters: Filters) -> list[Cause]:
    """All letters asked for by error class, the most frequent first."""
    return [Cause(*row) for row in conn.execute(_STATEMENT["by_cause"], filters.parameters())]


def newest_id(conn: psycopg.Connection) -> int:
    """The id of the letter set aside last, 0 if there is none."""
    row = conn.execute(STATEMENTS["newest_id"]).fetchone()
    return int(row[0]) if row else 0


def page(conn: psycopg.Connection, filters: Filters, after: int, last: int) -> list[Picked]:
    """The next letters with ids in (after, last], by rising id; none at the end."""
    asked = {**filters.parameters(), "after": after, "last": last, "most": PAGE, "portion": PORTION_BYTES}
    return [Picked(*row) for row in conn.execute(_STATEMENT["pick"], asked)]


def portions_to_replay(picked: Sequence[Picked]) -> Iterator[list[Picked]]:
    """Letters of one group and topic each, in order, whose values are held in memory together."""
    together: dict[tuple[str, str], list[Picked]] = {}
    for letter in picked:
        together.setdefault((letter.group_id, letter.topic), []).append(letter)
    for letters in together.values():
        yield from _portions(letters, [letter.value_bytes for letter in letters])


def portions_to_read(picked: Sequence[Picked]) -> Iterator[list[Picked]]:
    """Letters in order, whose contents are held in memory together."""
    return _portions(picked, [letter.size for letter in picked])


def _portions(letters: Sequence[Picked], sizes: Sequence[int]) -> Iterator[list[Picked]]:
    portion: list[Picked] = []
    taken = 0
    for letter, size in zip(letters, sizes, strict=True):
        if portion and taken + size > PORTION_BYTES:
            yield portion
            portion, taken = [], 0
        portion.append(letter)
        taken += size
    if portion:
        yield portion


def contents(conn: psycopg.Connection, ids: Sequence[int]) -> list[Contents]:
    """Letters with their contents, by rising id; ids that nobody has are left out."""
    return [_contents(row) for row in conn.execute(STATEMENTS["whole"], {"ids": list(ids)})]


def _contents(row: Sequence[Any]) -> Contents:
    *known, key, value, headers = row
    pairs = tuple((name, None if coded is None else base64.b64decode(coded)) for name, coded in headers)
    return Contents(Letter(*known), key, value, pairs)
