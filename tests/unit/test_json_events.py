"""The handler `json`: every rule, and every class of reject with its exact words."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from consumer.errors import ConfigurationError
from consumer.handlers import Decoded, handler_for
from consumer.handlers.json_events import JsonEvents
from consumer.handlers.json_strict import MAX_BYTES, StrictJson
from consumer.handlers.timestamps import TimestampError, parse_timestamp, parse_timestamps
from consumer.rollup.batch import NULL
from consumer.rollup.registry import REGISTRY, Dimension, Kind, Metric, Registry
from tests.decoded import plain

NOW_US = 1_770_811_200_000_000  # 2026-02-11T12:00:00Z
STRICT = StrictJson()
QUICK = JsonEvents(fewest=0, slice_size=2)

GOOD: Mapping[str, str] = {
    "id": "7001",
    "name": '"first_response"',
    "account_id": "42",
    "user_id": "5",
    "inbox_id": "null",
    "value": "90.5",
    "value_in_business_hours": "30",
    "created_at": '"2026-02-11T09:30:00.25Z"',
}


def message(without: str = "", more: str = "", **tokens: str) -> bytes:
    """A good message, but for fields left out, JSON text appended, and fields given as JSON text."""
    fields = {**GOOD, **tokens}
    fields.pop(without, None)
    return ("{" + ",".join(f'"{k}":{v}' for k, v in fields.items()) + more + "}").encode("utf-8", "surrogatepass")


def decode(*values: bytes | None) -> Decoded:
    """What becomes of `values`, whichever way they are decoded."""
    decoded = STRICT.decode(values, NOW_US)
    assert plain(QUICK.decode(values, NOW_US)) == plain(decoded)
    return decoded


def rejected(value: bytes) -> tuple[str, str]:
    """Class and reason of `value`, which is also seen to leave its neighbours alone."""
    decoded = decode(message(), value, message())
    assert decoded.index.tolist() == [0, 2]
    assert decoded.skipped == {}
    (reject,) = decoded.rejects
    assert reject.index == 1
    return reject.error_class, reject.reason


def accepted(value: bytes) -> dict[str, int]:
    """The one event of `value`, by column."""
    decoded = decode(value)
    assert (list(decoded.rejects), decoded.skipped, decoded.index.tolist()) == ([], {}, [0])
    e = decoded.events
    return {
        "id": int(e.id[0]),
        "account_id": int(e.account_id[0]),
        "name": int(e.name[0]),
        "created_us": int(e.created_us[0]),
        "value_us": int(e.value_us[0]),
        "business_us": int(e.business_us[0]),
        "source": int(e.source[0]),
        **{column: int(array[0]) for column, array in e.ids.items()},
    }


def test_a_good_message_becomes_columns() -> None:
    assert accepted(message()) == {
        "id": 7001,
        "account_id": 42,
        "name": REGISTRY.event_code["first_response"],
        "created_us": NOW_US - 9_000_000_000 + 250_000,
        "value_us": 90_500_000,
        "business_us": 30_000_000,
        "source": 0,
        "user_id": 5,
        "inbox_id": int(NULL),
        "conversation_id": int(NULL),
    }


def test_columns_have_their_types() -> None:
    e = decode(message()).events
    assert (e.name.dtype, e.source.dtype) == (np.dtype(np.int8), np.dtype(np.int16))
    columns = [e.id, e.account_id, e.created_us, e.value_us, e.business_us, *e.ids.values()]
    assert {column.dtype for column in columns} == {np.dtype(np.int64)}
    assert tuple(e.ids) == REGISTRY.id_columns


@pytest.mark.parametrize(
    ("field", "token", "column", "expected"),
    [
        ("id", "9223372036854775807", "id", 2**63 - 1),
        ("id", "-9223372036854775808", "id", -(2**63)),
        ("id", "-0", "id", 0),
        ("account_id", "2147483647", "account_id", 2**31 - 1),
        ("account_id", "-2147483648", "account_id", -(2**31)),
        ("conversation_id", "2147483647", "conversation_id", 2**31 - 1),
        ("conversation_id", "0", "conversation_id", 0),
        ("value", "null", "value_us", 0),
        ("value", "-0", "value_us", 0),
        ("value", "-0.0", "value_us", 0),
        ("value", "1e9", "value_us", 10**15),
        ("value", "-1000000000", "value_us", -(10**15)),
        ("value", "1E3", "value_us", 10**9),
        ("value", "1e-400", "value_us", 0),
        ("value", "0.0000005", "value_us", 0),  # half to even, of 0.5
        ("value", "0.0000015", "value_us", 2),  # of 1.5
        ("value", "0.0000025", "value_us", 2),  # of 2.5
        ("value_in_business_hours", "-2.5e-6", "business_us", -2),
        ("name", '"first\\u005fresponse"', "name", REGISTRY.event_code["first_response"]),
        ("created_at", '"2000-01-01T00:00:00Z"', "created_us", 946_684_800_000_000),
        ("created_at", '"2026-02-12T12:00:00Z"', "created_us", NOW_US + 86_400_000_000),
        ("created_at", '"2026-02-11T12:00:00.1234569Z"', "created_us", NOW_US + 123_456),
        ("created_at", '"2026-02-11\\u002012:00:00Z"', "created_us", NOW_US),
    ],
)
def test_accepted(field: str, token: str, column: str, expected: int) -> None:
    assert accepted(message(**{field: token}))[column] == expected


@pytest.mark.parametrize("field", ["user_id", "inbox_id", "conversation_id", "value", "value_in_business_hours"])
def test_optional_fields_may_be_absent_or_null(field: str) -> None:
    assert accepted(message(without=field)) == accepted(message(**{field: "null"}))


@pytest.mark.parametrize(
    "more",
    [
        ',"event_end_time":[1,{"a":null}],"note":"caf\u00e9 \u2603 \\ud83d\\ude00"',
        ',"note":"\\u0000"',
        ',"huge":1e400,"digits":' + "9" * 5000,
        "," + ",".join(f'"k{i}":{i}' for i in range(50_000)),
        ',"deep":' + "[" * 100 + "]" * 100,
    ],
    ids=["nested", "nul", "numbers", "50,000 keys", "depth 100"],
)
def test_other_fields_are_ignored(more: str) -> None:
    assert accepted(message(more=more)) == accepted(message())


def test_of_a_key_given_twice_the_first_value_counts() -> None:
    assert accepted(message(more=',"id":8'))["id"] == 7001
    assert accepted(message(more=', "id" :8'))["id"] == 7001
    assert accepted(message(more=',"\\u0069d":8'))["id"] == 7001
    assert accepted(message(more=',"id":"not a number"'))["id"] == 7001
    assert accepted(message(value="null", more=',"value":3'))["value_us"] == 0
    assert accepted(message(more=',"note":{"id":8,"id":9}'))["id"] == 7001
    assert rejected(message(id='"x"', more=',"id":8')) == ("type", 'id: expected a 64-bit integer, found "x"')
    assert rejected(b'{"\\u0069d":null,' + message()[1:])[1] == "id: expected a 64-bit integer, found null"


def test_white_space_around_the_object_is_fine() -> None:
    assert accepted(b" \t\r\n" + message() + b"\n ") == accepted(message())


TOO_DEEP = "arrays and objects are nested more than 500 deep"
INT32 = "expected a 32-bit integer"
SECONDS = "expected a number of seconds within \u00b11e9 or null"


@pytest.mark.parametrize(
    ("value", "error_class", "reason"),
    [
        (b"null", "type", "expected an object, found null"),
        (b"[1]", "type", "expected an object, found an array"),
        (b'"x"', "type", 'expected an object, found "x"'),
        (b" 1e5 ", "type", "expected an object, found 1e5"),
        (b"{}", "missing", "id: missing"),
        (message("id"), "missing", "id: missing"),
        (message("name"), "missing", "name: missing"),
        (message("account_id"), "missing", "account_id: missing"),
        (message("created_at"), "missing", "created_at: missing"),
        (message(id="null"), "type", "id: expected a 64-bit integer, found null"),
        (message(id="1.0"), "type", "id: expected a 64-bit integer, found 1.0"),
        (message(id="1e3"), "type", "id: expected a 64-bit integer, found 1e3"),
        (message(id="true"), "type", "id: expected a 64-bit integer, found true"),
        (message(id="9223372036854775808"), "range", "id: expected a 64-bit integer, found 9223372036854775808"),
        (message(id="-9223372036854775809"), "range", "id: expected a 64-bit integer, found -9223372036854775809"),
        (message(id="9" * 5000), "range", f"id: expected a 64-bit integer, found {'9' * 57}..."),
        (message(name="7"), "type", "name: expected text, found 7"),
        (message(name="null"), "type", "name: expected text, found null"),
        (message(account_id='"42"'), "type", f'account_id: {INT32}, found "42"'),
        (message(account_id="[42]"), "type", f"account_id: {INT32}, found an array"),
        (message(account_id='{"a":1}'), "type", f"account_id: {INT32}, found an object"),
        (message(account_id="2147483648"), "range", f"account_id: {INT32}, found 2147483648"),
        (message(created_at="1770811200"), "type", "created_at: expected text, found 1770811200"),
        (message(user_id='"5"'), "type", f'user_id: {INT32} or null, found "5"'),
        (message(user_id="5.0"), "type", f"user_id: {INT32} or null, found 5.0"),
        (message(inbox_id="-2147483649"), "range", f"inbox_id: {INT32} or null, found -2147483649"),
        (message(conversation_id="false"), "type", f"conversation_id: {INT32} or null, found false"),
        (message(value='"1"'), "type", f'value: {SECONDS}, found "1"'),
        (message(value="true"), "type", f"value: {SECONDS}, found true"),
        (message(value="1000000000.0000001"), "range", f"value: {SECONDS}, found 1000000000.0000001"),
        (message(value="-1000000001"), "range", f"value: {SECONDS}, found -1000000001"),
        (message(value="1e400"), "range", f"value: {SECONDS}, found 1e400"),
        (message(value="9" * 5000), "range", f"value: {SECONDS}, found {'9' * 57}..."),
        (message(value_in_business_hours="2e9"), "range", f"value_in_business_hours: {SECONDS}, found 2e9"),
        (message(name='"a\\u0000b"'), "text", 'name: holds a NUL character, found "a\\u0000b"'),
        (message(created_at='"\\u0000"'), "text", 'created_at: holds a NUL character, found "\\u0000"'),
        (
            message(created_at='"2031-01-01T00:00:00Z"'),
            "timestamp",
            "created_at: 2031-01-01T00:00:00Z lies more than a day ahead",
        ),
        (
            message(created_at='"2026-02-12T12:00:00.000001Z"'),
            "timestamp",
            "created_at: 2026-02-12T12:00:00.000001Z lies more than a day ahead",
        ),
        (
            message(created_at='"1999-12-31T23:59:59.999999Z"'),
            "timestamp",
            "created_at: 1999-12-31T23:59:59.999999Z lies before 2000",
        ),
        (
            message(created_at='"2026-02-30T00:00:00Z"'),
            "timestamp",
            'created_at: "2026-02-30T00:00:00Z" names no day of the calendar',
        ),
        (
            message(created_at='"' + "\u00e9" * 100 + '"'),
            "timestamp",
            'created_at: "' + "\\u00e9" * 9 + "\\u... is not an RFC 3339 date-time such as 2026-02-11T09:30:00Z",
        ),
        (message(name='"unheard_of"', id="null"), "type", "id: expected a 64-bit integer, found null"),
        (message(name='"\\u0000"'), "text", 'name: holds a NUL character, found "\\u0000"'),
        (
            message(name='"unheard_of"', created_at='""'),
            "timestamp",
            'created_at: "" is not an RFC 3339 date-time such as 2026-02-11T09:30:00Z',
        ),
        (b"", "syntax", "the message is empty"),
        (b"  ", "syntax", "Input data was truncated"),
        (message()[:-1], "syntax", "Input data was truncated"),
        (b"[1", "syntax", "Input data was truncated"),
        (b"{'id':1}", "syntax", "JSON is malformed: object keys must be strings (byte 1)"),
        (b"\xef\xbb\xbf{}", "syntax", "JSON is malformed: invalid character (byte 0)"),
        (b'{"id":NaN}', "syntax", "JSON is malformed: invalid character (byte 6)"),
        (b'{"id":-Infinity}', "syntax", "JSON is malformed: invalid character (byte 7)"),
        (b'{"id":01}', "syntax", "JSON is malformed: invalid number (byte 7)"),
        (b'{"id":"x"} x', "syntax", "JSON is malformed: trailing characters (byte 12)"),
        (b"{}{}", "syntax", "JSON is malformed: trailing characters (byte 3)"),
        (b'{"note":"\\udc00"}', "syntax", "JSON is malformed: invalid utf-16 surrogate pair (byte 15)"),
        (b'{"id":"x","note":"\t"}', "syntax", "JSON is malformed: invalid character (byte 18)"),
        (b"{}\x00", "syntax", "JSON is malformed: trailing characters (byte 3)"),
        (b'{"note":"\xff"}', "encoding", "the message is not UTF-8: invalid start byte (byte 9)"),
        (b'{"\xc0\xaf":1}', "encoding", "the message is not UTF-8: invalid start byte (byte 2)"),
        (message(name='"\ud800"'), "encoding", "the message is not UTF-8: invalid continuation byte (byte 19)"),
        (b"[1,\xe2\x82", "encoding", "the message is not UTF-8: unexpected end of data (byte 3)"),
        ('{"id":1}'.encode("utf-16"), "encoding", "the message is not UTF-8: invalid start byte (byte 0)"),
        (b"[" * 100_000, "nesting", TOO_DEEP),
        (b'{"a":' * 100_000, "nesting", TOO_DEEP),
        (
            message(id="null", more=',"deep":' + "[" * 100_000 + "]" * 100_000),
            "nesting",
            TOO_DEEP,
        ),
        (b" " * (MAX_BYTES + 1), "size", "the message has 1048577 bytes, more than 1048576"),
        (b"\xff" * (MAX_BYTES + 1), "size", "the message has 1048577 bytes, more than 1048576"),
    ],
)
def test_rejected(value: bytes, error_class: str, reason: str) -> None:
    assert rejected(value) == (error_class, reason)


def test_the_longest_message_is_still_read() -> None:
    value = message()
    assert accepted(value + b" " * (MAX_BYTES - len(value))) == accepted(value)
    assert rejected(value + b" " * (MAX_BYTES - len(value) + 1))[0] == "size"


def test_what_is_nested_too_deeply_depends_on_the_message_alone() -> None:
    """The decoders of JSON stop at Python's recursion limit, less the depth of the caller."""

    def from_below(levels: int, value: bytes) -> Decoded:
        return from_below(levels - 1, value) if levels else decode(value)

    for more, fits in ((',"a":' + "[" * 499 + "]" * 499, True), (',"a":' + "[" * 500 + "]" * 500, False)):
        for levels in (0, 60, 120):
            assert bool(len(from_below(levels, message(more=more)).events)) is fits
    for text in ("[" * 10_000, r"\"" + r"{\"a\":" * 2_000):
        assert accepted(message(more=f',"text":"{text}"')) == accepted(message())
    assert accepted(message(more=',"wide":[' + "[]," * 10_000 + "{}]")) == accepted(message())
    assert rejected(b'{"a":"' + rb"\"[" * 300_000) == ("syntax", "Input data was truncated")


@pytest.mark.parametrize("value", [None, b"[", b'{"x":"\xff"}', message(id="null"), message(name='"other"')])
def test_a_message_never_hides_others_wherever_it_stands(value: bytes | None) -> None:
    places = {0, 249, 250, 251, 600}
    decoded = decode(*(value if i in places else message(id=str(i)) for i in range(601)))
    others = [i for i in range(601) if i not in places]
    assert decoded.index.tolist() == decoded.events.id.tolist() == others
    gone = [r.index for r in decoded.rejects] + [i for where in decoded.skipped.values() for i in where.tolist()]
    assert gone == sorted(places)


def test_skipped_messages_are_counted_by_reason() -> None:
    decoded = decode(None, message(name='"unheard_of"'), message(), None, message(name='""'), b"x")
    assert {why: where.tolist() for why, where in decoded.skipped.items()} == {
        "tombstone": [0, 3],
        "unknown_event": [1, 4],
    }
    assert decoded.index.tolist() == [2]
    assert [(r.index, r.error_class) for r in decoded.rejects] == [(5, "syntax")]


def test_rejects_rise_whatever_found_them() -> None:
    late, broken = message(created_at='"2031-01-01T00:00:00Z"'), b"{"
    assert [r.index for r in decode(late, broken, late, None, broken, message()).rejects] == [0, 1, 2, 4]


def test_no_messages_give_no_events() -> None:
    decoded = decode()
    assert (len(decoded.events), len(decoded.index), list(decoded.rejects), decoded.skipped) == (0, 0, [], {})


def test_a_reason_never_shows_more_than_one_short_value() -> None:
    secret = json.dumps("s" * 10_000)
    for value in (message(id=secret), message(created_at=secret), secret.encode(), message(user_id=secret)):
        assert len(rejected(value)[1]) < 160


def test_a_registry_with_another_dimension_and_metric_is_all_it_takes() -> None:
    registry = Registry(
        metrics=(*REGISTRY.metrics, Metric("escalated", "escalated_contacts", Kind.DISTINCT, member="contact_id")),
        dimensions=(*REGISTRY.dimensions, Dimension("team", "team_id")),
    )
    handler = handler_for("json", registry)
    decoded = handler.decode(
        [
            message(name='"escalated"', more=',"team_id":3,"contact_id":9'),
            message(more=',"team_id":null'),
            message(more=',"team_id":"3"'),
        ],
        NOW_US,
    )
    assert decoded.events.name.tolist() == [registry.event_code["escalated"], registry.event_code["first_response"]]
    assert decoded.events.ids["team_id"].tolist() == [3, int(NULL)]
    assert decoded.events.ids["contact_id"].tolist() == [9, int(NULL)]
    assert [r.reason for r in decoded.rejects] == ['team_id: expected a 32-bit integer or null, found "3"']
    assert decode(message(name='"escalated"')).skipped["unknown_event"].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("avro", "KAFKA_TOPICS: no handler 'avro'; there are: json"),
        ("jsn", "KAFKA_TOPICS: no handler 'jsn'; there are: json; did you mean json?"),
        ("JSON", "KAFKA_TOPICS: no handler 'JSON'; there are: json; did you mean json?"),
    ],
)
def test_an_unknown_handler_is_named_with_the_known_ones(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        handler_for(name, REGISTRY)
    assert str(error.value) == text


NO_DATE_TIME = "is not an RFC 3339 date-time such as 2026-02-11T09:30:00Z"
NO_OFFSET = "has no offset from UTC; end it with Z or \u00b1hh:mm"
NO_TIME = "names no time of day (00:00:00 to 23:59:59)"
NO_DAY = "names no day of the calendar"
NO_SUCH_OFFSET = "has no possible offset from UTC (-23:59 to +23:59)"
LEAP = "has second 60: a leap second is no instant that PostgreSQL can hold"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-02-11T12:00:00Z", NOW_US),
        ("2026-02-11t12:00:00z", NOW_US),
        ("2026-02-11 12:00:00Z", NOW_US),
        ("2026-02-11T17:30:00+05:30", NOW_US),
        ("2026-02-11T00:15:00-11:45", NOW_US),
        ("2026-02-11T12:00:00+00:00", NOW_US),
        ("2026-02-11T12:00:00-00:00", NOW_US),
        ("2026-02-11T12:00:00.1Z", NOW_US + 100_000),
        ("2026-02-11T12:00:00.000001+00:00", NOW_US + 1),
        ("2026-02-11T12:00:00.999999999Z", NOW_US + 999_999),
        ("2026-02-11T12:00:00." + "9" * 400 + "Z", NOW_US + 999_999),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139_000_000),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000_000),
        ("2023-02-29T00:00:00Z", NO_DAY),
        ("2100-02-29T00:00:00Z", NO_DAY),
        ("2026-13-01T00:00:00Z", NO_DAY),
        ("2026-00-01T00:00:00Z", NO_DAY),
        ("2026-04-31T00:00:00Z", NO_DAY),
        ("2026-04-00T00:00:00Z", NO_DAY),
        ("0000-01-01T00:00:00Z", NO_DAY),
        ("2026-02-11T24:00:00Z", NO_TIME),
        ("2026-02-11T12:60:00Z", NO_TIME),
        ("2026-02-11T12:00:61Z", NO_TIME),
        ("2016-12-31T23:59:60Z", LEAP),
        ("2026-02-11T12:00:00", NO_OFFSET),
        ("2026-02-11T12:00:00.5", NO_OFFSET),
        ("2026-02-11T12:00:00+24:00", NO_SUCH_OFFSET),
        ("2026-02-11T12:00:00+01:60", NO_SUCH_OFFSET),
        ("2026-02-11T12:00:00+0100", NO_DATE_TIME),
        ("2026-02-11T12:00:00.Z", NO_DATE_TIME),
        ("2026-02-11T12:00Z", NO_DATE_TIME),
        ("2026-02-11", NO_DATE_TIME),
        ("20260211T120000Z", NO_DATE_TIME),
        (" 2026-02-11T12:00:00Z", NO_DATE_TIME),
        ("2026-02-11T12:00:00Z\n", NO_DATE_TIME),
        ("2026-02-11T12:00:0\u0660Z", NO_DATE_TIME),
        ("2026-02-11T12:00:00\u2124", NO_DATE_TIME),
        ("+2026-02-11T12:00:00Z", NO_DATE_TIME),
        ("2026-02-11T12:00:00 Z", NO_DATE_TIME),
        ("", NO_DATE_TIME),
    ],
)
def test_timestamps(text: str, expected: int | str) -> None:
    outcome: Any
    try:
        outcome = parse_timestamp(text)
    except TimestampError as error:
        outcome = str(error)
    assert outcome == expected
    instants, ok = parse_timestamps([text, "2026-02-11T12:00:00Z", text])
    valid = isinstance(expected, int)
    assert ok.tolist() == [valid, True, valid]
    assert instants.tolist() == [expected if valid else 0, NOW_US, expected if valid else 0]
