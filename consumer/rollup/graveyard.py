"""Dead letters: messages that cannot be events, kept as they stood in the transaction that passes them."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import psycopg

from consumer.rollup.batch import Batch
from consumer.rollup.days import instant
from consumer.rollup.statements import STATEMENTS


def bury(conn: psycopg.Connection, batch: Batch, group_id: str) -> None:
    """Insert the batch's dead letters; those already there (a message read twice) stay as they are."""
    topic_ids = {span.source: span.topic_id for span in batch.spans}
    rows: list[Mapping[str, Any]] = [
        {
            "group_id": group_id,
            "topic": letter.source.topic,
            "topic_id": topic_ids[letter.source],
            "partition": letter.source.partition,
            "offset": letter.offset,
            "key": letter.key,
            "value": letter.value,
            "headers": _headers(letter.headers),
            "timestamp": None if letter.timestamp_us is None else instant(letter.timestamp_us),
            "error_class": letter.error_class,
            "reason": letter.reason,
        }
        for letter in batch.dead_letters
    ]
    if rows:
        with conn.cursor() as cursor:
            cursor.executemany(STATEMENTS["bury"], rows)


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> str:
    # PostgreSQL's jsonb has no NUL; a header's name is text of the producer's choosing.
    listed = [
        [name.replace("\0", "\N{REPLACEMENT CHARACTER}"), None if value is None else base64.b64encode(value).decode()]
        for name, value in headers
    ]
    return orjson.dumps(listed).decode()
