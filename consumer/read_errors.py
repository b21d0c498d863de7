"""Errors that the Kafka client hands out instead of messages: which end the process, which pass by themselves, and what
is none."""

from confluent_kafka import KafkaError, KafkaException

from consumer.access import refused_topic
from consumer.errors import ConfigurationError, FencedError, OffsetGapError, RollupError, TopicError

# The client tells of a fatal error once, under a code of its own; what it was is only in the text.
_STILL_USED = KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()
_FENCED = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()


_CORRUPT = {KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED, KafkaError.INVALID_MSG}
"""Checksum, compression, record format: after each, the client may read on behind what it could not read."""


def is_log_end(error: KafkaError) -> bool:
    """Whether it is no error: everything before the offset that it comes with was handed out, or is no message for us
    (a transaction's marker, aborted, compacted away). The log goes on there, or a transaction that is still open."""
    return error.code() == KafkaError._PARTITION_EOF


def is_name_taken(error: KafkaError) -> bool:
    """Whether the client will never read again because the group did not let it in: a member, alive or dead, has our
    `group.instance.id` until its session ends (`group.protocol=consumer`). A new client may join then."""
    return error.code() == KafkaError._FATAL and _STILL_USED in error.str()


def needs_somebody(error: KafkaError, topic: str | None, partition: int | None) -> Exception | None:
    """What to raise for an error of the client's or of a partition; None if it passes by itself."""
    code, name = error.code(), f"{topic}[{partition}]"
    if code == KafkaError._FATAL:
        return _ended(error)
    if code in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:
        return OffsetGapError(
            f"{name}: {error.str()}. Events between the stored offset and the log's start are gone from the "
            "topic: set ON_OFFSET_GAP=reset to go on from the log's start, then rebuild the days they lie on"
        )
    if code in _CORRUPT:
        return RollupError(
            f"{name}: {error.str()}. Messages there are corrupt in the broker's log, and the client would go on behind "
            "them. Nothing was skipped: restore the log from another replica, or move next_offset behind them by hand"
        )
    if code == KafkaError.INVALID_SESSION_TIMEOUT:
        return ConfigurationError(
            f"KAFKA_SESSION_TIMEOUT_MS is wrong: the brokers refuse it ({error.str()}); allowed: from their "
            "group.min.session.timeout.ms to their group.max.session.timeout.ms, 6000 to 1800000 by default"
        )
    if code in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}:
        return TopicError(f"{topic}: {error.str()}. Create the topic, or name another in KAFKA_TOPICS")
    return refused_topic(f"topic {topic!r}", error)


def _ended(error: KafkaError) -> Exception:
    """What to raise for an error after which the client never reads again."""
    if _FENCED not in error.str():
        return KafkaException(error)
    return FencedError(
        "another process has joined the group with this one's KAFKA_GROUP_INSTANCE_ID, and has its partitions: "
        "give each process another one. If that one is this one's successor, nothing needs to be done"
    )
