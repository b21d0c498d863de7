"""The handler `json` decodes by two paths, which must agree about any bytes: many messages at once, and one by one."""

import json
import math
from decimal import Context, Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.handlers.json_events import JsonEvents
from consumer.handlers.json_fast import FastJson
from consumer.handlers.json_strict import StrictJson
from consumer.rollup.registry import REGISTRY
from tests.decoded import plain
from tests.property.test_json_events import GOOD, NOW_US, messages

STRICT = StrictJson()
QUICK = JsonEvents(fewest=0, slice_size=2)

PIECES = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\t", b" ", b"\0", b"\x0b", b"\x1f", b"\x7f"),
    *(
        b"0",
        b"-",
        b"+",
        b".",
        b"e",
        b"/",
        b"'",
        b"\\u",
        b"\\ud800",
        b"\\udc00",
        b"\\u00e9",
        b"\\u0000",
        b"\\/",
        b"\\x",
        b"1e400",
        b"\\ud83d\\ude00",
    ),
    *(
        b"\xff",
        b"\xc2",
        b"\xc2\xa0",
        b"\xc3\xa9",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98\x80",
        b"\xe2\x80\xa8",
    ),
    *(b"}\n{", b"{}", b"null", b"true", b"NaN", b',"id":2', b'"id":"x",', b',"\\u0069d":2', b"\x1f\x8b", b"x\x9c"),
]
TOKENS = [
    *("null", "true", "5", "-0", "1.0", "1e2", "1e400", "[]", "{}", '{"id":1}', '""', '"5"', '"true"', '"other"'),
    *('"\\u0000"', '"\\ud83d\\ude00"', '"\u00e9"', '"reply\\u005ftime"', '"2026-02-11 00:00:00.123456789Z"', "9" * 40),
]
RARE = st.sampled_from(range(6)).map(lambda n: n == 0)


@st.composite
def nearly_good(draw: st.DrawFn) -> bytes:
    """An event with one or two things changed: a value, a member more, a byte or a piece of JSON in any place."""
    members = [(key, json.dumps(value)) for key, value in json.loads(GOOD).items()]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(members) - 1))
        members[at] = (members[at][0], draw(st.sampled_from(TOKENS)))
    if draw(RARE):
        key = draw(st.sampled_from(["note", "user_id", *(key for key, _ in members)]))
        members.insert(draw(st.integers(0, len(members))), (key, draw(st.sampled_from(TOKENS))))
    if draw(RARE):
        members += [(f"k{i}", "0") for i in range(40)]
    comma, colon = draw(st.sampled_from([(",", ":"), (",", ":"), (", ", ": "), (",\r", " :\t")]))
    value = ("{" + comma.join(f'"{key}"{colon}{token}' for key, token in members) + "}").encode()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(value)) | st.sampled_from([0, len(value)]))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=2))
        value = value[:at] + piece + value[at + draw(st.integers(0, 2)) :]
    return value


BLANK = st.sampled_from([None, b"", b" ", b"\n", b"\r\n"])


@settings(max_examples=400, deadline=None)
@given(st.lists(nearly_good() | nearly_good() | messages() | BLANK | st.binary(max_size=12), max_size=4))
def test_both_paths_agree_about_any_bytes(values: list[bytes | None]) -> None:
    assert plain(QUICK.decode(values, NOW_US)) == plain(STRICT.decode(values, NOW_US))
    for value in values:
        assert plain(QUICK.decode([GOOD, value], NOW_US)) == plain(STRICT.decode([GOOD, value], NOW_US))


digits = st.text("0123456789", min_size=1, max_size=40)
decimals = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.integers(0, 10**9).map(str),
    st.just("") | digits.map(".{}".format),
    st.just("") | st.builds("{}{}".format, st.sampled_from(["e", "E", "e+", "e-", "e-0"]), st.integers(0, 30)),
)


def half_way(x: float) -> str:
    """The number in the middle between `x` and the next double, which must round to even."""
    return f"{EXACT.divide(EXACT.add(Decimal(x), Decimal(math.nextafter(x, math.inf))), 2):f}"


EXACT = Context(prec=200)
halfway = st.floats(1e-9, 1e9).map(half_way)


@settings(max_examples=100, deadline=None)
@given(st.lists(decimals | halfway | st.floats(-1e9, 1e9).map(repr), min_size=1, max_size=30))
def test_both_paths_read_every_digit_of_a_duration(numbers: list[str]) -> None:
    values = [GOOD.replace(b'"value":3', b'"value":' + number.encode()) for number in numbers]
    read = FastJson(REGISTRY).read(values, NOW_US)
    assert read is not None
    in_range = [number for number in numbers if abs(float(number)) <= 1e9]
    assert read.events.value_us.tolist() == [round(float(number) * 1e6) for number in in_range]
    assert plain(QUICK.decode(values, NOW_US)) == plain(STRICT.decode(values, NOW_US))
