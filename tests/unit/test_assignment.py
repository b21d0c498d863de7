"""When it is stored where logs end: with messages at once, without any when the writer is idle."""

import time
from collections.abc import Iterator

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from consumer.assembly import assemble
from consumer.assignment import Assignment
from consumer.handlers import handler_for
from consumer.health import Health
from consumer.metrics import Metrics
from consumer.poll_cycle import Policy
from consumer.rollup.batch import Partition
from consumer.rollup.registry import REGISTRY
from consumer.rollup.store import Rules
from consumer.settings import Settings
from consumer.writer import Writer

HERE, THERE = Partition("t", 0), Partition("t", 1)


def connect() -> psycopg.Connection:
    raise psycopg.OperationalError("there is no database")


class Reading:
    """An assignment that never meets a broker, and a writer that never starts."""

    def __init__(self) -> None:
        settings, metrics, health = Settings(), Metrics(CollectorRegistry()), Health(time.monotonic())
        rules = Rules("group", REGISTRY, open_days=3)
        self.writer = Writer(connect, rules, Policy(most_events=100), metrics, health)
        self.assignment = Assignment(settings, connect, self.writer, metrics, health)
        self.assignment.positions.start({HERE: 0, THERE: 0})

    def submit(self, ends: dict[Partition, int]) -> None:
        """What the service does with them when there are no messages."""
        positions, handlers = self.assignment.positions, {"t": handler_for("json", REGISTRY)}
        batch = assemble([], positions.next, {"t": "id"}, handlers, 0, ends)
        positions.advance(batch)
        self.writer.submit(batch, lagging=False)


@pytest.fixture
def reading() -> Iterator[Reading]:
    """Two partitions that are read from their start."""
    made = Reading()
    yield made
    made.assignment.source.close(1)


def test_ends_alone_wait_for_the_writer(reading: Reading) -> None:
    log_ends = reading.assignment.log_ends
    assert log_ends({}, alone=True) == {}
    assert log_ends({HERE: 2}, alone=True) == {HERE: 2}
    reading.submit({HERE: 2})
    assert log_ends({HERE: 5}, alone=True) == {}
    assert log_ends({HERE: 8, THERE: 1}, alone=True) == {}
    reading.writer.resume()  # it has nothing in hand any more
    assert log_ends({}, alone=True) == {HERE: 8, THERE: 1}
    reading.submit({HERE: 8, THERE: 1})
    reading.writer.resume()
    assert log_ends({HERE: 8}, alone=True) == {}


def test_ends_go_along_with_messages(reading: Reading) -> None:
    log_ends = reading.assignment.log_ends
    reading.submit({HERE: 2})
    assert log_ends({HERE: 5}, alone=True) == {}
    assert log_ends({THERE: 3}, alone=False) == {HERE: 5, THERE: 3}


def test_ends_that_wait_are_forgotten_when_reading_begins_again(reading: Reading) -> None:
    log_ends = reading.assignment.log_ends
    reading.submit({HERE: 2})
    log_ends({HERE: 5, THERE: 3}, alone=True)
    reading.assignment.positions.start({HERE: 0, THERE: 0})  # after a conflict
    assert log_ends({}, alone=True) == {}
