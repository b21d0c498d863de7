"""A quick reading of plain JSON events: many messages at once by polars, on all cores and without Python's lock.

It never rejects. What it reads is what `StrictJson` would read; whatever it cannot vouch for it names as doubtful, for
`StrictJson` to judge. polars accepts less than `StrictJson` in some places, which costs time only, and more in others.
Those are shut out here, and a property test holds that both agree about any bytes:

    what polars does                                    what keeps it out
    skips lines of white space; a newline may be        no message is blank, and there are as many rows as messages
        inside a message
    takes a first line that begins like a compressed    the text begins with a newline
        file or a byte order mark for one
    takes half a surrogate pair                         no message with `\\ud` is shown to it
    nests deeper than StrictJson                        no message with more than `MAX_DEPTH` brackets is
    reads messages of any size                          no message longer than `MAX_BYTES` is
    takes the square of the time for a key that is      no message with more than `_COLONS` is
        there n times: seconds for a message
    makes texts of numbers, objects, true               `name` begins with a letter, `created_at` is a date-time
    reads an absent field and null alike                null in a required field is doubtful
    has no bounds on durations                          looked at here

Of a key given twice both take the first value: polars looks a key up in a list, or in a hash table that was made
large enough and from which nothing is removed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
from polars.exceptions import PanicException, PolarsError

from consumer.handlers.json_strict import MAX_BYTES, MAX_SECONDS, microseconds
from consumer.handlers.json_text import MAX_DEPTH
from consumer.handlers.timestamps import EARLIEST_US, MAX_AHEAD_US, read_usual
from consumer.rollup.batch import NULL, BoolArray, Events, Int64Array
from consumer.rollup.registry import Registry

_LONG = 2 * MAX_DEPTH
"""Bytes of a message from which on its brackets are counted. A shorter one that ends nests `MAX_DEPTH` deep at most."""
_COLONS = 3_000
"""An object has no more members than its text has colons. With so many, equal ones cost polars a millisecond."""
_CROWDED = 5 * _COLONS
"""Bytes of a message from which on its colons are counted. The shortest member is `"":0,`."""
_WORD = r"^[A-Za-z_][A-Za-z0-9_.:/-]*$"
"""A text that polars cannot have made of another value, if it is none of `_LITERALS`."""
_LITERALS = ["true", "false", "null"]
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Read:
    """What became of n messages; each is in exactly one of the three. All positions rise.

    Attributes:
        events: valid events that feed a metric, as in `Decoded`.
        index: int64[len(events)], their positions.
        unknown: int64 positions of good messages whose event feeds no metric.
        doubtful: int64 positions of all others.
    """

    events: Events
    index: Int64Array
    unknown: Int64Array
    doubtful: Int64Array


class FastJson:
    """Reads many messages at once; no state between calls."""

    def __init__(self, registry: Registry) -> None:
        self._id_columns = registry.id_columns
        self._schema = {
            "id": pl.Int64(),
            "name": pl.String(),
            "account_id": pl.Int32(),
            "created_at": pl.String(),
            **dict.fromkeys(registry.id_columns, pl.Int32()),
            "value": pl.Float64(),
            "value_in_business_hours": pl.Float64(),
        }
        words = pl.Series(registry.event_names, dtype=pl.String)
        self._words = pl.Enum(words.filter(_is_word(words)))
        codes = [registry.event_code[word] for word in self._words.categories]
        self._code_of = np.array([*codes, _UNKNOWN], np.int8)
        # All at once: what is asked of polars one by one costs 0.2 ms each, under Python's lock.
        required, durations = ["id", "account_id"], ["value", "value_in_business_hours"]
        self._columns = [
            pl.col(required).cast(pl.Int64).fill_null(0),
            pl.any_horizontal(pl.col(required).is_null()).alias("absent"),
            pl.col("name").cast(self._words, strict=False).to_physical().cast(pl.Int64).fill_null(_UNKNOWN),
            pl.col("created_at").str.len_bytes().cast(pl.Int64).fill_null(0),
            pl.col(durations).fill_null(0.0),
            pl.col(self._id_columns).cast(pl.Int64).fill_null(int(NULL)),
        ]
        self._created = pl.col("created_at").str.join("")

    def read(self, values: Sequence[bytes | None], now_us: int) -> Read | None:
        """Read `values`, one message each; None when nothing is known of any: one of them made polars give up.

        `now_us` as in `Handler.decode`. Blocks other Python threads for a fraction of the time it takes.
        """
        lines, shown = _lines(values)
        if not lines:
            return self._sorted_out(pl.DataFrame(schema=self._schema), shown, len(values), now_us)
        try:
            frame = pl.read_ndjson(lines, schema=self._schema)
        except (PolarsError, PanicException):
            return None
        if frame.height != (len(values) if shown is None else len(shown)):
            return None
        return self._sorted_out(frame, shown, len(values), now_us)

    def _sorted_out(self, frame: pl.DataFrame, shown: Int64Array | None, n: int, now_us: int) -> Read:
        columns = {column.name: column.to_numpy() for column in frame.select(self._columns)}
        created = np.frombuffer(frame.select(self._created).item().encode(), np.uint8)
        created_us, ok = read_usual(created, columns["created_at"])
        value, business = columns["value"], columns["value_in_business_hours"]
        ok &= ~columns["absent"] & (created_us >= EARLIEST_US) & (created_us <= now_us + MAX_AHEAD_US)
        ok &= (np.abs(value) <= MAX_SECONDS) & (np.abs(business) <= MAX_SECONDS)
        name = self._code_of[columns["name"]]
        unknown = np.flatnonzero(ok & (name == _UNKNOWN))
        ok[unknown] = False
        if len(unknown):
            unknown = unknown[_is_word(frame["name"].gather(unknown)).to_numpy()]
        keep: BoolArray | slice = slice(None) if ok.all() else ok
        events = Events(
            id=columns["id"][keep],
            account_id=columns["account_id"][keep],
            name=name[keep],
            created_us=created_us[keep],
            value_us=microseconds(value[keep]),
            business_us=microseconds(business[keep]),
            ids={column: columns[column][keep] for column in self._id_columns},
            source=np.zeros(np.count_nonzero(ok), np.int16),
        )
        index = np.flatnonzero(ok)
        if shown is not None:
            index, unknown = shown[index], shown[unknown]
        doubtful = np.delete(np.arange(n), np.concatenate([index, unknown]))
        return Read(events, index, unknown, doubtful)


def _lines(values: Sequence[bytes | None]) -> tuple[bytes, Int64Array | None]:
    """The messages that polars may see, each after a newline, and their positions; None stands for all."""
    if all(values):
        messages = cast(Sequence[bytes], values)
        longest = max(map(len, messages), default=0)
        if longest <= _CROWDED and not any(map(bytes.isspace, messages)):
            lines = b"\n".join((b"", *messages))
            if (longest <= _LONG or _brackets(lines) < len(messages) + MAX_DEPTH) and not _has_half_pair(lines):
                return lines, None
    shown = [(i, value) for i, value in enumerate(values) if value and _may_be_shown(value)]
    return b"\n".join((b"", *(value for _, value in shown))), np.array([i for i, _ in shown], np.int64)


def _may_be_shown(value: bytes) -> bool:
    if len(value) > MAX_BYTES or value.isspace() or _has_half_pair(value):
        return False
    if len(value) > _CROWDED and value.count(b":") > _COLONS:
        return False
    return len(value) <= _LONG or _brackets(value) <= MAX_DEPTH


def _brackets(text: bytes) -> int:
    """How many opening brackets there are, in texts and outside. Every object has one."""
    characters = np.frombuffer(text, np.uint8)
    return sum(int(np.count_nonzero(characters == ord(bracket))) for bracket in "{[")


_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def _has_half_pair(text: bytes) -> bool:
    """Whether there may be an escaped surrogate that is not half of a pair; False is certain.

    Where no backslash follows another, each begins an escape, and what looks like a pair is one.
    """
    if b"\\" not in text or not _has_surrogate(text):
        return False
    return b"\\\\" in text or _has_surrogate(_PAIR.sub(b".", text))


def _has_surrogate(text: bytes) -> bool:
    return b"\\ud" in text or b"\\uD" in text


def _is_word(names: pl.Series) -> pl.Series:
    """Which of `names` are texts in the JSON for certain, and hold no NUL."""
    return (names.str.contains(_WORD) & ~names.is_in(_LITERALS)).fill_null(False)
