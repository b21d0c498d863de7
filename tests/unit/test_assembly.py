"""From messages to batches, and how many are read at once."""

import pytest
from confluent_kafka import Message

from consumer.assembly import FETCH_BYTES, assemble, next_read, timestamp_us
from consumer.handlers import handler_for
from consumer.rollup.batch import Batch, Partition, Span, merge
from consumer.rollup.registry import REGISTRY
from tests.fixtures.rollup import NOON, make_event, message_value

NOW_US = int(NOON.timestamp()) * 1_000_000
GOOD, BAD, UNKNOWN = message_value(make_event(1)), b"{", message_value(make_event(2, "conversation_opened"))
HANDLER = handler_for("json", REGISTRY)


def message(value: bytes | None, offset: int, partition: int = 0, topic: str = "a", **others: object) -> Message:
    made = {"key": b"42", "headers": [], "timestamp": (1, 1000 + offset), **others}
    return Message(topic=topic, partition=partition, offset=offset, value=value, **made)  # type: ignore[arg-type]


def assembled(
    *messages: Message, starts: dict[Partition, int] | None = None, ends: dict[Partition, int] | None = None
) -> Batch:
    topics = {str(m.topic()) for m in messages} | {partition.topic for partition in ends or {}}
    first = {Partition(str(m.topic()), m.partition() or 0): m.offset() or 0 for m in reversed(messages)}
    ids = {topic: f"id of {topic}" for topic in topics}
    return assemble(messages, {**first, **(starts or {})}, ids, dict.fromkeys(topics, HANDLER), NOW_US, ends=ends or {})


# -- assemble


def test_every_message_has_its_place() -> None:
    batch = assembled(
        message(GOOD, 10), message(BAD, 11), message(None, 12), message(UNKNOWN, 13), message(GOOD, 5, partition=3)
    )
    first, second = batch.spans
    assert (first.source, first.topic_id, first.start, first.next) == (Partition("a", 0), "id of a", 10, 14)
    assert (first.messages, first.skipped, first.dead) == (4, {"tombstone": 1, "unknown_event": 1}, 1)
    assert (second.source, second.messages, second.skipped, second.dead) == (Partition("a", 3), 1, {}, 0)
    assert batch.events.source.tolist() == [0, 1]
    assert batch.messages == 5


def test_partitions_may_be_mixed() -> None:
    values = [message(message_value(make_event(i)), i // 2, partition=1 - i % 2) for i in range(6)]
    batch = assembled(*values)
    assert [(s.source.partition, s.start, s.next, s.messages) for s in batch.spans] == [(0, 0, 3, 3), (1, 0, 3, 3)]
    assert dict(zip(batch.events.id.tolist(), batch.events.source.tolist(), strict=True)) == {
        0: 1, 1: 0, 2: 1, 3: 0, 4: 1, 5: 0,
    }  # fmt: skip


def test_gaps_in_the_offsets_are_covered() -> None:
    """Compaction and aborted transactions leave some; the next offset is one after the last message."""
    batch = assembled(message(GOOD, 15), message(GOOD, 20), starts={Partition("a", 0): 10})
    (span,) = batch.spans
    assert (span.start, span.next, span.messages) == (10, 21, 2)


def test_an_offset_before_the_next_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\[0\]: read offset 9 where 10 or later is next"):
        assembled(message(GOOD, 9), starts={Partition("a", 0): 10})


def test_topics_may_be_mixed() -> None:
    batch = assemble(
        [message(GOOD, 0, topic="b"), message(GOOD, 7, topic="a"), message(GOOD, 1, topic="b")],
        {Partition("a", 0): 7, Partition("b", 0): 0},
        {"a": "id of a", "b": "id of b"},
        {"a": HANDLER, "b": HANDLER},
        NOW_US,
    )
    assert [(s.source, s.topic_id, s.messages) for s in batch.spans] == [
        (Partition("a", 0), "id of a", 1),
        (Partition("b", 0), "id of b", 2),
    ]
    assert sorted(batch.events.source.tolist()) == [0, 1, 1]


def test_a_dead_letter_is_the_message_as_it_stood() -> None:
    headers = [("trace", b"\xff"), ("trace", None)]
    batch = assembled(message(GOOD, 4), message(b"\xff", 5, key=None, headers=headers, timestamp=(1, 1234)))
    (letter,) = batch.dead_letters
    assert (letter.source, letter.offset, letter.key, letter.value) == (Partition("a", 0), 5, None, b"\xff")
    assert (list(letter.headers), letter.timestamp_us, letter.error_class) == (headers, 1_234_000, "encoding")


@pytest.mark.parametrize("stamp", [-62_135_596_800_001, 253_402_300_800_000, 2**63 - 1, -(2**63)])
def test_a_timestamp_that_is_no_date_is_told_in_words(stamp: int) -> None:
    (letter,) = assembled(message(b"\xff", 5, timestamp=(1, stamp))).dead_letters
    assert letter.reason.endswith(f"; its timestamp is left out: {stamp} ms since 1970 is no date")
    assert letter.timestamp_us is None


def test_a_message_may_have_no_timestamp() -> None:
    assert timestamp_us(message(GOOD, 0, timestamp=(0, -1))) is None
    assert assembled(message(BAD, 0, timestamp=(0, -1))).spans[0].oldest_us is None


def test_the_oldest_timestamp_of_a_span_is_its_first_messages() -> None:
    assert assembled(message(GOOD, 3), message(GOOD, 4)).spans[0].oldest_us == 1_003_000


# -- where logs end


def test_what_is_no_message_at_a_logs_end_is_covered() -> None:
    """A transaction's marker, an aborted transaction: nothing is delivered there."""
    batch = assembled(message(GOOD, 10), message(GOOD, 11), ends={Partition("a", 0): 15})
    (span,) = batch.spans
    assert (span.start, span.next, span.messages, span.oldest_us) == (10, 15, 2, 1_010_000)


def test_a_log_that_ends_behind_its_last_message_changes_nothing() -> None:
    (span,) = assembled(message(GOOD, 10), ends={Partition("a", 0): 11}).spans
    assert (span.start, span.next, span.messages) == (10, 11, 1)
    (span,) = assembled(message(GOOD, 10), message(GOOD, 11), ends={Partition("a", 0): 11}).spans  # ended in between
    assert span.next == 12


def test_a_log_that_ends_without_a_message_has_a_span_of_none() -> None:
    starts, ends = {Partition("a", 1): 5, Partition("a", 7): 0}, {Partition("a", 7): 1, Partition("a", 1): 9}
    batch = assembled(starts=starts, ends=ends)
    assert [(s.source.partition, s.start, s.next, s.messages, s.dead, s.oldest_us) for s in batch.spans] == [
        (1, 5, 9, 0, 0, None),
        (7, 0, 1, 0, 0, None),
    ]
    assert (batch.messages, len(batch.events), batch.dead_letters) == (0, 0, ())


def test_messages_find_their_place_between_logs_that_ended() -> None:
    starts = {Partition("a", 0): 3, Partition("a", 4): 0}
    ends = {Partition("a", 0): 4, Partition("a", 4): 2}
    batch = assembled(message(BAD, 8, partition=2), message(GOOD, 9, partition=2), starts=starts, ends=ends)
    assert [(s.source.partition, s.start, s.next, s.messages, s.dead) for s in batch.spans] == [
        (0, 3, 4, 0, 0), (2, 8, 10, 2, 1), (4, 0, 2, 0, 0),
    ]  # fmt: skip
    assert batch.events.source.tolist() == [1]
    assert batch.dead_letters[0].source == Partition("a", 2)


def test_logs_of_several_topics_end() -> None:
    starts = {Partition("b", 0): 7, Partition("c", 1): 0}
    batch = assembled(message(GOOD, 5, topic="a"), starts=starts, ends={Partition("b", 0): 8, Partition("c", 1): 1})
    assert [(s.source, s.topic_id, s.next, s.messages) for s in batch.spans] == [
        (Partition("a", 0), "id of a", 6, 1),
        (Partition("b", 0), "id of b", 8, 0),
        (Partition("c", 1), "id of c", 1, 0),
    ]


# -- merge


def test_batches_merge_where_their_offsets_follow() -> None:
    first = assembled(message(GOOD, 0), message(BAD, 1), message(None, 0, partition=2))
    second = assembled(message(message_value(make_event(9)), 0, partition=1), message(None, 1, partition=2))
    batch = merge([first, second])
    assert [(s.source.partition, s.start, s.next, s.messages) for s in batch.spans] == [
        (0, 0, 2, 2), (1, 0, 1, 1), (2, 0, 2, 2),
    ]  # fmt: skip
    assert batch.spans[2].skipped == {"tombstone": 2}
    assert [batch.spans[source].source.partition for source in batch.events.source] == [0, 1]
    assert len(batch.dead_letters) == 1
    assert merge([first]) is first


def test_messages_after_a_marker_keep_their_timestamp() -> None:
    here = Partition("a", 0)
    marker = assembled(starts={here: 3}, ends={here: 4})
    more = assembled(message(GOOD, 4), message(GOOD, 5), ends={here: 7})
    (span,) = merge([marker, more]).spans
    assert (span.start, span.next, span.messages, span.oldest_us) == (3, 7, 2, 1_004_000)
    (span,) = merge([more, assembled(starts={here: 7}, ends={here: 8})]).spans
    assert (span.start, span.next, span.messages, span.oldest_us) == (4, 8, 2, 1_004_000)


def test_batches_that_do_not_follow_are_refused() -> None:
    first, after_a_gap = assembled(message(GOOD, 0)), assembled(message(GOOD, 2))
    with pytest.raises(ValueError, match="a span from 2 does not follow one up to 1"):
        merge([first, after_a_gap])
    with pytest.raises(ValueError, match="a span from 0 does not follow one up to 1"):
        merge([first, first])


def test_a_span_must_rise() -> None:
    with pytest.raises(ValueError, match="do not rise"):
        Span(Partition("a", 0), "id", 5, 5, 0, {}, 0, None)


# -- how many to read next


def test_small_messages_are_read_as_many_as_allowed() -> None:
    assert next_read([message(GOOD, n) for n in range(10)], most=20_000) == 20_000


def test_large_messages_are_read_a_few_at_a_time() -> None:
    assert next_read([message(b"x" * 1_000_000, n) for n in range(10)], most=20_000) == FETCH_BYTES // 1_000_002


def test_keys_and_headers_make_messages_large_as_well() -> None:
    large = b"x" * 2_000_000
    assert next_read([message(b"", n, key=large) for n in range(10)], most=20_000) < 20
    assert next_read([message(b"", n, headers=[("a", large)]) for n in range(10)], most=20_000) < 20


def test_one_message_is_always_read() -> None:
    assert next_read([message(b"x" * 2 * FETCH_BYTES, 0)], most=20_000) == 1
