"""When waiting batches are due."""

from itertools import pairwise

from confluent_kafka import Message

from consumer.assembly import assemble
from consumer.handlers import handler_for
from consumer.poll_cycle import Gathering, Policy
from consumer.rollup.batch import Batch, Partition
from consumer.rollup.registry import REGISTRY
from tests.fixtures.rollup import NOON, make_event, message_value

NOW_US = int(NOON.timestamp()) * 1_000_000
GOOD = message_value(make_event(1))


def of_size(messages: int, start: int = 0) -> Batch:
    read = [
        Message(topic="a", partition=0, offset=start + n, key=b"42", value=GOOD, headers=[], timestamp=(1, 1000))
        for n in range(messages)
    ]
    source = Partition("a", 0)
    return assemble(read, {source: start}, {"a": "id of a"}, {"a": handler_for("json", REGISTRY)}, NOW_US)


def test_nothing_that_waits_is_never_due() -> None:
    gathering = Gathering(Policy(most_events=10))
    assert gathering.due_in(0.0) is None
    assert not gathering.full


def test_caught_up_a_batch_leaves_at_once() -> None:
    gathering = Gathering(Policy(most_events=10, lag_wait=1.0))
    gathering.add(of_size(3), lagging=False, now=5.0)
    assert gathering.due_in(5.0) == 0.0


def test_under_lag_batches_gather_for_a_while() -> None:
    gathering = Gathering(Policy(most_events=10, lag_wait=1.0))
    gathering.add(of_size(3), lagging=True, now=5.0)
    assert gathering.due_in(5.25) == 0.75
    assert gathering.due_in(6.5) == 0.0
    gathering.add(of_size(3, 3), lagging=False, now=5.5)  # the end of the topic
    assert gathering.due_in(5.5) == 0.0


def test_a_full_batch_leaves_at_once() -> None:
    gathering = Gathering(Policy(most_events=6, lag_wait=1.0))
    gathering.add(of_size(3), lagging=True, now=0.0)
    assert (gathering.full, gathering.due_in(0.0)) == (False, 1.0)
    gathering.add(of_size(3, 3), lagging=True, now=0.0)
    assert (gathering.full, gathering.due_in(0.0)) == (True, 0.0)


def test_no_more_than_the_policys_size_leaves_together() -> None:
    gathering = Gathering(Policy(most_events=7))
    for start in (0, 3, 6):
        gathering.add(of_size(3, start), lagging=True, now=0.0)
    assert gathering.take(0.0).messages == 6
    assert gathering.events == 3
    assert gathering.take(0.0).spans[0].start == 6
    assert gathering.due_in(0.0) is None


def test_one_batch_leaves_however_large_it_is() -> None:
    gathering = Gathering(Policy(most_events=2))
    gathering.add(of_size(5), lagging=True, now=0.0)
    assert gathering.take(0.0).messages == 5
    assert gathering.events == 0


def test_cleared_it_is_as_new() -> None:
    gathering = Gathering(Policy(most_events=2))
    gathering.add(of_size(5), lagging=True, now=0.0)
    gathering.clear()
    assert (gathering.due_in(0.0), gathering.full, gathering.events) == (None, False, 0)


def test_after_a_transaction_that_took_too_long_they_grow_slowly_until_the_policys_number() -> None:
    gathering = Gathering(Policy(most_events=10_000))
    gathering.shrink(10_000)
    limits = [gathering.limit]
    while gathering.limit < 10_000:
        gathering.grow()
        limits.append(gathering.limit)
    assert limits[0] == 5_000
    assert all(before < after <= before * 9 / 8 for before, after in pairwise(limits))
    gathering.grow()
    assert gathering.limit == 10_000


def test_transactions_of_one_message_can_grow() -> None:
    gathering = Gathering(Policy(most_events=10))
    gathering.shrink(1)
    assert gathering.limit == 1
    gathering.grow()
    assert gathering.limit == 2
