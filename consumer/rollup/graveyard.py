"""Dead letters: messages that cannot be events, kept as they stood in the transaction that passes them."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import psycopg

from consumer.rollup.batch import Batch, DeadLetter
from consumer.rollup.days import instant
from consumer.rollup.statements import STATEMENTS

PORTION_BYTES = 16_000_000
"""About as much is on its way to PostgreSQL at once: each letter is copied several times until it is there."""


def bury(conn: psycopg.Connection, batch: Batch, group_id: str) -> None:
    """Insert the batch's dead letters; those already there (a message read twice) stay as they are."""
    topic_ids = {span.source: span.topic_id for span in batch.spans}
    with conn.cursor() as cursor:
        for portion in _portions(batch.dead_letters):
            cursor.executemany(STATEMENTS["bury"], [_row(each, topic_ids[each.source], group_id) for each in portion])


def _portions(letters: Sequence[DeadLetter]) -> Iterator[list[DeadLetter]]:
    portion: list[DeadLetter] = []
    size = 0
    for letter in letters:
        portion.append(letter)
        size += letter.size
        if size >= PORTION_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _row(letter: DeadLetter, topic_id: str, group_id: str) -> Mapping[str, Any]:
    return {
        "group_id": group_id,
        "topic": letter.source.topic,
        "topic_id": topic_id,
        "partition": letter.source.partition,
        "offset": letter.offset,
        "key": letter.key,
        "value": letter.value,
        "headers": _headers(letter.headers),
        "timestamp": None if letter.timestamp_us is None else instant(letter.timestamp_us),
        "error_class": letter.error_class,
        "reason": letter.reason,
    }


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> str:
    # PostgreSQL's jsonb has no NUL; a header's name is text of the producer's choosing.
    listed = [
        [name.replace("\0", "\N{REPLACEMENT CHARACTER}"), None if value is None else base64.b64encode(value).decode()]
        for name, value in headers
    ]
    return orjson.dumps(listed).decode()
