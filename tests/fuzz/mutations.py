"""Strategies for spoilt messages: real events with something changed, either in their structure or in their bytes."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from local.events import Workload, generate

NOW_US = 1_773_230_400_000_000  # 2026-03-11T12:00:00Z
SAMPLE = Workload(end_us=NOW_US, events=40, accounts=3, unknown=0.1)
SEEDS = [value for _, value in generate(SAMPLE).messages()]
"""Messages as producers send them, of accounts 1 to 3."""
FIELDS = list(json.loads(SEEDS[0]))

NUMBERS = [
    *("0", "-0", "-0.0", "1", "-1", "1.0", "1e2", "1E+2", "1e-400", "1e308", "1e309", "1e400", "-1e400", "0.1", "5e-7"),
    *("2147483647", "2147483648", "-2147483648", "-2147483649", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775808", "-9223372036854775809", "18446744073709551616", "1000000000", "1000000000.0000001"),
    *("9" * 40, "9" * 400, "1" + "0" * 4999, "0." + "0" * 400 + "1", "01", "+1", ".5", "1.", "0x1", "1_000"),
]
WORDS = ["true", "false", "null", "NaN", "Infinity", "-Infinity", "nan", "True", "None", "undefined", ""]
TEXTS = [
    *('""', '"1"', '"1.0"', '"true"', '"null"', '"\\u0000"', '"a\\u0000"', '"\\ud800"', '"\\udc00\\ud800"'),
    *('"\\ud83d\\ude00"', '"\\\\ud800"', '"\u00e9"', '"\u2028"', '"reply\\u005ftime"', '"reply_time"', '"reply_time "'),
    *('"\t"', '"\\x"', '"\\', "'1'", '"{}"', '"[[["', '"' + "x" * 2_000 + '"'),
]
CONTAINERS = ["[]", "{}", "[1]", '{"id":1}', "[1,]", '{"a":1,}', "[" * 30 + "]" * 30, "[" * 499 + "]" * 499]
CONTAINERS += ["[" * 500 + "]" * 500, '{"a":' * 700 + "1" + "}" * 700]
TIMES = [
    *("2026-03-11T12:00:00Z", "2026-03-11 12:00:00z", "2026-03-11T12:00:00.1234567+05:30", "2026-03-12T12:00:00Z"),
    *("2026-03-12T12:00:00.000001Z", "1999-12-31T23:59:59.999999Z", "2000-01-01T00:00:00Z", "2026-03-11T23:59:60Z"),
    *("2026-03-11T24:00:00Z", "2026-02-29T00:00:00Z", "2026-03-11", "2026-W11-3T12:00:00Z", "1773230400", "now"),
    *("2026-03-11T12:00:00", "2026-03-11T12:00:00,5Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z"),
]
TOKENS = [*NUMBERS, *WORDS, *TEXTS, *CONTAINERS, *(f'"{time}"' for time in TIMES)]
PIECES = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\0", b"\x0b", b"/**/", b"//", b"{}", b"\n{}\n", b'""'),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x82"),
    *(b'"id":7,', b',"id":null', b"\\ud800", b"\\u0000", b"\x1f\x8b\x08", b"x\x9c", b"\x28\xb5\x2f\xfd", b"NaN"),
]

Members = list[tuple[str, str]]
seeds = st.sampled_from(SEEDS)
tokens = st.sampled_from(TOKENS)
keys = st.sampled_from([*FIELDS, "ID", " id", "\\u0069d", "id\\u0000", "", "note", "__proto__", "\u0131d"])


@st.composite
def _one_change(draw: st.DrawFn, members: Members) -> Members:
    """`members` (names and values as JSON text) with one more thing wrong or odd."""
    at = draw(st.integers(0, len(members)))
    here = members[at] if at < len(members) else ("note", "1")
    changes: list[Callable[[], Members]] = [
        lambda: [*members[:at], (here[0], draw(tokens)), *members[at + 1 :]],
        lambda: [*members[:at], (here[0], draw(tokens)), *members[at + 1 :]],
        lambda: [*members[:at], *members[at + 1 :]],
        lambda: [*members[:at], (draw(keys), here[1]), *members[at + 1 :]],
        lambda: [*members[:at], (draw(keys), draw(tokens)), *members[at:]],
        lambda: [*members[:at], (here[0], f"[{here[1]}]"), *members[at + 1 :]],
        lambda: [*members[:at], (here[0], json.dumps(here[1])), *members[at + 1 :]],
        lambda: draw(st.permutations(members)),
    ]
    return draw(st.sampled_from(changes))()


@st.composite
def restructured(draw: st.DrawFn) -> bytes:
    """A real event with up to three changes of values, names, nesting or order; other white space, other escapes."""
    row: dict[str, Any] = json.loads(draw(seeds))
    members = [(key, json.dumps(value)) for key, value in row.items()]
    for _ in range(draw(st.integers(0, 3))):
        members = draw(_one_change(members))
    comma, colon = draw(st.sampled_from([(",", ":"), (",", ":"), (", ", ": "), (" ,\n", "\t:\r")]))
    return ("{" + comma.join(f'"{key}"{colon}{token}' for key, token in members) + "}").encode()


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A real event with up to four changes of its bytes: flipped, cut out, repeated, inserted, from another event."""
    value = draw(seeds)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(value)))
        end = min(len(value), start + draw(st.sampled_from([0, 1, 2, 8, 100])))
        other = draw(seeds)
        middle = draw(
            st.sampled_from(PIECES)
            | st.binary(max_size=4)
            | st.just(value[start:end] * 2)
            | st.integers(0, len(other)).map(lambda at, other=other: other[at:])  # type: ignore[misc]
            | st.integers(0, 255).map(
                lambda mask, part=value[start:end]: bytes(byte ^ mask for byte in part)  # type: ignore[misc]
            )
        )
        value = value[:start] + middle + value[end:]
    return value


fuzzed = restructured() | restructured() | mangled() | mangled() | st.binary(max_size=30) | st.none() | seeds
"""Values of messages: some are still events."""
