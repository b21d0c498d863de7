"""Dead letters that name an account or an event, read as leniently as they can be.

A dead letter is no event, so the strict decoder cannot say what it was about. Most are objects all the same, with one
field that is wrong: those are read here as plain JSON. What does not parse at all can only be counted.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backfill.snapshot import Connection
from consumer.handlers import Handler
from consumer.handlers.json_text import first_of_each_key
from consumer.handlers.timestamps import TimestampError, parse_timestamp
from consumer.rollup.days import instant
from consumer.rollup.statements import load_statements

STATEMENTS = load_statements("backfill", "explain.sql")
DOES_NOT_PARSE = ("encoding", "syntax", "nesting")
"""Classes of error of messages that are no JSON text."""
AT_ONCE = 100
"""Letters fetched together; a letter has up to a megabyte and more."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: where it stood, why it is one, and what it seems to say; None where it says nothing readable.

    `counted_today`: the rules, or the time, have changed; sent again, it would be an event.
    """

    topic: str
    partition: int
    offset: int
    recorded_at: datetime
    error_class: str
    reason: str
    event_id: int | None
    account_id: int | None
    created_at: datetime | None
    counted_today: bool


@dataclass(frozen=True, slots=True)
class Unreadable:
    """How many dead letters are no JSON: `all`; `of_account`, by their key; `with_digits` of what was looked for."""

    all: int
    of_account: int
    with_digits: int


def letters_naming(conn: Connection, number: int, handler: Handler, now_us: int) -> Iterator[Letter]:
    """The letters that have the number among their digits and can be read as an object; reads one after the other.

    Args:
        conn: in a transaction.
        number: an account's or event's id.
        handler: what the consumer decodes with.
        now_us: the present, microseconds since the epoch, for rules about the future.
    """
    with conn.cursor("dead_letters") as cursor:
        cursor.itersize = AT_ONCE
        for row in cursor.execute(STATEMENTS["letters_with"], {"digits": str(number).encode()}):
            topic, partition, offset, recorded_at, error_class, reason, value = row
            members = read_members(value)
            if members is not None:
                yield Letter(
                    topic=topic,
                    partition=partition,
                    offset=offset,
                    recorded_at=recorded_at,
                    error_class=error_class,
                    reason=reason,
                    event_id=_number(members.get("id")),
                    account_id=_number(members.get("account_id")),
                    created_at=_instant(members.get("created_at")),
                    counted_today=bool(len(handler.decode([value], now_us).events)),
                )


def unreadable(conn: Connection, account_id: int | None, number: int) -> Unreadable:
    """Count the letters that are no JSON."""
    asked = {
        "classes": list(DOES_NOT_PARSE),
        "key": None if account_id is None else str(account_id).encode(),
        "digits": str(number).encode(),
    }
    return Unreadable(*conn.execute(STATEMENTS["letters_that_do_not_parse"], asked).fetchall()[0])


def read_members(value: bytes) -> dict[str, Any] | None:
    """The members of an object; of a key given twice the first, as the strict decoder has it. None if it is none."""
    try:
        found = json.loads(value.decode(errors="replace"), object_pairs_hook=first_of_each_key, parse_int=_digits)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _digits(text: str) -> int | str:
    return int(text) if len(text) <= 20 else text  # longer ones are no id, and could be of any length


def _number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value.strip(), re.ASCII):
        return int(value)
    return value if isinstance(value, int) else None


def _instant(value: object) -> datetime | None:
    """The instant a text means, if need be without its offset from UTC."""
    if isinstance(value, str):
        for text in (value.strip(), f"{value.strip()}Z"):
            try:
                return instant(parse_timestamp(text))
            except (TimestampError, OverflowError):
                continue
    return None
