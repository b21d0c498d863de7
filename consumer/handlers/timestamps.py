"""RFC 3339 date-times as microseconds since 1970-01-01T00:00:00Z: one strict parser, and a fast one that agrees.

`parse_timestamp` is the rule. `read_usual` reads the usual spellings of a whole column as a matrix of bytes; it never
rejects by itself. `parse_timestamps` is both: every text that `read_usual` leaves goes to `parse_timestamp`. A property
test holds the two together.

The rule: `YYYY-MM-DD`, then `T`, `t` or a space, then `hh:mm:ss`, then optionally `.` and any number of digits,
then `Z`, `z` or `±hh:mm`. Digits beyond the microsecond are cut off, not rounded. Second 60 is rejected: neither
PostgreSQL nor Unix time has a microsecond for a leap second, so the raw row could not hold what the message said.
"""

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from consumer.rollup.batch import BoolArray, Int64Array

DAY_US = 86_400_000_000
EARLIEST_US = date(2000, 1, 1).toordinal() * DAY_US - date(1970, 1, 1).toordinal() * DAY_US
"""2000-01-01T00:00:00Z. No support software is older; what says so has lost its clock."""
MAX_AHEAD_US = DAY_US
"""How far ahead of the consumer's clock an event may lie: more than any clock is off by, less than a wrong year."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DATE_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))?", re.ASCII
)


class TimestampError(ValueError):
    """A text is not a date-time; the message says why, as the end of a sentence that begins with the text."""


def parse_timestamp(text: str) -> int:
    """The instant that `text` names, in microseconds since the epoch; raises TimestampError."""
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise TimestampError("is not an RFC 3339 date-time such as 2026-02-11T09:30:00Z")
    year, month, day, hour, minute, second = map(int, match.group(1, 2, 3, 4, 5, 6))
    fraction, zulu, sign, offset_hour, offset_minute = match.group(7, 8, 9, 10, 11)
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        raise TimestampError("names no day of the calendar") from None
    if second == 60:
        raise TimestampError("has second 60: a leap second is no instant that PostgreSQL can hold")
    if hour > 23 or minute > 59 or second > 59:
        raise TimestampError("names no time of day (00:00:00 to 23:59:59)")
    seconds = days * 86_400 + hour * 3_600 + minute * 60 + second
    if not zulu:
        if not sign:
            raise TimestampError("has no offset from UTC; end it with Z or ±hh:mm")
        if int(offset_hour) > 23 or int(offset_minute) > 59:
            raise TimestampError("has no possible offset from UTC (-23:59 to +23:59)")
        ahead = int(offset_hour) * 3_600 + int(offset_minute) * 60
        seconds += ahead if sign == "-" else -ahead
    return seconds * 1_000_000 + int((fraction or "")[:6].ljust(6, "0"))


def parse_timestamps(texts: Sequence[str]) -> tuple[Int64Array, BoolArray]:
    """For each text the instant it names in microseconds since the epoch (int64[n]), and whether it names one
    (bool[n]). Where it names none the instant is 0, and `parse_timestamp` says why."""
    # Anything but ASCII becomes one "?" a character: lengths stay, and no shape below accepts it.
    flat = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8)
    us, ok = read_usual(flat, np.array([len(text) for text in texts], np.int64))
    for i in np.flatnonzero(~ok).tolist():
        try:
            us[i] = parse_timestamp(texts[i])
            ok[i] = True
        except TimestampError:
            us[i] = 0
    return us, ok


def read_usual(flat: npt.NDArray[np.uint8], lengths: Int64Array) -> tuple[Int64Array, BoolArray]:
    """For n texts the instant that each names (int64[n], microseconds since the epoch), and which could be read
    (bool[n]); the instants of others mean nothing. `flat` is all their bytes one after the other, `lengths` how many
    each has."""
    n = len(lengths)
    if n and (lengths == lengths[0]).all():
        return _read_matrix(flat.reshape(n, int(lengths[0])))
    us, ok = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    start_of = np.cumsum(lengths) - lengths
    for length in _SHAPES:
        rows = np.flatnonzero(lengths == length)
        if len(rows):
            us[rows], ok[rows] = _read_matrix(flat[start_of[rows, None] + np.arange(length)])
    return us, ok


@dataclass(frozen=True, slots=True)
class _Shape:
    """A spelling of one fixed length: at each place a character from `low` to `low + span`."""

    low: npt.NDArray[np.uint8]
    span: npt.NDArray[np.uint8]
    fraction: slice
    has_offset: bool

    @classmethod
    def of(cls, digits: int, has_offset: bool) -> "_Shape":
        point = "." if digits else ""
        low = f"2000-00-00 00:00:00{point}{'0' * digits}{'+00:00' if has_offset else 'Z'}".encode()
        high = f"2099-19-39t29:59:59{point}{'9' * digits}{'-29:59' if has_offset else 'Z'}".encode()
        lows, highs = np.frombuffer(low, np.uint8), np.frombuffer(high, np.uint8)
        return cls(lows[:, None], (highs - lows)[:, None], slice(20, 20 + min(digits, 6)), has_offset)

    def read(self, matrix: npt.NDArray[np.uint8]) -> tuple[Int64Array, BoolArray]:
        """Instants of the rows of `matrix`, and which rows are of this shape and name an instant."""
        # Transposed, so that every step below runs along n neighbouring bytes. A character below `low` wraps
        # round to a number far above any span.
        digit = np.subtract(matrix.T, self.low, order="C")
        ok: BoolArray = np.all(digit <= self.span, axis=0)
        between = digit[10]
        ok &= (between == _UPPER_T) | (between == _SPACE) | (between == _LOWER_T)
        month = digit[5] * 10 + digit[6] - 1
        day = digit[8] * 10 + digit[9] - 1
        hour = digit[11] * 10 + digit[12]
        month_of = (digit[2] * 10 + digit[3]).astype(np.int64) * 12 + month
        ok &= (month < 12) & (day < _DAYS_IN_MONTH.take(month_of, mode="clip")) & (hour < 24)
        us: Int64Array = _FIRST_DAY.take(month_of, mode="clip")
        us += day
        minute, second = digit[14] * 10 + digit[15], digit[17] * 10 + digit[18]
        fraction = digit[self.fraction]
        for base, places in ((24, hour), (60, minute), (60, second), *((10, place) for place in fraction)):
            us *= base  # in place: a fresh array costs more than the sum
            us += places
        us *= 10 ** (6 - len(fraction))
        if self.has_offset:
            sign, hours, minutes = digit[-6], digit[-5] * 10 + digit[-4], digit[-2] * 10 + digit[-1]
            ok &= (sign != 1) & (hours < 24)  # "+" is 0 and "-" is 2 places above "+"; between them is ","
            us += (sign.astype(np.int64) - 1) * (hours * np.int64(60) + minutes) * 60_000_000
        return us, ok


_MONTHS = [(2000 + i // 12, i % 12 + 1) for i in range(1200)]
_FIRST_DAY = np.array([date(y, m, 1).toordinal() - _EPOCH_DAY for y, m in _MONTHS], np.int64)
_DAYS_IN_MONTH = np.array([calendar.monthrange(y, m)[1] for y, m in _MONTHS], np.uint8)

_SPACE, _UPPER_T, _LOWER_T = (ord(character) - ord(" ") for character in " Tt")

_SHAPES: dict[int, list[_Shape]] = {}
"""The usual spellings by length, the likelier first: 0 to 9 digits of a second, Z or an offset, years 2000 to 2099."""
for _has_offset in (False, True):
    for _digits in range(10):
        _shape = _Shape.of(_digits, _has_offset)
        _SHAPES.setdefault(len(_shape.low), []).append(_shape)


def _read_matrix(matrix: npt.NDArray[np.uint8]) -> tuple[Int64Array, BoolArray]:
    """Instants of texts of one length, one a row, and which of them some shape of that length could read."""
    n, length = matrix.shape
    if length not in _SHAPES:
        return np.zeros(n, np.int64), np.zeros(n, np.bool_)
    first, *others = _SHAPES[length]
    us, ok = first.read(matrix)
    for shape in others:
        rest = np.flatnonzero(~ok)
        us[rest], ok[rest] = shape.read(matrix[rest])
    return us, ok
