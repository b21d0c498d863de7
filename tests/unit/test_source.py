"""What the source makes of what a client hands out: messages, ends of logs and errors, also while partitions go."""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition

from consumer import source as module
from consumer.errors import OffsetGapError
from consumer.rollup.batch import Partition
from consumer.source import Source

HERE, THERE = Partition("t", 0), Partition("t", 1)
Step = Message | Callable[[], None]


def message(offset: int, partition: Partition = HERE, error: int | None = None) -> Message:
    told = {} if error is None else {"error": KafkaError(error)}
    return Message(topic=partition.topic, partition=partition.partition, offset=offset, value=b"{}", **told)  # type: ignore[arg-type]


def end(offset: int, partition: Partition = HERE) -> Message:
    return message(offset, partition, KafkaError._PARTITION_EOF)


class Client:
    """Stands in for Kafka's consumer: hands out what lies in `steps`, and does what can be called there."""

    def __init__(self) -> None:
        self.steps: deque[Step] = deque()
        self.on: dict[str, Callable[..., None]] = {}

    def subscribe(self, _: list[str], **callbacks: Callable[..., None]) -> None:
        self.on = callbacks

    def poll(self, _: float) -> Message | None:
        return next(iter(self.consume(1, 0)), None)

    def consume(self, most: int, _: float) -> list[Message]:
        found: list[Message] = []
        while self.steps and len(found) < most:
            step = self.steps.popleft()
            if isinstance(step, Message):
                found.append(step)
            else:
                step()
        return found

    def ignore(self, *_: object) -> None:
        """Pausing, and the rest of what is asked of it."""

    incremental_assign = incremental_unassign = pause = resume = ignore


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """What the source takes for Kafka's consumer."""
    made = Client()
    monkeypatch.setattr(module, "make_consumer", lambda *_: made)
    return made


@pytest.fixture
def source(client: Client) -> Source:
    """A member that reads both partitions."""
    made = Source(
        {}, ["t"], leaving=lambda *_: None, rebalanced=lambda *_: None, logger=logging.getLogger("tests.source")
    )
    made.subscribe()
    client.on["on_assign"](client, [TopicPartition(*HERE), TopicPartition(*THERE)])
    made.start({HERE: 0, THERE: 0})
    return made


def read(source: Source, client: Client, *steps: Step, most: int = 100) -> tuple[list[int], dict[Partition, int]]:
    """Offsets of the messages, and ends, of one read."""
    client.steps.extend(steps)
    found = source.read(most, 0, 0)
    return [m.offset() or 0 for m in found.messages], found.ends


def test_ends_of_logs_are_told_beside_messages(
    source: Source, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    steps = message(0), end(2), end(7, THERE), message(2), end(5)
    assert read(source, client, *steps) == ([0, 2], {HERE: 5, THERE: 7})
    assert read(source, client, end(6)) == ([], {HERE: 6})
    assert read(source, client) == ([], {})
    assert caplog.records == []


def test_errors_are_told_as_before(source: Source, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    passes = message(0, error=KafkaError._TRANSPORT)
    assert read(source, client, message(0), passes, end(2)) == ([0], {HERE: 2})
    assert len(caplog.records) == 1
    with pytest.raises(OffsetGapError):
        read(source, client, end(3), message(0, THERE, KafkaError._AUTO_OFFSET_RESET))
    assert read(source, client) == ([], {})


def test_ends_count_for_how_full_a_read_is(source: Source, client: Client) -> None:
    client.steps.extend([message(0), end(1, THERE), message(1)])
    assert source.read(2, 0, 0).full
    assert not source.read(2, 0, 0).full


def test_the_end_of_a_partition_given_away_meanwhile_is_left_to_its_new_owner(source: Source, client: Client) -> None:
    def revoke() -> None:
        client.on["on_revoke"](client, [TopicPartition(*HERE)])

    assert read(source, client, message(0), end(2), end(3, THERE), revoke) == ([], {THERE: 3})


def test_ends_that_come_while_paused_wait_with_their_messages(source: Source, client: Client) -> None:
    source.pause()
    assert read(source, client, message(0), most=1) == ([], {})
    assert read(source, client, end(4), most=1) == ([], {})
    assert read(source, client, end(9, THERE), most=1) == ([], {})
    source.restart({THERE: 3})
    assert read(source, client) == ([], {})
    source.resume()
    assert read(source, client, message(4)) == ([0, 4], {HERE: 4})


@pytest.mark.parametrize("how", ["on_revoke", "on_lost"])
def test_ends_that_came_while_paused_go_with_their_partition(source: Source, client: Client, how: str) -> None:
    source.pause()
    read(source, client, end(4), end(9, THERE))
    read(source, client, lambda: client.on[how](client, [TopicPartition(*HERE)]))
    source.resume()
    assert read(source, client) == ([], {THERE: 9})


def test_an_end_is_a_sign_of_life(source: Source, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(source._watch, "message_at", 0.0)
    read(source, client)
    told.append(source._watch.message_at)
    read(source, client, end(1))
    told.append(source._watch.message_at)
    assert told[0] == 0.0 < told[1]
