"""How far topics reach, for `status`: asked of the brokers without joining a group.

A lag alone does not say that somebody is stuck: the last message may have arrived this instant, and the markers that
transactional producers leave take up offsets without being messages. So where it matters, the first unread message
itself is looked at: when it was written.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from consumer.rollup.batch import Partition
from consumer.rollup.days import instant_if_any
from consumer.topics import ask_offsets, connection_properties, offset_in

Properties = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class TopicLog:
    """The log [low, high) of a partition, of the topic with this id. Offsets are the next to read."""

    topic_id: str
    low: int
    high: int


def silent() -> logging.Logger:
    """Where librdkafka's own lines go: nowhere. What matters of them comes as an error."""
    logger = logging.getLogger("backfill.librdkafka")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    return logger


def topic_logs(properties: Properties, topics: Sequence[str], timeout: float) -> dict[Partition, TopicLog]:
    """The logs of every partition of these topics; a topic that is missing or forbidden has none.

    Args:
        properties: how to connect, as `Settings.kafka_properties` gives it.
        topics: their names, each once.
        timeout: seconds for all of it.

    Raises:
        KafkaException: no broker answered in time.
    """
    if not topics:
        return {}
    deadline = monotonic() + timeout
    admin = AdminClient(connection_properties(properties), logger=silent())
    admin.list_topics(timeout=timeout)  # raises when nobody answers; the questions below are about single topics
    partitions: dict[Partition, str] = {}
    left = max(0.1, deadline - monotonic())
    for topic, described in admin.describe_topics(TopicCollection(list(topics)), request_timeout=left).items():
        if described.exception(timeout=left) is None:
            found = described.result()
            partitions |= {Partition(topic, p.id): str(found.topic_id) for p in found.partitions}
    lows = _offsets(admin, partitions, OffsetSpec.earliest(), deadline)  # type: ignore[no-untyped-call]
    highs = _offsets(admin, partitions, OffsetSpec.latest(), deadline)  # type: ignore[no-untyped-call]
    return {p: TopicLog(partitions[p], lows[p], highs[p]) for p in partitions if p in lows and p in highs}


def _offsets(
    admin: AdminClient, partitions: Mapping[Partition, str], spec: OffsetSpec, deadline: float
) -> dict[Partition, int]:
    if not partitions:
        return {}
    left = max(0.1, deadline - monotonic())
    answers = ask_offsets(admin, partitions, spec, left, IsolationLevel.READ_COMMITTED)
    found = {}
    for partition, answer in answers.items():
        with suppress(KafkaException):
            found[partition] = offset_in(answer)
    return found


def first_unread(properties: Properties, offsets: Mapping[Partition, int], timeout: float) -> dict[Partition, datetime]:
    """When the message at or after each offset was written (or received, as the topic has it), for those partitions
    that have one and whose broker answers within `timeout` seconds."""
    if not offsets:
        return {}
    reader = Consumer(
        {
            **connection_properties(properties),
            "group.id": "reporting-rollup-status",  # it is asked for; nobody joins it
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "queued.max.messages.kbytes": 1024,
        },
        logger=silent(),
    )
    found: dict[Partition, datetime] = {}
    waiting = set(offsets)
    deadline = monotonic() + timeout
    try:
        reader.assign([TopicPartition(*p, offset) for p, offset in offsets.items()])
        while waiting and (left := deadline - monotonic()) > 0:
            message = reader.poll(left)
            if message is None:
                break
            source = Partition(message.topic() or "", message.partition() or 0)
            if source in waiting and message.error() is None and (at := instant_if_any(message.timestamp()[1] * 1000)):
                found[source] = at
            waiting.discard(source)  # an error ends it as well: there is nothing left to read, or not from here
    finally:
        reader.close()
    return found
