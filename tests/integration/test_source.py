"""The source alone, on a real broker: it reads what it was told to, from where it was told to, and nothing else."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest
from confluent_kafka import KafkaException, Message, Producer

from consumer.errors import ConfigurationError, OffsetGapError, TopicError
from consumer.rollup.batch import Partition
from consumer.settings import Settings
from consumer.source import Source
from consumer.topics import Topics
from tests.fixtures.services import MakeTopic

SECONDS = 30.0
LOGGER = logging.getLogger("tests.source")


class Member:
    """A source and what it told of its partitions."""

    def __init__(self, bootstrap: str, group: str, topic: str, **properties: str) -> None:
        self.left: list[tuple[Partition, bool]] = []
        self.changes: list[str] = []
        self.ends: dict[Partition, int] = {}
        quick = {"heartbeat.interval.ms": "300", "session.timeout.ms": "6000"}
        settings = Settings(
            kafka_bootstrap_servers=bootstrap, kafka_group_id=group, kafka_overrides={**quick, **properties}
        )
        self.source = Source(
            settings.kafka_properties(),
            [topic],
            leaving=self._leaving,
            rebalanced=lambda kind, _: self.changes.append(kind),
            logger=logging.getLogger("tests.source"),
        )

    def _leaving(self, partitions: Sequence[Partition], lost: bool) -> None:
        assert set(partitions) <= self.source.owned  # they are its own until the hook has returned
        self.left += [(partition, lost) for partition in partitions]

    def start(self, *partitions: Partition, offset: int = 0) -> None:
        """Join the group, be assigned these partitions, and start them all at one offset."""
        self.source.subscribe()
        self.read_until(lambda: self.source.pending == set(partitions))
        self.source.start(dict.fromkeys(partitions, offset))

    def read_until(self, condition: Callable[[], bool]) -> list[Message]:
        """Read until a condition holds; what was read."""
        messages: list[Message] = []
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"owned {self.source.owned}, pending {self.source.pending}"
            messages += self.read_once(100)
        return messages

    def read_offsets(self, count: int) -> list[int]:
        """The offsets of the next `count` messages."""
        messages: list[Message] = []
        deadline = time.monotonic() + SECONDS
        while len(messages) < count:
            assert time.monotonic() < deadline, f"{len(messages)} of {count} messages"
            messages += self.read_once(count - len(messages))
        return [offset for m in messages if (offset := m.offset()) is not None]

    def read_once(self, most: int) -> list[Message]:
        messages, ends, _ = self.source.read(most, 0.1, 0)
        self.ends |= ends
        return messages


Join = Callable[..., Member]


@pytest.fixture
def join(kafka_bootstrap: str) -> Iterator[Join]:
    """Makes members of one group; they leave after the test."""
    made: list[Member] = []
    group = f"group-{uuid.uuid4().hex[:12]}"

    def member(topic: str, **properties: str) -> Member:
        made.append(Member(kafka_bootstrap, group, topic, **properties))
        return made[-1]

    yield member
    for each in made:
        each.source.close(10)


def send(bootstrap: str, topic: str, count: int, partition: int = 0) -> None:
    """Send numbered messages to one partition."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for number in range(count):
        producer.produce(topic, b"%d" % number, partition=partition)
    assert producer.flush(30) == 0


def test_nothing_is_read_before_it_is_told_where_to_start(
    kafka_bootstrap: str, make_topic: MakeTopic, join: Join
) -> None:
    topic = make_topic(2)
    here, there = Partition(topic, 0), Partition(topic, 1)
    send(kafka_bootstrap, topic, 1_000)
    member = join(topic)
    source = member.source
    source.subscribe()
    assert member.read_until(lambda: source.pending == {here, there}) == []
    assert source.is_member
    assert source.owned == set()
    assert source.read(100, 0.3, 0) == ([], {}, False)

    source.start({here: 700})
    assert source.owned == {here}
    assert source.pending == {there}
    assert member.read_offsets(100) == list(range(700, 800))
    assert source.end_offset(here) == 1_000

    source.restart({here: 300})  # and drops what had been fetched after 800
    assert member.read_offsets(700) == list(range(300, 1_000))
    source.close(10)
    assert member.left == [(here, False)]
    assert member.changes == ["assigned", "revoked"]


def test_a_pause_keeps_every_message_for_later(kafka_bootstrap: str, make_topic: MakeTopic, join: Join) -> None:
    topic = make_topic(1)
    here = Partition(topic, 0)
    send(kafka_bootstrap, topic, 3_000)
    member = join(topic)
    source = member.source
    member.start(here)
    offsets: list[int] = []
    for _ in range(4):
        offsets += member.read_offsets(250)
        source.pause()
        for _ in range(3):
            assert source.read(100, 0.02, 0) == ([], {}, False)
        source.resume()
    source.pause()
    source.restart({here: 2_000})
    assert source.read(100, 0.3, 0) == ([], {}, False)  # paused it stays
    source.resume()
    offsets += member.read_offsets(1_000)
    assert offsets == [*range(1_000), *range(2_000, 3_000)]


def test_messages_of_a_partition_given_away_while_reading_are_left_to_its_new_owner(
    kafka_bootstrap: str, make_topic: MakeTopic, join: Join
) -> None:
    topic = make_topic(2)
    both = {Partition(topic, 0), Partition(topic, 1)}
    first, second = join(topic), join(topic)
    first.start(*both)

    second.source.subscribe()
    ends = threading.Event()

    def second_reads() -> None:
        while not ends.is_set():
            second.source.read(1, 0.1, 0)

    thread = threading.Thread(target=second_reads)
    thread.start()
    offsets: dict[Partition, int] = dict.fromkeys(both, 0)
    try:
        deadline = time.monotonic() + SECONDS
        while not second.source.pending:
            assert time.monotonic() < deadline
            for partition in both:  # so that each read begins with messages of both
                send(kafka_bootstrap, topic, 10, partition.partition)
            for message in first.source.read(1_000_000, 1, 0.5).messages:
                partition = Partition(str(message.topic()), message.partition() or 0)
                assert partition in first.source.owned
                offset = message.offset()
                assert offset == offsets[partition]  # none is missing before
                offsets[partition] = (offset or 0) + 1
    finally:
        ends.set()
        thread.join()
    ((given, lost),) = first.left
    assert not lost
    assert second.source.pending == {given} == both - first.source.owned
    second.source.start({given: offsets[given]})
    _, end = Topics({"bootstrap.servers": kafka_bootstrap}, [topic], LOGGER).log_ranges([given], 10)[given]
    assert second.read_offsets(end - offsets[given]) == list(range(offsets[given], end))


def test_a_partition_lost_while_paused_is_read_again(kafka_bootstrap: str, make_topic: MakeTopic, join: Join) -> None:
    topic = make_topic(1)
    here = Partition(topic, 0)
    send(kafka_bootstrap, topic, 100)
    member = join(topic, **{"max.poll.interval.ms": "1000", "session.timeout.ms": "1000"})
    source = member.source
    member.start(here)
    assert member.read_offsets(10) == list(range(10))
    source.pause()
    threading.Event().wait(1.5)  # it does not poll: the group takes its partition
    member.read_until(lambda: "lost" in member.changes)
    assert member.left == [(here, True)]
    assert source.owned == set()
    source.resume()
    member.read_until(lambda: source.pending == {here})
    source.start({here: 10})
    assert member.read_offsets(90) == list(range(10, 100))


@pytest.fixture
def transactional(kafka_bootstrap: str) -> Producer:
    """A producer of transactions."""
    name = f"tx-{uuid.uuid4().hex[:8]}"
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": name, "log_level": 0})
    producer.init_transactions(30)
    return producer


def begin(producer: Producer, topic: str, count: int) -> None:
    """Send numbered messages to partition 0, in a transaction that stays open."""
    producer.begin_transaction()
    for number in range(count):
        producer.produce(topic, b"%d" % number, partition=0)
    assert producer.flush(30) == 0


def test_the_end_of_a_log_is_told_behind_all_that_is_no_message(
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    join: Join,
    transactional: Producer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = make_topic(1)
    here = Partition(topic, 0)
    member = join(topic)
    source = member.source
    member.start(here)
    assert member.read_until(lambda: member.ends == {here: 0}) == []

    begin(transactional, topic, 3)
    transactional.commit_transaction(30)
    assert [m.offset() for m in member.read_until(lambda: member.ends == {here: 4})] == [0, 1, 2]
    begin(transactional, topic, 1_000)
    transactional.abort_transaction(30)
    assert member.read_until(lambda: member.ends == {here: 1_005}) == []
    assert source.end_offset(here) == 1_005

    begin(transactional, topic, 2)
    send(kafka_bootstrap, topic, 1)  # behind an open transaction, so nobody may read it yet
    member.read_until(lambda: source.end_offset(here) == 1_008)
    assert source.read(100, 0.5, 0) == ([], {}, False)
    transactional.commit_transaction(30)
    assert [m.offset() for m in member.read_until(lambda: member.ends == {here: 1_009})] == [1_005, 1_006, 1_007]
    send(kafka_bootstrap, topic, 1)
    assert [m.offset() for m in member.read_until(lambda: member.ends == {here: 1_010})] == [1_009]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_an_end_is_told_again_after_a_pause_and_behind_what_is_read_again(
    kafka_bootstrap: str, make_topic: MakeTopic, join: Join, transactional: Producer
) -> None:
    topic = make_topic(1)
    here = Partition(topic, 0)
    member = join(topic)
    source = member.source
    send(kafka_bootstrap, topic, 2)
    member.start(here)
    assert member.read_offsets(2) == [0, 1]
    member.read_until(lambda: member.ends == {here: 2})
    begin(transactional, topic, 50)
    transactional.abort_transaction(30)
    threading.Event().wait(0.5)  # it has fetched that, and knows of the end

    source.pause()
    assert source.read(100, 0.3, 0) == ([], {}, False)
    source.resume()
    assert member.read_until(lambda: member.ends == {here: 53}) == []

    send(kafka_bootstrap, topic, 1)
    threading.Event().wait(0.5)  # it has fetched that, too
    member.ends.clear()
    source.restart({here: 1})
    offsets: list[int | None] = []
    while not member.ends:  # the end comes with the last message or later, and what had been fetched does not come
        offsets += [m.offset() for m in member.read_once(1)]
        assert not member.ends or offsets == [1, 53]
    assert member.ends == {here: 54}


def test_an_offset_before_the_log_is_an_error(kafka_bootstrap: str, make_topic: MakeTopic, join: Join) -> None:
    topic = make_topic(1)
    here = Partition(topic, 0)
    send(kafka_bootstrap, topic, 10)
    member = join(topic)
    member.start(here, offset=500)
    with pytest.raises(OffsetGapError, match=r"ON_OFFSET_GAP=reset"):
        member.read_until(lambda: False)


def test_a_missing_topic_and_a_wrong_property_are_told(make_topic: MakeTopic, join: Join, kafka_bootstrap: str) -> None:
    topic = make_topic(2)
    properties = {"bootstrap.servers": kafka_bootstrap}
    topics = Topics(properties, [topic], LOGGER)
    assert topics.ids().keys() == {topic}
    send(kafka_bootstrap, topic, 10, partition=1)
    empty, full = Partition(topic, 0), Partition(topic, 1)
    assert topics.log_ranges({empty, full}, 10) == {empty: (0, 0), full: (0, 10)}
    with pytest.raises(KafkaException):
        topics.log_ranges({Partition(topic, 2)}, 10)
    with pytest.raises(TopicError, match=r"topic 'no-such-topic' does not exist: create it"):
        Topics(properties, ["no-such-topic"], LOGGER).ids()
    with pytest.raises(ConfigurationError, match=r"KAFKA_FETCH_WAIT_MAX_MS is wrong: .*fetch\.wait\.max\.ms"):
        join(topic, **{"fetch.wait.max.ms": "long"})
