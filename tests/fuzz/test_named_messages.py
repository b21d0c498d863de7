"""Which spellings of an event are accepted, and what the others are refused as: the tables are the documentation.

Each is decoded by both paths, and all of them go through one batch into PostgreSQL, a good event beside each.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.metric_catalogue import ERROR_CLASSES, OTHER
from tests.fixtures.rollup import NOON, Rollup, make_event, message_value
from tests.fuzz.mutations import NOW_US
from tests.property.test_json_events import outcomes

EVENT = (
    '{"id":9,"name":"reply_time","account_id":77,"user_id":5,"inbox_id":6,"conversation_id":7,"value":1,'
    '"created_at":"2026-03-11T09:30:00Z"}'
)
SPELT = timedelta(hours=2, minutes=30)
"""How long before the present the instant lies that accepted date-times below name, if not said otherwise."""
GOOD_ACCOUNT, FIRST_ID = 42, 7_000_000


def with_field(field: str, token: str) -> bytes:
    """The event with another value, given as JSON text."""
    return re.sub(rf'"{field}":("[^"]*"|\d+)', lambda _: f'"{field}":{token}', EVENT).encode("utf-8", "surrogatepass")


DATE_TIMES = {
    # What RFC 3339 allows, and a space between date and time, as its section 5.6 has it.
    "2026-03-11T09:30:00Z": "event",
    "2026-03-11t09:30:00z": "event",
    "2026-03-11 09:30:00Z": "event",
    "2026-03-11T09:30:00+00:00": "event",
    "2026-03-11T09:30:00-00:00": "event",
    "2026-03-11T15:15:00+05:45": "event",
    "2026-03-12T09:29:00+23:59": "event",
    "2026-03-10T09:31:00-23:59": "event",
    **{f"2026-03-11T09:30:00.{'0' * digits}Z": "event" for digits in range(1, 13)},
    # Not: no zone, no seconds, other separators, words for the zone, other calendars.
    "2026-03-11T09:30:00": "timestamp",
    "2026-03-11T09:30Z": "timestamp",
    "2026-03-11": "timestamp",
    "09:30:00Z": "timestamp",
    "2026-03-11T09:30:00,5Z": "timestamp",
    "2026-03-11T09:30:00.Z": "timestamp",
    "2026-03-11_09:30:00Z": "timestamp",
    "2026-03-11  09:30:00Z": "timestamp",
    "2026-03-11T09:30:00 Z": "timestamp",
    "2026-03-11T09:30:00 UTC": "timestamp",
    "2026-03-11T09:30:00+0000": "timestamp",
    "2026-03-11T09:30:00+00": "timestamp",
    "2026-03-11T09:30:00Z+00:00": "timestamp",
    "2026-03-11T09:30:00\u221200:00": "timestamp",
    "2026-03-11T09:30:00+24:00": "timestamp",
    "2026-03-11T09:30:00-23:60": "timestamp",
    "20260311T093000Z": "timestamp",
    "2026-W11-3T09:30:00Z": "timestamp",
    "2026-070T09:30:00Z": "timestamp",
    "11.03.2026 09:30:00": "timestamp",
    "Wed, 11 Mar 2026 09:30:00 GMT": "timestamp",
    "1773221400": "timestamp",
    "now": "timestamp",
    "infinity": "timestamp",
    "": "timestamp",
    # No such instant, or none that an event may have.
    "2026-03-11T23:59:60Z": "timestamp",
    "2016-12-31T23:59:60Z": "timestamp",
    "2026-03-11T24:00:00Z": "timestamp",
    "2026-03-11T09:60:00Z": "timestamp",
    "2026-02-29T09:30:00Z": "timestamp",
    "2026-00-11T09:30:00Z": "timestamp",
    "0000-01-01T00:00:00Z": "timestamp",
    "0001-01-01T00:00:00Z": "timestamp",
    "1999-12-31T23:59:59.999999Z": "timestamp",
    "2026-03-12T12:00:00.000001Z": "timestamp",
    "9999-12-31T23:59:59Z": "timestamp",
    "10000-01-01T00:00:00Z": "timestamp",
    "+02026-03-11T09:30:00Z": "timestamp",
    "-0044-03-15T09:30:00Z": "timestamp",
    "2026-03-11T09:30:00Z\\u0000": "text",
}
FIELDS = [
    ("id", "9223372036854775807", "event"),
    ("id", "-9223372036854775808", "event"),
    ("id", "9223372036854775808", "range"),
    ("id", "-9223372036854775809", "range"),
    ("id", "1" + "0" * 400, "range"),
    *(("id", token, "type") for token in ("1.0", "1e2", "true", '"9"', "null", "[9]", '{"id":9}', "-0.0")),
    ("account_id", "2147483648", "range"),
    ("account_id", "-2147483649", "range"),
    ("account_id", '"77"', "type"),
    ("user_id", "2147483647", "event"),
    ("user_id", "null", "event"),
    ("user_id", "2147483648", "range"),
    ("user_id", "5.0", "type"),
    ("value", "-0", "event"),
    ("value", "1e-400", "event"),
    ("value", "1e9", "event"),
    ("value", "1000000000.0000001", "range"),
    ("value", "1e308", "range"),
    ("value", "1e400", "range"),
    ("value", "-1" + "0" * 400, "range"),
    *(("value", token, "type") for token in ("true", '"1"', "[]")),
    *(("value", token, "syntax") for token in ("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x1", "")),
    ("name", '"reply\\u005ftime"', "event"),
    ("name", '"Reply_time"', "unknown_event"),
    ("name", '""', "unknown_event"),
    ("name", '"\\u0000"', "text"),
    ("name", '"\\ud800"', "syntax"),
    ("name", '"\ud800"', "encoding"),
    ("name", "7", "type"),
]
PLAIN = EVENT.encode()
WHOLE = {
    "tombstone": (None, "tombstone"),
    "empty": (b"", "syntax"),
    "white space": (b" \n\t", "syntax"),
    "white space around": (b"\r\n " + PLAIN + b"\n", "event"),
    "byte order mark": (b"\xef\xbb\xbf" + PLAIN, "syntax"),
    "UTF-16": (EVENT.encode("utf-16"), "encoding"),
    "UTF-16 without a mark": (EVENT.encode("utf-16-le"), "syntax"),
    "latin-1": (with_field("name", '"\u00e9"').decode().encode("latin-1"), "encoding"),
    "overlong": (PLAIN.replace(b"reply", b"\xc0\xf2eply"), "encoding"),
    "two lines": (PLAIN + b"\n" + PLAIN, "syntax"),
    "garbage behind": (PLAIN + b";", "syntax"),
    "NUL behind": (PLAIN + b"\0", "syntax"),
    "cut": (PLAIN[:-9], "syntax"),
    "comma too many": (PLAIN[:-1] + b",}", "syntax"),
    "comment": (PLAIN[:-1] + b"/* now */}", "syntax"),
    "single quotes": (PLAIN.replace(b'"', b"'"), "syntax"),
    "in an array": (b"[" + PLAIN + b"]", "type"),
    "in a text": (b'"' + PLAIN.replace(b'"', b'\\"') + b'"', "type"),
    "a number": (b"9", "type"),
    "null": (b"null", "type"),
    "an empty object": (b"{}", "missing"),
    "no account": (PLAIN.replace(b"account_id", b"account"), "missing"),
    "a key twice, the first good": (PLAIN[:-1] + b',"id":"x"}', "event"),
    "a key twice, the first bad": (b'{"id":"x",' + PLAIN[1:], "type"),
    "NUL in a key": (PLAIN[:-1] + b',"a\\u0000b":1}', "event"),
    "NUL in a field that nobody reads": (PLAIN[:-1] + b',"a":"\\u0000"}', "event"),
    "half a pair in a field that nobody reads": (PLAIN[:-1] + b',"a":"\\udc00"}', "syntax"),
    "huge numbers in fields that nobody reads": (PLAIN[:-1] + b',"a":1e400,"b":' + b"9" * 10_000 + b"}", "event"),
    "100,000 keys": (PLAIN[:-1] + b"".join(b',"%x":0' % n for n in range(100_000)) + b"}", "event"),
    "100,000 arrays deep": (PLAIN[:-1] + b',"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nesting"),
    "100,000 objects deep": (PLAIN[:-1] + b',"a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "nesting"),
    "500 deep": (PLAIN[:-1] + b',"a":' + b"[" * 499 + b"]" * 499 + b"}", "event"),
    "10 MB of event": (PLAIN[:-1] + b',"a":"' + b"x" * 10_000_000 + b'"}', "size"),
    "10 MB of nothing": (b"\0" * 10_000_000, "size"),
}
CASES: list[tuple[str, bytes | None, str]] = [
    *((text, with_field("created_at", f'"{text}"'), expected) for text, expected in DATE_TIMES.items()),
    *((f"{field}: {token[:40]}", with_field(field, token), expected) for field, token, expected in FIELDS),
    *((name, value, expected) for name, (value, expected) in WHOLE.items()),
]


@pytest.mark.parametrize(("value", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_becomes_of_it(value: bytes | None, expected: str) -> None:
    ((kind, what),) = outcomes([value], NOW_US)
    assert (kind if kind == "event" else what) == expected
    if kind == "event":
        assert NOON - timedelta(microseconds=NOW_US - what[3]) == NOON - SPELT


def test_all_of_them_in_one_batch(rollup: Rollup) -> None:
    zones = {GOOD_ACCOUNT: "Asia/Kolkata", 77: "America/New_York"}
    rollup.always_had(zones)
    good = [replace(make_event(FIRST_ID + n), created_at=NOON - SPELT) for n in range(len(CASES) + 1)]
    values: list[bytes | None] = [message_value(good[0])]
    for event, (_, value, _) in zip(good[1:], CASES, strict=True):
        values += [value, message_value(event)]
    rollup.count(*values)

    ours = {key: numbers for key, numbers in rollup.table().items() if key.account_id == GOOD_ACCOUNT}
    assert ours == rollup.model(*good)
    letters = rollup.conn.execute(
        'SELECT "offset", error_class, value FROM dead_letters ORDER BY "offset"', binary=True
    ).fetchall()
    expected = [(2 * n + 1, becomes, value) for n, (_, value, becomes) in enumerate(CASES) if becomes in ERROR_CLASSES]
    assert letters == expected
    became = rollup.outcomes()
    assert (became.messages, became.dead) == (len(values), len(expected))
    assert became.skipped == sum(becomes in {"tombstone", "unknown_event"} for _, _, becomes in CASES)
    different = {what[0] for _, value, _ in CASES for kind, what in outcomes([value], NOW_US) if kind == "event"}
    assert became.counted == len(good) + len(different)
    assert sum(became[1:]) == became.messages


def test_every_class_of_the_documentation_is_here() -> None:
    design = (Path(__file__).parents[2] / "docs" / "design.md").read_text()
    table = design.partition("## Bad input")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| (\w+) \| ", table, re.MULTILINE)[1:]
    assert set(documented) == {case[2] for case in CASES} & set(ERROR_CLASSES)
    assert set(documented) == set(ERROR_CLASSES) - {OTHER}
    assert datetime.fromtimestamp(NOW_US / 1e6, UTC) == NOON
