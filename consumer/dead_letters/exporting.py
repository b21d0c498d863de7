"""Letters as JSON lines that lose nothing: text where bytes are UTF-8, base64 where they are not."""

import base64
from dataclasses import asdict
from typing import Any, BinaryIO

import orjson

from consumer.dead_letters.letters import Contents, Letter
from consumer.dead_letters.selection import Filters
from consumer.dead_letters.session import Session


def record(found: Contents) -> dict[str, Any]:
    """A letter as an exported object. `value` is text or null; bytes that are no text are `value_base64` instead; so
    for `key`, and for each of `headers`. Instants are ISO 8601."""
    return {
        **known(found.letter),
        **coded("key", found.key),
        **coded("value", found.value),
        "headers": [{"name": name, **coded("value", value)} for name, value in found.headers],
    }


def known(letter: Letter) -> dict[str, Any]:
    """What is known of a letter, without its contents."""
    return {"state": letter.state, **asdict(letter)}


def coded(name: str, value: bytes | None) -> dict[str, str | None]:
    """Bytes as a member of an object: `name` with the text they are in UTF-8, or `name_base64`."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def export(session: Session, filters: Filters, out: BinaryIO) -> int:
    """Write the letters asked for, one object a line, by rising id, and return how many it were."""
    written = 0
    for found in session.contents(filters):
        out.write(orjson.dumps(record(found)) + b"\n")
        written += 1
    return written
