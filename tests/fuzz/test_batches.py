"""Whole batches against a real PostgreSQL: good messages among spoilt ones, with keys and headers of all sorts.

The good events have an account and ids that no spoilt message can have, so their rollup is known whatever the others
turn out to be.
"""

import base64
import random
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from confluent_kafka import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.assembly import assemble
from consumer.rollup.batch import Batch, Partition
from consumer.rollup.registry import REGISTRY
from tests.fixtures.rollup import NOON, TOPIC, TOPIC_ID, Rollup, make_event, message_value
from tests.fuzz import examples
from tests.fuzz.mutations import NOW_US, SAMPLE, fuzzed
from tests.model import RawEvent, recompute
from tests.property.test_json_events import reference

ACCOUNT, FIRST_ID = 1_000_000_042, 7_000_000_000_000
SECONDS = 60.0
"""For a batch; it takes 0.05 s."""
SOURCE = Partition(TOPIC, 0)

Headers = list[tuple[str, bytes | None]]
Envelope = tuple[bytes | None, Headers]

texts = st.text(max_size=8) | st.sampled_from(["", "\0", "a\0b", "\u2028", "\U0001f600", '"', "\\u0000", "x" * 300])
headers = st.lists(st.tuples(texts, st.none() | st.binary(max_size=12)), max_size=3)
record_keys = st.none() | st.binary(max_size=12) | st.sampled_from([b"", b"42", b"\0", b"\xff" * 40, b"k" * 5_000])
envelopes = st.tuples(record_keys, headers)

event_names = st.sampled_from(REGISTRY.event_names)
kinds = st.tuples(event_names, st.integers(0, 86_400), st.floats(-1e9, 1e9) | st.none())


def good_events(drawn: list[tuple[str, int, float | None]]) -> list[RawEvent]:
    """Events of the account, of the last day."""
    made = []
    for number, (name, age, value) in enumerate(drawn):
        event = make_event(FIRST_ID + number, name, NOON - timedelta(seconds=age), value=value)
        made.append(replace(event, account_id=ACCOUNT, conversation_id=number % 3))
    return made


def read(rollup: Rollup, values: list[bytes | None], wrapped: list[Envelope]) -> Batch:
    """The next messages of the partition, as a batch."""
    start = rollup.positions[SOURCE]
    messages = [
        Message(
            topic=TOPIC,
            partition=0,
            offset=start + at,
            key=key,
            value=value,
            headers=listed,  # type: ignore[arg-type]
            timestamp=(1, NOW_US // 1000),
        )
        for at, (value, (key, listed)) in enumerate(zip(values, wrapped, strict=True))
    ]
    batch = assemble(messages, rollup.positions.copy(), {TOPIC: TOPIC_ID}, {TOPIC: rollup.handler}, rollup.now_us)
    rollup.positions[SOURCE] = start + len(values)
    return batch


@pytest.fixture
def fuzzed_rollup(rollup: Rollup) -> Rollup:
    """A rollup whose window holds the good events."""
    assert rollup.now_us == NOW_US
    return rollup


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    drawn=st.lists(kinds, min_size=1, max_size=8),
    spoilt=st.lists(fuzzed, min_size=1, max_size=12),
    wrapped=st.lists(envelopes, min_size=20, max_size=20),
    chance=st.randoms(use_true_random=False),
)
def test_good_messages_count_and_bad_ones_are_kept_as_they_were(
    fuzzed_rollup: Rollup,
    drawn: list[tuple[str, int, float | None]],
    spoilt: list[bytes | None],
    wrapped: list[Envelope],
    chance: random.Random,
) -> None:
    rollup, good = fuzzed_rollup, good_events(drawn)
    rollup.empty()
    zones = {ACCOUNT: "Asia/Kolkata", **SAMPLE.timezones}
    rollup.always_had(zones)
    values = [*map(message_value, good), *spoilt]
    chance.shuffle(values)
    wrapped = wrapped[: len(values)]

    began = time.monotonic()
    rollup.write(read(rollup, values, wrapped))
    assert time.monotonic() - began < SECONDS

    ours = {key: numbers for key, numbers in rollup.table().items() if key.account_id == ACCOUNT}
    assert ours == recompute(good, zones)
    outcomes = [reference(value, NOW_US) for value in values]
    bad = [at for at, (kind, _) in enumerate(outcomes) if kind == "reject"]
    became = rollup.outcomes()
    assert (became.messages, became.dead, sum(became[1:])) == (len(values), len(bad), len(values))
    counting = [what for kind, what in outcomes if kind == "event" and what[1] in zones]
    assert became.counted + became.duplicates + became.late == len(counting)
    letters = rollup.conn.execute(
        'SELECT "offset", key, value, headers, error_class, reason FROM dead_letters ORDER BY "offset"'
    ).fetchall()
    assert [letter[:3] + letter[4:5] for letter in letters] == [
        (at, wrapped[at][0], values[at], outcomes[at][1]) for at in bad
    ]
    assert [
        [(name, None if value is None else base64.b64decode(value)) for name, value in letter[3]] for letter in letters
    ] == [[(name.replace("\0", "\N{REPLACEMENT CHARACTER}"), value) for name, value in wrapped[at][1]] for at in bad]
    assert all(letter[5] for letter in letters)
