"""The handler `json` against a slow reference: whatever the bytes, each message has one outcome, and the right one.

The reference below is written from the rules with `json`, `datetime` and `fractions` alone, one message at a time.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer.handlers.json_events import JsonEvents
from consumer.handlers.json_strict import StrictJson
from consumer.handlers.timestamps import TimestampError, parse_timestamp, parse_timestamps
from consumer.rollup.batch import NULL
from consumer.rollup.registry import REGISTRY
from tests.decoded import plain

NOW = datetime(2026, 2, 11, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NOW_US = (NOW - EPOCH) // MICROSECOND
STRICT = StrictJson()
QUICK = JsonEvents(fewest=0, slice_size=3)

Outcome = tuple[str, Any]
"""("event", columns), ("reject", error class) or ("skip", reason)."""


# --- the reference -------------------------------------------------------------------------------------------------


class Decimals(str):
    """A JSON number with a point or an exponent, as it was written."""

    __slots__ = ()


def no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def integer(digits: str) -> int:
    """Any integer too long for every column stands for all of them: Python refuses to read 5,000 digits."""
    return int(digits[:400])


def first_values(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key given twice the first value counts; the others are of good syntax, too."""
    json.dumps(members, ensure_ascii=False).encode()  # no half surrogate pairs
    return dict(reversed(members))


def deepest(text: str) -> int:
    """How many arrays and objects are open at once at most, brackets in texts left out."""
    level = most = 0
    in_text = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif in_text:
            escaped, in_text = character == "\\", character != '"'
        elif character == '"':
            in_text = True
        elif character in "[{":
            level += 1
            most = max(most, level)
        elif character in "]}":
            level -= 1
    return most


def reference_instant(text: str) -> int | None:  # noqa: PLR0911 - a rule, a return
    """Microseconds since the epoch, or None: the text cut up by hand, the rest left to datetime."""
    if len(text) < 20 or not text.isascii() or text[10] not in "Tt ":
        return None
    clock, tail = text[11:19], text[19:]
    digits = ""
    if tail.startswith("."):
        digits = tail[1:].rstrip("Zz") if tail[-1] in "Zz" else re.split("[+-]", tail[1:])[0]
        tail = tail[1 + len(digits) :]
        if not digits.isdigit():
            return None
    if tail in {"Z", "z"}:
        offset = timedelta()
    elif len(tail) == 6 and tail[0] in "+-" and tail[3] == ":" and (tail[1:3] + tail[4:]).isdigit():
        offset = timedelta(hours=int(tail[1:3]), minutes=int(tail[4:]))
        if int(tail[1:3]) > 23 or int(tail[4:]) > 59:
            return None
        offset = -offset if tail[0] == "-" else offset
    else:
        return None
    if not all(part.isdigit() for part in (text[:4], text[5:7], text[8:10], clock[:2], clock[3:5], clock[6:])):
        return None
    if text[4] + text[7] + clock[2] + clock[5] != "--::":
        return None
    numbers = [int(part) for part in (text[:4], text[5:7], text[8:10], clock[:2], clock[3:5], clock[6:])]
    try:
        whole = datetime(*numbers, tzinfo=timezone(offset))  # type: ignore[arg-type,misc]
    except ValueError:
        return None
    return (whole - EPOCH) // MICROSECOND + int(Fraction(f"0.{digits[:4_000] or 0}") * 1_000_000)


def reference_microseconds(number: int | Decimals | None) -> int | None:
    """Round half to even of the double's product with 1e6; None when it is out of range."""
    if number is None:
        return 0
    try:
        seconds = float(number)
    except OverflowError:
        return None
    return round(Fraction(seconds * 1e6)) if abs(seconds) <= 1e9 else None


def reference(value: bytes | None, now_us: int = NOW_US) -> Outcome:
    if value is None:
        return "skip", "tombstone"
    if len(value) > 1_048_576:
        return "reject", "size"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "reject", "encoding"
    if deepest(text) > 500:
        return "reject", "nesting"
    try:
        row = json.loads(
            text,
            parse_int=integer,
            parse_float=Decimals,
            parse_constant=no_constant,
            object_pairs_hook=first_values,
        )
        json.dumps(row, ensure_ascii=False).encode()  # no half surrogate pairs
    except ValueError:
        return "reject", "syntax"
    return reference_row(row, now_us) if isinstance(row, dict) else ("reject", "type")


def reference_row(row: dict[str, Any], now_us: int) -> Outcome:  # noqa: PLR0911, PLR0912 - a rule, a return
    bits = {"id": 64, "account_id": 32, **dict.fromkeys(REGISTRY.id_columns, 32)}
    for field in ("id", "name", "account_id", "created_at"):
        if field not in row:
            return "reject", "missing"
        if not isinstance(row[field], int if field in bits else str):
            return "reject", "type"
        if isinstance(row[field], Decimals | bool):
            return "reject", "type"
        if field in bits and not -(2 ** (bits[field] - 1)) <= row[field] < 2 ** (bits[field] - 1):
            return "reject", "range"
    for field in REGISTRY.id_columns:
        number = row.get(field)
        if number is not None and type(number) is not int:
            return "reject", "type"
        if number is not None and not -(2**31) <= number < 2**31:
            return "reject", "range"
    durations = {}
    for field in ("value", "value_in_business_hours"):
        number = row.get(field)
        if number is not None and type(number) not in {int, Decimals}:
            return "reject", "type"
        durations[field] = reference_microseconds(number)
        if durations[field] is None:
            return "reject", "range"
    if "\0" in row["name"] + row["created_at"]:
        return "reject", "text"
    created = reference_instant(row["created_at"])
    earliest = (datetime(2000, 1, 1, tzinfo=UTC) - EPOCH) // MICROSECOND
    if created is None or not earliest <= created <= now_us + 86_400_000_000:
        return "reject", "timestamp"
    if row["name"] not in REGISTRY.event_names:
        return "skip", "unknown_event"
    ids = {column: int(NULL) if row.get(column) is None else row[column] for column in REGISTRY.id_columns}
    name = REGISTRY.event_names.index(row["name"])
    return "event", (row["id"], row["account_id"], name, created, *durations.values(), ids)


def outcomes(values: Sequence[bytes | None], now_us: int = NOW_US) -> list[Outcome]:
    """What the handler makes of `values`, one by one; sees that each has one outcome and that order is kept."""
    decoded = STRICT.decode(values, now_us)
    assert plain(QUICK.decode(values, now_us)) == plain(decoded)
    e = decoded.events
    found: list[tuple[int, Outcome]] = [
        (index, ("event", (*columns, {column: int(array[n]) for column, array in e.ids.items()})))
        for n, (index, *columns) in enumerate(
            zip(
                *(decoded.index.tolist(), e.id.tolist(), e.account_id.tolist(), e.name.tolist()),
                *(e.created_us.tolist(), e.value_us.tolist(), e.business_us.tolist()),
                strict=True,
            )
        )
    ]
    assert decoded.index.tolist() == sorted(decoded.index.tolist())
    assert [r.index for r in decoded.rejects] == sorted(r.index for r in decoded.rejects)
    assert not e.source.any()
    found += [(r.index, ("reject", r.error_class)) for r in decoded.rejects]
    found += [(i, ("skip", why)) for why, where in decoded.skipped.items() for i in where.tolist()]
    found.sort(key=lambda pair: pair[0])
    assert [i for i, _ in found] == list(range(len(values)))
    for reject in decoded.rejects:
        assert "\0" not in reject.reason
        reject.reason.encode()
    return [outcome for _, outcome in found]


# --- what is thrown at them ----------------------------------------------------------------------------------------


def mostly(usual: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 11).flatmap(lambda n: odd if n == 0 else usual)


def instants(first: str, last: str) -> st.SearchStrategy[datetime]:
    return st.datetimes(datetime.fromisoformat(first), datetime.fromisoformat(last))


two_digits = st.integers(0, 99).map("{:02}".format)


colon = mostly(st.just(":"), st.just(""))


def about(low: int, high: int) -> st.SearchStrategy[str]:
    """Two digits, mostly from `low` to `high`, else anywhere."""
    return mostly(st.integers(low, high).map("{:02}".format), st.one_of(two_digits, st.just("60"), st.just("24")))


@st.composite
def timestamp_texts(draw: st.DrawFn) -> str:
    """Date-times, right and nearly right, mostly in the spellings that are read as a matrix."""
    year = draw(mostly(st.integers(2000, 2099).map(str), st.integers(0, 9999).map("{:04}".format)))
    day = f"{year}-{draw(about(1, 12))}-{draw(about(1, 31))}"
    clock = f"{draw(about(0, 23))}:{draw(about(0, 59))}:{draw(about(0, 59))}"
    digits = draw(mostly(st.text("0123456789", max_size=6), st.text("0123456789", max_size=9)))
    point = "." if digits else draw(mostly(st.just(""), st.just(".")))
    offset = st.builds("{}{:02}{}{:02}".format, st.sampled_from("+-"), st.integers(0, 24), colon, st.integers(0, 60))
    tail = draw(mostly(st.one_of(st.sampled_from(["Z", "+00:00"]), offset), st.sampled_from(["z", "", "+99:99"])))
    text = day + draw(mostly(st.just("T"), st.sampled_from("t _"))) + clock + point + digits + tail
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 1))
        text = (
            text[:place]
            + draw(st.sampled_from(["", "\0", "/", ":", ",", "\u0663", "\u00e9", "-", "9"]))
            + text[place + cut :]
        )
    return text


integers = mostly(
    st.integers(-(2**31), 2**31 - 1).map(str),
    st.one_of(
        st.integers(-(2**65), 2**65).map(str),
        st.sampled_from(["1.0", "1e3", "-0", "true", '"1"', "null", "[]", "01", "-"]),
    ),
)
numbers = mostly(
    st.one_of(st.floats(-1e9, 1e9).map(repr), st.integers(-(10**9), 10**9).map(str), st.just("null")),
    st.one_of(
        st.floats().map(json.dumps),
        st.sampled_from(["1e400", "-1e400", '"1"', "{}", "false", "1000000000.1", "9" * 400]),
    ),
)
names = mostly(st.sampled_from([*REGISTRY.event_names, "other"]).map(json.dumps), st.text(max_size=5).map(json.dumps))
recent = instants("2000-01-01", "2026-02-13").map(lambda t: json.dumps(f"{t.isoformat()}Z"))
created = mostly(recent, st.one_of(timestamp_texts().map(json.dumps), st.sampled_from(["null", "0", "[]"])))
anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ignored = mostly(
    anything.flatmap(lambda x: st.booleans().map(lambda a: json.dumps(x, ensure_ascii=a))),
    st.sampled_from(["NaN", '"\\ud800"', '"\\ud83d\\ude00"', "[1,]", '"\t"', "1e400", '"\\x"', "tru"]),
)
FIELDS = {"id": integers, "name": names, "account_id": integers, "created_at": created}
OPTIONAL = {**dict.fromkeys(REGISTRY.id_columns, integers), "value": numbers, "value_in_business_hours": numbers}


@st.composite
def messages(draw: st.DrawFn) -> bytes | None:
    """Events as JSON, most of them valid: fields in any order, some absent, twice or unfit, sometimes a byte off."""
    if draw(st.integers(0, 30)) == 0:
        return None
    pairs = [(field, draw(token)) for field, token in FIELDS.items() if draw(st.integers(0, 30))]
    pairs += [(field, draw(token)) for field, token in OPTIONAL.items() if draw(st.integers(0, 3))]
    pairs += [("event_end_time", draw(ignored))] if draw(st.booleans()) else []
    if draw(st.integers(0, 7)) == 0:
        field = draw(st.sampled_from([*FIELDS, *OPTIONAL]))
        pairs.append((field, draw((FIELDS | OPTIONAL)[field])))
    pairs = draw(st.permutations(pairs))
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), ("\n,\t", " : ")]))
    value = ("{" + comma.join(f'"{k}"{colon}{v}' for k, v in pairs) + "}").encode()
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(value)))
        value = value[:place] + draw(st.binary(max_size=2)) + value[place + draw(st.integers(0, 2)) :]
    return value


GOOD = b'{"id":1,"name":"reply_time","account_id":2,"value":3,"created_at":"2026-02-11T00:00:00Z"}'


@settings(max_examples=150, deadline=None)
@given(st.lists(messages(), max_size=8))
def test_every_message_has_the_outcome_that_the_reference_gives(values: list[bytes | None]) -> None:
    assert outcomes(values) == [reference(value) for value in values]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | st.binary(max_size=8).map(lambda b: GOOD[:40] + b + GOOD[40:]))
@example(b'{"id":1,"id":')
@example(b"\x00")
@example(b"\xed\xa0\x80")
def test_no_bytes_raise_or_touch_their_neighbours(value: bytes) -> None:
    good = reference(GOOD)
    assert good[0] == "event"
    assert outcomes([GOOD, value, GOOD]) == [good, reference(value), good]


def scalar(text: str) -> int | None:
    try:
        return parse_timestamp(text)
    except TimestampError:
        return None


@settings(max_examples=120, deadline=None)
@given(st.lists(timestamp_texts() | st.text(max_size=30), max_size=12))
@example(["2024-02-29T00:00:00Z", "2023-02-29T00:00:00Z"])
@example(["2026-01-01T00:00:00.1234Z", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:0\u0660+00:00"])
def test_both_parsers_of_timestamps_agree_with_the_reference(texts: list[str]) -> None:
    expected = [reference_instant(text) for text in texts]
    assert [scalar(text) for text in texts] == expected
    micros, ok = parse_timestamps(texts)
    assert [us if good else None for us, good in zip(micros.tolist(), ok.tolist(), strict=True)] == expected


def test_any_other_character_at_any_place_is_read_alike() -> None:
    for text in ("2024-02-29T23:59:59Z", "2026-12-31T09:05:59.123456Z", "2026-02-28T00:00:00.5+05:30"):
        texts = [text[:i] + chr(c) + text[i + 1 :] for i in range(len(text)) for c in range(130)]
        micros, ok = parse_timestamps(texts)
        found = [us if good else None for us, good in zip(micros.tolist(), ok.tolist(), strict=True)]
        assert found == [reference_instant(other) for other in texts]


@settings(max_examples=30, deadline=None)
@given(instants("2000-01-01", "2099-12-31"))
def test_all_days_of_a_month_are_read_alike(start: datetime) -> None:
    texts = [f"{start:%Y-%m}-{day:02}T{start:%H:%M:%S.%f}Z" for day in range(34)]
    micros, ok = parse_timestamps(texts)
    assert ok.tolist() == [reference_instant(text) is not None for text in texts]
    assert micros[ok].tolist() == [us for us in map(reference_instant, texts) if us is not None]


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.floats(-1e9, 1e9)
        | st.integers(-(10**7), 10**7).map(lambda n: (n + 0.5) / 1e6)
        | st.integers(-(10**9), 10**9),
        max_size=20,
    )
)
def test_seconds_become_microseconds_by_round_half_to_even(seconds: list[float]) -> None:
    values = [GOOD.replace(b'"value":3', f'"value":{s!r}'.encode()) for s in seconds]
    assert QUICK.decode(values, NOW_US).events.value_us.tolist() == [round(s * 1e6) for s in seconds]
