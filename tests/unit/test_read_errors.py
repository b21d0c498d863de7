"""Errors that come instead of messages: who ends by them, by which code, and who goes on."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.errors import AccessError, ConfigurationError, FencedError, OffsetGapError, RollupError, TopicError
from consumer.read_errors import is_log_end, is_name_taken, needs_somebody


def fatal(code: int) -> KafkaError:
    """As the client hands it out: what it was is only in the text."""
    return KafkaError(KafkaError._FATAL, f"Fatal error: {KafkaError(code).str()}: the broker said so", fatal=True)


@pytest.mark.parametrize(
    ("code", "ends_with", "words"),
    [
        (KafkaError._AUTO_OFFSET_RESET, OffsetGapError, r"events\[3\].*ON_OFFSET_GAP=reset"),
        (KafkaError.OFFSET_OUT_OF_RANGE, OffsetGapError, r"events\[3\].*ON_OFFSET_GAP=reset"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, TopicError, "events.*KAFKA_TOPICS"),
        (KafkaError._UNKNOWN_TOPIC, TopicError, "events.*KAFKA_TOPICS"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AccessError, "'events'.*grant DESCRIBE and READ"),
        (KafkaError._BAD_MSG, RollupError, r"events\[3\].*corrupt.*Nothing was skipped"),
        (KafkaError._BAD_COMPRESSION, RollupError, r"events\[3\].*corrupt"),
        (KafkaError._NOT_IMPLEMENTED, RollupError, r"events\[3\].*corrupt"),
        (KafkaError.INVALID_SESSION_TIMEOUT, ConfigurationError, "KAFKA_SESSION_TIMEOUT_MS is wrong.*6000"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, AccessError, "grant READ on the group"),
    ],
)
def test_what_needs_somebody(code: int, ends_with: type[Exception], words: str) -> None:
    with pytest.raises(ends_with, match=words):
        raise needs_somebody(KafkaError(code), "events", 3) or AssertionError("passes by itself")


@pytest.mark.parametrize(
    "code",
    [KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError.LEADER_NOT_AVAILABLE, KafkaError._TIMED_OUT],
)
def test_what_passes_by_itself(code: int) -> None:
    assert needs_somebody(KafkaError(code), "events", 3) is None


def test_the_end_of_a_log_is_no_error() -> None:
    end = KafkaError(KafkaError._PARTITION_EOF)
    assert is_log_end(end)
    assert needs_somebody(end, "events", 3) is None
    assert not is_log_end(KafkaError(KafkaError._AUTO_OFFSET_RESET))


def test_a_fenced_member_is_told_apart_from_one_whose_name_is_taken() -> None:
    fenced, taken = fatal(KafkaError.FENCED_INSTANCE_ID), fatal(KafkaError.UNRELEASED_INSTANCE_ID)
    assert isinstance(needs_somebody(fenced, None, None), FencedError)
    assert [is_name_taken(fenced), is_name_taken(taken)] == [False, True]


def test_other_fatal_errors_end_the_process() -> None:
    assert isinstance(needs_somebody(fatal(KafkaError._INCONSISTENT), None, None), KafkaException)
    assert not is_name_taken(fatal(KafkaError._INCONSISTENT))
