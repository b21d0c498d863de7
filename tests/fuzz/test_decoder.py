"""The decoder against its slow reference: both its paths, for spoilt messages, alone and beside others."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.handlers.json_events import JsonEvents
from consumer.handlers.json_strict import MAX_BYTES, StrictJson
from tests.decoded import plain
from tests.fuzz import examples
from tests.fuzz.mutations import NOW_US, SEEDS, fuzzed
from tests.property.test_json_events import outcomes, reference

SECONDS = 20.0
"""Of CPU, for the worst message of the longest length, both paths: it takes 1 s."""
ROOM = MAX_BYTES - len(SEEDS[0]) - 20


@settings(max_examples=examples(250))
@given(st.lists(fuzzed, min_size=1, max_size=6))
def test_spoilt_messages_have_the_outcome_of_the_reference(values: list[bytes | None]) -> None:
    assert outcomes(values, NOW_US) == [reference(value, NOW_US) for value in values]


@settings(max_examples=examples(10))
@given(st.lists(fuzzed, min_size=1, max_size=20))
def test_spoilt_messages_among_many_good_ones(values: list[bytes | None]) -> None:
    """At the size at which the quick path is taken in earnest, with its slices."""
    many: list[bytes | None] = [*SEEDS * 30]
    for n, value in enumerate(values):
        many.insert(n * 59 % len(many), value)
    assert plain(JsonEvents().decode(many, NOW_US)) == plain(StrictJson().decode(many, NOW_US))


def long(unit: bytes, before: bytes = b',"note":"', after: bytes = b'"}') -> bytes:
    """An event that is as long as may be, for the most part `unit` again and again."""
    return SEEDS[0][:-1] + before + unit * (ROOM // len(unit)) + after


LONG = {
    "keys": ("event", SEEDS[0][:-1] + b"," + b",".join(b'"%x":0' % n for n in range(100_000)) + b"}"),
    "one key": ("event", long(b'"":0,', b",", b'"":0}')),
    "one key, spaced": ("event", long(b'"id" :0 ,', b",", b'"id":0}')),
    "objects": ("event", long(b"{},", b',"note":[', b"1]}")),
    "nested pairs": ("event", long(b'{"a":1,"a":2},', b',"note":[', b"1]}")),
    "deep again and again": ("event", long(b"[" * 400 + b"]" * 400 + b",", b',"note":[', b"1]}")),
    "escapes": ("event", long(b"\\u0041")),
    "surrogate pairs": ("event", long(b"\\ud83d\\ude00")),
    "half pairs": ("syntax", long(b"\\ud83d\\ud83d")),
    "backslashes": ("event", long(b"\\\\")),
    "quotes": ("event", long(b'\\"')),
    "quotes without an end": ("syntax", long(b'\\"', after=b"")),
    "brackets in a text": ("event", long(b"[")),
    "brackets in a text without an end": ("syntax", long(b'\\"[', after=b"")),
    "digits": ("event", long(b"9", b',"note":', b"}")),
    "decimals": ("event", long(b"9", b',"note":0.', b"}")),
    "digits of an id": ("range", SEEDS[0].replace(b'"id":', b'"id":' + b"9" * ROOM)),
    "digits of a duration": ("range", SEEDS[0].replace(b'"value":', b'"value":' + b"9" * ROOM)),
    "digits of a second": ("event", SEEDS[0].replace(b'Z","updated_at"', b"9" * ROOM + b'Z","updated_at"')),
    "name": ("unknown_event", SEEDS[0].replace(b'"name":"', b'"name":"' + b"\xc3\xa9" * (ROOM // 2))),
    "white space": ("event", long(b"\n", b"", b"}")),
    "arrays": ("nesting", b"[" * MAX_BYTES),
    "objects in objects": ("nesting", b'{"a":' * (MAX_BYTES // 5)),
    "commas": ("syntax", b"{" + b"," * ROOM),
    "NULs": ("syntax", b"\0" * MAX_BYTES),
    "not UTF-8": ("encoding", b"\xff" * MAX_BYTES),
    "one byte too many": ("size", b" " * (MAX_BYTES + 1)),
}
"""What becomes of messages that are as long as may be: an event, the reason it is skipped, or its error class."""


@pytest.mark.parametrize("name", LONG)
def test_no_message_takes_long_however_it_is_made(name: str) -> None:
    expected, value = LONG[name]
    assert MAX_BYTES * 0.8 < len(value) <= MAX_BYTES + 1
    began = time.process_time()
    first, (kind, what), last = outcomes([SEEDS[1], value, SEEDS[1]], NOW_US)
    assert time.process_time() - began < SECONDS
    assert (kind if kind == "event" else what) == expected
    assert first == last == reference(SEEDS[1], NOW_US)
