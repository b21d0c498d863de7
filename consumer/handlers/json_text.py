"""Questions about the text of a JSON message that decoders do not answer: how deep it is, and which keys come twice."""

import json
import re
from typing import Any

import numpy as np

MAX_DEPTH = 500
"""Levels of arrays and objects, the event itself included. A row has 1. The decoders would stop at Python's recursion
limit, which is another one for each version of Python, and less the depth of the caller: a replay could then count what
a consumer set aside. All programs reach this one."""

WHITE = " \t\r\n"
_TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Texts. Of bad syntax the last one may not end: it goes on to the end then, so that nothing is looked at twice."""


def too_deep(value: bytes) -> bool:
    """Whether arrays and objects are nested more than `MAX_DEPTH` deep; also said of what is of bad syntax."""
    if len(value) <= MAX_DEPTH or value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    outside = np.frombuffer(_TEXTS.sub(b"", value), np.uint8)
    opened = np.cumsum((outside == ord("[")) | (outside == ord("{")))
    closed = np.cumsum((outside == ord("]")) | (outside == ord("}")))
    return bool((opened - closed > MAX_DEPTH).any())


def repeats(text: str) -> bool:
    """Whether the object `text`, of good syntax, has a key twice."""
    return json.loads(text, object_pairs_hook=_has_repeats, parse_int=str, parse_float=str) is True


def _has_repeats(members: list[tuple[str, Any]]) -> bool:
    return len(members) != len({key for key, _ in members})


def first_values(text: str) -> dict[str, str]:
    """The keys of the object `text`, of good syntax, and the JSON text of the first value of each. Arrays and objects
    are empty there: no field may be one."""
    values = json.loads(text, object_pairs_hook=first_of_each_key, parse_int=_Number, parse_float=_Number)
    return {key: _token(value) for key, value in values.items()}


class _Number(str):
    """A JSON number as it was written, of any length."""

    __slots__ = ()


def first_of_each_key(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` by which the first value of a key counts; the json module's own is the last one."""
    return dict(reversed(members))


def _token(value: Any) -> str:
    if isinstance(value, _Number):
        return value
    if isinstance(value, dict | list):
        return "{}" if isinstance(value, dict) else "[]"
    return json.dumps(value, ensure_ascii=False)
