"""Questions for a log's first and next offsets whose answers get lost on the way."""

import logging
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaException

from backfill.topic_logs import topic_logs
from consumer.rollup.batch import Partition
from consumer.topics import Topics
from tests.chaos.proxy import Cut, Deed, Piece, Proxy
from tests.chaos.topic import Topic
from tests.fixtures.processes import wait_for
from tests.fixtures.ways import broker_behind_proxy

TOPIC = "events"
BOTH = {Partition(TOPIC, 0), Partition(TOPIC, 1)}
LIST_OFFSETS = b"\x00\x02"
"""https://kafka.apache.org/protocol.html#protocol_api_keys"""


def cut_questions(piece: Piece) -> Deed:
    """Reset connections on which somebody asks for offsets, be it after other questions in the same piece."""
    return Cut() if piece.to_server and LIST_OFFSETS in kinds(piece.content) else None


def kinds(requests: bytes) -> Iterator[bytes]:
    """The kinds of whole requests, one after the other."""
    while requests:
        yield requests[4:6]
        requests = requests[4 + int.from_bytes(requests[:4], "big") :]


@pytest.fixture(scope="module")
def way() -> Iterator[Proxy]:
    """A broker with a topic, and the only way to it."""
    with broker_behind_proxy() as (proxy, broker):
        topic = Topic(broker.bootstrap, TOPIC)
        topic.make(2)
        topic.ranges()
        yield proxy


def test_a_lost_answer_is_no_offset(way: Proxy) -> None:
    """The client says that it went well, and that the offset is -1001 (librdkafka up to 2.16)."""
    properties = {"bootstrap.servers": f"127.0.0.1:{way.port}"}
    topics = Topics(properties, [TOPIC], logging.getLogger("tests.librdkafka"))
    way.interfere = cut_questions
    try:
        with pytest.raises(KafkaException, match="no answer"):
            topics.log_ranges(BOTH, 5)
        assert topic_logs(properties, [TOPIC], 5) == {}
    finally:
        way.interfere = lambda _: None
    wait_for(lambda: answered(topics), "answers")
    assert topics.log_ranges(BOTH, 10) == dict.fromkeys(BOTH, (0, 0))
    assert topic_logs(properties, [TOPIC], 10).keys() == BOTH


def answered(topics: Topics) -> bool:
    """Whether there are answers again: the client has to connect anew, and pauses before."""
    try:
        return bool(topics.log_ranges(BOTH, 5))
    except KafkaException:
        return False
