"""The quick reading of JSON events: what it vouches for, what is kept from it, and what is looked at again."""

import json
import random
import zlib

import pytest

from consumer.handlers.json_events import JsonEvents
from consumer.handlers.json_fast import FastJson, Read
from consumer.handlers.json_strict import MAX_BYTES, StrictJson
from consumer.rollup.registry import REGISTRY, Kind, Metric, Registry
from local.events import Workload, generate
from tests.decoded import plain

NOW_US = 1_770_811_200_000_000  # 2026-02-11T12:00:00Z
FAST = FastJson(REGISTRY)
STRICT = StrictJson()


def message(more: str = "", created_at: str = "2026-02-11T09:30:00Z", **tokens: str) -> bytes:
    fields = {"id": "1", "name": '"reply_time"', "account_id": "2", "value": "3", "created_at": f'"{created_at}"'}
    return ("{" + ",".join(f'"{k}":{v}' for k, v in (fields | tokens).items()) + more + "}").encode()


GOOD = message()


def read(*values: bytes | None) -> Read:
    found = FAST.read(values, NOW_US)
    assert found is not None
    assert sorted([*found.index, *found.unknown, *found.doubtful]) == list(range(len(values)))
    return found


@pytest.mark.parametrize(
    "value",
    [
        GOOD,
        b" \t" + GOOD + b"\r ",
        b"\n" + GOOD + b"\n\n",
        GOOD.replace(b",", b", ").replace(b'":', b'" :\t'),
        message(',"user_id":5,"inbox_id":null,"value_in_business_hours":0.25'),
        message(name='"reply\\u005ftime"'),
        message(',"note":"caf\u00e9 \\u00e9 \\" \\\\ \\n","list":[1,{"a":[]}],"t":true'),
        message(',"pair":"\\ud83d\\uDE00","two":"x\\uDBFF\\udfff\\ud800\\udc00"'),
        message(created_at="2026-02-11 09:30:00.123456789+05:30"),
        message(created_at="2026-02-11t09:30:00.1234567-00:00"),
        message(',"deep":' + "[" * 400 + "]" * 400),
        message(',"long":"' + "x" * 100_000 + '"'),
        message(',"id":"twice"'),
    ],
)
def test_a_good_message_is_vouched_for(value: bytes) -> None:
    found = read(GOOD, value, GOOD)
    assert found.index.tolist() == [0, 1, 2]
    assert plain(JsonEvents(fewest=0).decode([value], NOW_US)) == plain(STRICT.decode([value], NOW_US))


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b" ",
        b"\n",
        b" \t\r\n",
        message(',"half":"\\ud800"'),
        message(',"half":"\\uDFFF"'),
        message(',"text":"\\\\ud83d\\ude00"'),
        message(',"wrong way round":"\\ude00\\ud83d"'),
        message(',"three":"\\ud83d\\ud83d\\ude00"'),
        message(',"deep":' + "[" * 600 + "]" * 600),
        message(',"deep":' + '{"a":' * 600 + "1" + "}" * 600),
        GOOD + b" " * MAX_BYTES,
        message(id="null"),
        message(account_id="null"),
        message(name="5"),
        message(name="true"),
        message(name='"true"'),
        message(name="null"),
        message(name="{}"),
        message(name='"\u00fcnknown"'),
        message(name='"with\\u0000nul"'),
        message(name='""'),
        message(created_at="2026-02-11T09:30:00"),
        message(created_at="2031-01-01T00:00:00Z"),
        message(created_at="1999-12-31T23:59:59Z"),
        message(created_at="2000-01-01T00:00:00+00:01"),
        GOOD.replace(b'"2026-02-11T09:30:00Z"', b"2026"),
        GOOD.replace(b'"2026-02-11T09:30:00Z"', b"null"),
        message(value="1000000000.0000001"),
        message(value="-2e9"),
        message(',"value_in_business_hours":1e300'),
        b"{}",
    ],
)
def test_a_message_is_doubtful_and_its_neighbours_are_not(value: bytes | None) -> None:
    found = read(GOOD, value, message(name='"no_such_event"'), GOOD)
    assert (found.index.tolist(), found.doubtful.tolist(), found.unknown.tolist()) == ([0, 3], [1], [2])
    assert [e.tolist() for e in (found.events.id, found.events.account_id)] == [[1, 1], [2, 2]]


@pytest.mark.parametrize(
    "value",
    [
        GOOD + b"\n" + GOOD,
        b"[" + GOOD + b"]",
        GOOD + GOOD,
        GOOD[:-1],
        message(id="true"),
        message(id="1.0"),
        message(',"user_id":2147483648'),
        message(',"note":"?"').replace(b"?", b"\xff"),
        b"\xef\xbb\xbf" + GOOD,
        zlib.compress(GOOD),
    ],
)
def test_one_message_that_polars_refuses_makes_it_give_up(value: bytes) -> None:
    assert FAST.read([value, GOOD], NOW_US) is None
    assert FAST.read([GOOD, value], NOW_US) is None


def test_a_blank_message_does_not_make_up_for_one_that_is_two() -> None:
    for blank in (b"", b" ", b"\n", b"\r\n\t"):
        assert FAST.read([GOOD + b"\n" + GOOD, blank], NOW_US) is None
        assert FAST.read([blank, GOOD + b"\n" + GOOD], NOW_US) is None


def test_messages_that_would_unpack_are_not_unpacked() -> None:
    """A file that begins so is decompressed by polars: two rows for two messages, and none of them was sent."""
    packed = zlib.compress(GOOD + b"\n" + GOOD)
    decoded = JsonEvents(fewest=0).decode([packed, GOOD], NOW_US)
    assert decoded.index.tolist() == [1]
    assert [r.index for r in decoded.rejects] == [0]


def test_of_a_key_given_twice_polars_takes_the_first_value_however_many_there_are() -> None:
    """It looks up a key in a list, and beyond 32 members in a hash table: the first value must win in both."""
    rng = random.Random(7)
    values = []
    for n, members in enumerate([*range(2, 40), 63, 64, 65, 100, 128, 500, 2_000]):
        pairs = list(json.loads(message(id=str(n))).items())
        pairs += [(f"k{rng.getrandbits(40)}", 0) for _ in range(members)]
        pairs += [("id", -1), ("account_id", -1), ("value", -1), ("name", "other"), ("created_at", "")]
        pairs = rng.sample(pairs[:-5], len(pairs) - 5) + rng.sample(pairs[-5:], 5)
        values.append(("{" + ",".join(f'"{k}":{json.dumps(v)}' for k, v in pairs) + "}").encode())
    found = read(*values)
    assert found.events.id.tolist() == list(range(len(values)))
    assert set(found.events.account_id.tolist()) == {2}
    assert plain(JsonEvents(fewest=0).decode(values, NOW_US)) == plain(STRICT.decode(values, NOW_US))


def test_events_whose_names_are_no_words_are_left_to_the_strict_decoder() -> None:
    names = ("5", "true", "{}", "fine", "with space")
    registry = Registry(tuple(Metric(name, f"metric {name}", Kind.COUNT) for name in names), REGISTRY.dimensions)
    values = [message(name=token) for name in names for token in (json.dumps(name), name)]
    quick, strict = JsonEvents(registry, fewest=0), StrictJson(registry)
    assert plain(quick.decode(values, NOW_US)) == plain(strict.decode(values, NOW_US))
    assert quick.decode(values, NOW_US).events.name.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("bad", "unknown"), [(0.0, 0.0), (0.001, 0.0), (0.1, 0.3)])
def test_a_large_read_is_decoded_as_message_by_message(bad: float, unknown: float) -> None:
    sample = generate(Workload(end_us=NOW_US, events=6_000, bad=bad, unknown=unknown))
    values: list[bytes | None] = [value for _, value in sample.messages()]
    assert plain(JsonEvents().decode(values, NOW_US)) == plain(STRICT.decode(values, NOW_US))
    values[::7] = [None] * len(values[::7])
    values[5::911] = [b'{"huge":1e400,' + GOOD[1:]] * len(values[5::911])  # fine, and still polars refuses it
    assert plain(JsonEvents().decode(values, NOW_US)) == plain(STRICT.decode(values, NOW_US))


def test_a_key_given_very_often_does_not_take_the_square_of_the_time() -> None:
    """polars would take seconds for this message; so it is not shown to it."""
    value = message("," + ",".join(['"":0'] * 200_000))
    assert read(GOOD, value, GOOD).doubtful.tolist() == [1]
    assert plain(JsonEvents(fewest=0).decode([GOOD, value], NOW_US))["id"][1] == [1, 1]
