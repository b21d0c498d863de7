"""The rule of plain JSON events: one strict decoder, message by message. (Why two: docs/decisions/0003-decoder.md.)

`StrictJson` accepts exactly what a raw row can be. A message is checked in this order, and the first fault is
its reject:

    class       what is wrong
    size        more than `MAX_BYTES`
    encoding    not UTF-8, be it in a field that nobody reads
    nesting     arrays and objects more than `MAX_DEPTH` deep
    syntax      not one JSON text (RFC 8259: no NaN, no Infinity, no byte order mark, no half surrogate pair)
    type        not an object
    missing, type, range   the first field of `_fields` that is absent, of another JSON type, or too large
    text        NUL, which PostgreSQL text cannot hold, in `name` or `created_at`
    timestamp   `created_at` names no instant, or one before 2000 or more than a day ahead

Of a key given twice the first value counts, whatever the later ones are. Fields that are not in `_fields` are
not looked at, beyond their syntax.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from consumer.handlers import Decoded
from consumer.handlers.json_text import MAX_DEPTH, WHITE, first_values, repeats, too_deep
from consumer.handlers.timestamps import (
    EARLIEST_US,
    MAX_AHEAD_US,
    TimestampError,
    parse_timestamp,
    parse_timestamps,
)
from consumer.rollup.batch import NULL, Events, Int64Array, Reject
from consumer.rollup.registry import REGISTRY, Registry

MAX_BYTES = 1 << 20
"""Longest message that is looked at, in bytes: Kafka's own default for what a broker accepts. A row has 400."""
MAX_SECONDS = 1e9
"""Largest duration either way, in seconds (32 years): its microseconds are exact in a double and sum in 64 bits."""

_UNKNOWN = -1
_SLICE = 250
"""Messages decoded in one go. When one of them is unfit, they are all decoded again, each on its own."""
_NULL = int(NULL)
_FOUND_CHARACTERS = 60
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # the last one before `too_deep` was asked


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a field may be: its type for the decoder, and the words for people."""

    type: Any
    expected: str
    number: re.Pattern[bytes] | None = None
    """A JSON number of the right sort: one that is not accepted is out of range, and not of another type."""


_INTEGER = re.compile(rb"-?\d+")
_NUMBER = re.compile(rb"-?\d.*")
_INT64 = _Kind(Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)], "a 64-bit integer", _INTEGER)
_INT32 = _Kind(Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)], "a 32-bit integer", _INTEGER)
_SECONDS = _Kind(
    Annotated[float, msgspec.Meta(ge=-MAX_SECONDS, le=MAX_SECONDS)], "a number of seconds within ±1e9", _NUMBER
)
_TEXT = _Kind(str, "text")


class _Invalid(Exception):  # noqa: N818 - its reader is a table of dead letters
    """A message that is no event: the error class and reason of its reject."""

    def __init__(self, error_class: str, reason: str) -> None:
        self.error_class = error_class
        self.reason = reason
        super().__init__(reason)


class StrictJson:
    """Decodes every message by itself: an implementation of `Handler` without state between calls."""

    def __init__(self, registry: Registry = REGISTRY) -> None:
        self._code = registry.event_code
        self._id_columns = registry.id_columns
        required = {"id": _INT64, "name": _TEXT, "account_id": _INT32, "created_at": _TEXT}
        optional = dict.fromkeys(registry.id_columns, _INT32)
        optional |= {"value": _SECONDS, "value_in_business_hours": _SECONDS}
        self._fields = [(name, kind, True) for name, kind in required.items()]
        self._fields += [(name, kind, False) for name, kind in optional.items()]
        # gc=False: rows hold no references that could form a cycle, and 20,000 of them would wake the collector.
        row = msgspec.defstruct(
            "Row",
            [(name, kind.type) if must else (name, kind.type | None, None) for name, kind, must in self._fields],
            gc=False,
        )
        self._decode_row = msgspec.json.Decoder(row).decode
        self._check_syntax = msgspec.json.Decoder(msgspec.Raw).decode
        self._decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        self._decode_field = {
            name: msgspec.json.Decoder(kind.type if must else kind.type | None).decode
            for name, kind, must in self._fields
        }

    def decode(self, values: Sequence[bytes | None], now_us: int) -> Decoded:
        """Decode and validate `values`; see `Handler.decode` and the table above."""
        rows, index, rejects, tombstones = self._rows(values)
        created_us, ok = parse_timestamps([row.created_at for row in rows])
        ok &= (created_us >= EARLIEST_US) & (created_us <= now_us + MAX_AHEAD_US)
        code = self._code.get
        name = np.array([code(row.name, _UNKNOWN) for row in rows], np.int8)
        keep = name != _UNKNOWN
        unknown = np.flatnonzero(~keep)
        ok[unknown] &= np.array(["\0" not in rows[i].name for i in unknown.tolist()], np.bool_)
        for i in np.flatnonzero(~ok).tolist():
            fault = _text_fault(rows[i])
            rejects.append(Reject(int(index[i]), fault.error_class, fault.reason))
        rejects.sort(key=lambda reject: reject.index)
        skipped = {"tombstone": np.array(tombstones, np.int64), "unknown_event": index[ok & ~keep]}
        keep &= ok
        if not keep.all():
            rows = list(compress(rows, keep.tolist()))
            index, name, created_us = index[keep], name[keep], created_us[keep]
        events = Events(
            id=np.array([row.id for row in rows], np.int64),
            account_id=np.array([row.account_id for row in rows], np.int64),
            name=name,
            created_us=created_us,
            value_us=microseconds(np.array([row.value or 0.0 for row in rows], np.float64)),
            business_us=microseconds(np.array([row.value_in_business_hours or 0.0 for row in rows], np.float64)),
            ids={column: _id_column(rows, column) for column in self._id_columns},
            source=np.zeros(len(rows), np.int16),
        )
        return Decoded(events, index, rejects, {why: which for why, which in skipped.items() if len(which)})

    def fits(self, value: bytes | None) -> bool:
        """Whether `value` may be an event, at a glance: it is of good syntax, and its fields are of their types."""
        try:
            if value is None or not (value.isascii() or str(value, "utf-8")):
                return False
            self._decode_row(value)
        except _FAULTS:
            return False
        return True

    def _rows(self, values: Sequence[Any]) -> tuple[list[Any], Int64Array, list[Reject], list[int]]:
        """The rows of `values` and their positions, the rejects, and the positions of tombstones."""
        decode = self._decode_row
        rows: list[Any] = []
        rejects: list[Reject] = []
        tombstones: list[int] = []
        for start in range(0, len(values), _SLICE):
            part = values[start : start + _SLICE]
            try:
                # The short way of nearly every message. ASCII is UTF-8 without a further look.
                good = [
                    decode(value)
                    for value in part
                    if len(value) <= MAX_BYTES and (value.isascii() or str(value, "utf-8"))
                ]
                if len(good) == len(part) and not self._may_repeat(part) and not any(map(too_deep, part)):
                    rows += good
                    continue
            except (*_FAULTS, TypeError):  # TypeError: a tombstone is None
                pass
            for i, value in enumerate(part, start):
                if value is None:
                    tombstones.append(i)
                    continue
                try:
                    rows.append(self._row(value))
                except _Invalid as fault:
                    rejects.append(Reject(i, fault.error_class, fault.reason))
        others = [reject.index for reject in rejects] + tombstones
        return rows, np.delete(np.arange(len(values)), others), rejects, tombstones

    def _row(self, value: bytes) -> Any:
        """The row of one message; raises _Invalid."""
        if len(value) > MAX_BYTES:
            raise _Invalid("size", f"the message has {len(value)} bytes, more than {MAX_BYTES}")
        try:
            if not value.isascii():
                value.decode()
            if too_deep(value):
                raise _Invalid("nesting", f"arrays and objects are nested more than {MAX_DEPTH} deep")
            try:
                row = self._decode_row(value)
            except msgspec.ValidationError:
                self._check_syntax(value)  # up to its end: the decoder stopped at the first unfit field
                return self._row_of_first_values(value)
            if self._may_repeat([value]) and repeats(value.decode()):
                return self._row_of_first_values(value)
            return row
        except UnicodeDecodeError as error:
            raise _Invalid("encoding", f"the message is not UTF-8: {error.reason} (byte {error.start})") from None
        except msgspec.DecodeError as error:
            raise _Invalid("syntax", str(error) if value else "the message is empty") from None

    def _may_repeat(self, values: Sequence[bytes]) -> bool:
        """Whether a key of one of these objects may stand there twice; False is certain.

        The text `":` ends a key, unless it is in a text, where the quote has a backslash before it. A key that ends
        otherwise has white space before its colon. Without either, no object has more members than it has `":`.
        """
        together = b"".join(values)
        if any(odd in together for odd in (b"\\", b"\t", b"\r", b"\n")) or (b" " in together and b" :" in together):
            return True
        members = self._decode_members
        return any(value.count(b'":') != len(members(value)) for value in values)

    def _row_of_first_values(self, value: bytes) -> Any:
        """The row of a message of good syntax, of the first value of each key; raises _Invalid."""
        text = value.decode().strip(WHITE)
        if not text.startswith("{"):
            raise _Invalid("type", f"expected an object, found {_found(value)}")
        tokens = first_values(text)
        for name, kind, must in self._fields:
            token = tokens.get(name, "").encode()
            if not token and must:
                raise _Invalid("missing", f"{name}: missing")
            try:
                if token:
                    self._decode_field[name](token)
            except msgspec.ValidationError:
                expected = kind.expected if must else f"{kind.expected} or null"
                error_class = "range" if kind.number and kind.number.fullmatch(token) else "type"
                raise _Invalid(error_class, f"{name}: expected {expected}, found {_found(token)}") from None
        members = [f'"{name}":{tokens[name]}' for name, _, _ in self._fields if name in tokens]
        return self._decode_row(("{" + ",".join(members) + "}").encode())


def _id_column(rows: Sequence[Any], column: str) -> Int64Array:
    ids = map(attrgetter(column), rows)
    return np.array([_NULL if x is None else x for x in ids], np.int64)


def microseconds(seconds: npt.NDArray[np.float64]) -> Int64Array:
    """Seconds as integer microseconds: round half to even of `seconds * 1e6` in IEEE doubles, as PostgreSQL's
    `round(value * 1e6)::bigint` in a rebuild."""
    return np.rint(seconds * 1e6).astype(np.int64)


def _text_fault(row: Any) -> _Invalid:
    """Why a row whose texts did not pass is no event."""
    for name, text in (("name", row.name), ("created_at", row.created_at)):
        if "\0" in text:
            return _Invalid("text", f"{name}: holds a NUL character, found {_quoted(text)}")
    try:
        early = parse_timestamp(row.created_at) < EARLIEST_US
    except TimestampError as error:
        return _Invalid("timestamp", f"created_at: {_quoted(row.created_at)} {error}")
    fault = "lies before 2000" if early else "lies more than a day ahead"
    return _Invalid("timestamp", f"created_at: {_bounded(row.created_at)} {fault}")


def _found(text: bytes) -> str:
    """The JSON value `text` as a reason may show it: never the inside of an object or array."""
    text = text.strip()
    if text[:1] in (b"{", b"["):
        return "an object" if text[:1] == b"{" else "an array"
    return _bounded(text[: 4 * _FOUND_CHARACTERS + 4].decode(errors="ignore"))


def _quoted(text: str) -> str:
    return _bounded(json.dumps(text[: _FOUND_CHARACTERS + 1]))


def _bounded(text: str) -> str:
    return text if len(text) <= _FOUND_CHARACTERS else text[: _FOUND_CHARACTERS - 3] + "..."
