"""Where partitions are read, where their logs end, and what lag follows from that."""

import pytest
from prometheus_client import CollectorRegistry

from consumer.handlers import handler_for
from consumer.metric_catalogue import PREFIX
from consumer.metrics import Metrics
from consumer.positions import Positions
from consumer.rollup.batch import Batch, Partition, Span
from consumer.rollup.registry import REGISTRY

NO_EVENTS = handler_for("json", REGISTRY).decode([], 0).events
HERE, THERE = Partition("t", 0), Partition("t", 1)


class Reading:
    """Positions of two partitions, both read from offset 10 on."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.positions = Positions(Metrics(self.registry))
        self.positions.start({HERE: 10, THERE: 10})

    def advance(self, *spans: tuple[Partition, int, int, int]) -> None:
        """A batch of (partition, start, next, messages)."""
        made = (Span(p, "id", start, end, n, {}, 0, 1_000_000 if n else None) for p, start, end, n in spans)
        self.positions.advance(Batch(tuple(made), NO_EVENTS, ()))

    def lag(self, committed: dict[Partition, int], ends: dict[Partition, int]) -> dict[Partition, float]:
        """Messages behind, by partition."""
        self.positions.report_lag(committed, ends.get)
        return {p: self._sample(p) for p in (HERE, THERE)}

    def _sample(self, partition: Partition) -> float:
        labels = {"topic": partition.topic, "partition": str(partition.partition)}
        found = self.registry.get_sample_value(PREFIX + "consumer_lag_messages", labels)
        assert found is not None
        return found


@pytest.fixture
def reading() -> Reading:
    """Two partitions."""
    return Reading()


def test_an_end_where_the_next_message_is_read_is_nothing_to_store(reading: Reading) -> None:
    reading.positions.log_ended({HERE: 10, THERE: 9})
    assert reading.positions.ends == {}


def test_an_end_beyond_waits_until_it_is_passed(reading: Reading) -> None:
    reading.positions.log_ended({HERE: 12})
    assert reading.positions.ends == {HERE: 12}
    reading.positions.log_ended({HERE: 15, THERE: 11})
    assert reading.positions.ends == {HERE: 15, THERE: 11}
    reading.advance((HERE, 10, 15, 0))
    assert reading.positions.ends == {THERE: 11}
    reading.advance((THERE, 10, 14, 2))  # messages came behind
    assert reading.positions.ends == {}


def test_an_end_is_forgotten_with_its_partition(reading: Reading) -> None:
    reading.positions.log_ended({HERE: 12, THERE: 12})
    reading.positions.drop([HERE])
    reading.positions.start({THERE: 5})  # rewound: what lies before the end is read again first
    assert reading.positions.ends == {}
    reading.positions.start({HERE: 3})
    assert reading.positions.ends == {}


def test_nothing_lags_behind_a_marker(reading: Reading) -> None:
    ends = {HERE: 13, THERE: 11}
    assert reading.lag({}, ends) == {HERE: 3, THERE: 1}
    reading.advance((HERE, 10, 13, 2), (THERE, 10, 11, 0))
    assert reading.lag({}, ends) == {HERE: 3, THERE: 0}
    assert reading.lag({HERE: 13, THERE: 11}, ends) == {HERE: 0, THERE: 0}
