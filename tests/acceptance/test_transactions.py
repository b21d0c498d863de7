"""Topics that are written in transactions: what is no message there (markers, aborted records) is passed, also where a
log ends, so that nothing lags or looks lost that nobody could have read."""

import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from tests.chaos.topic import Topic
from tests.fixtures.events import assert_exact, end_offsets, load, prepare, stored_offsets, total, wait_until_read
from tests.fixtures.processes import Consumer, RunProgram, StartConsumer, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

ABORTED = 1_000


class Transactions:
    """A producer of transactions."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "transactional.id": f"tx-{uuid.uuid4().hex[:8]}", "log_level": 0}
        )
        self._producer.init_transactions(30)

    def commit(self, messages: Iterable[tuple[bytes, bytes | None]]) -> None:
        """One transaction of messages that count."""
        self._producer.begin_transaction()
        for key, value in messages:
            self._producer.produce(self._topic, value, key)
        self._producer.commit_transaction(30)
        self._wait_for_markers()

    def abort(self, *partitions: int, records: int = ABORTED) -> None:
        """One transaction of so many records for each partition that never happened."""
        self._producer.begin_transaction()
        for number in range(records * len(partitions)):
            self._producer.produce(self._topic, b"{", partition=partitions[number % len(partitions)])
        assert self._producer.flush(30) == 0
        self._producer.abort_transaction(30)
        self._wait_for_markers()

    def _wait_for_markers(self) -> None:
        """The brokers write them a moment after they have told the producer that all is done."""

        def written() -> bool:
            readable, all_of_it = (
                end_offsets(self._bootstrap, self._topic, isolation)
                for isolation in ("read_committed", "read_uncommitted")
            )
            return readable == all_of_it

        wait_for(written, "the markers of a transaction")


def status(consumer: Consumer) -> dict[str, Any]:
    """What /status says."""
    found: dict[str, Any] = json.loads(consumer.get("/status")[1])
    return found


def assert_nothing_lags(consumer: Consumer, topic: str, partitions: int) -> None:
    """Wait until the metrics say so."""
    nothing = {(str(partition), topic): 0.0 for partition in range(partitions)}
    for lag in ("consumer_lag_messages", "consumer_lag_seconds"):
        wait_for(lambda lag=lag: consumer.metrics(lag) == nothing, f"{lag} of 0", consumer)  # type: ignore[misc]


def test_nothing_lags_or_is_missed_that_is_no_message(
    conn: Connection,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    run_program: RunProgram,
    consumer_variables: dict[str, str],
) -> None:
    topic = make_topic(2)
    sample = load(600)
    prepare(conn, sample)
    messages = list(sample.messages())
    transactions = Transactions(kafka_bootstrap, topic)
    transactions.commit(messages[:200])
    consumer = start_consumer(topic)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert_nothing_lags(consumer, topic, 2)
    transactions.abort(0, 1)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    transactions.commit(messages[200:400])
    transactions.abort(1)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert_nothing_lags(consumer, topic, 2)

    ends = end_offsets(kafka_bootstrap, topic)
    assert sum(ends.values()) > 400 + 3 * ABORTED
    assert (total(conn).messages, total(conn).counted) == (400, 400)
    at_the_ends = {f"{topic}[{partition}]": end for partition, end in ends.items()}
    for offsets in ("positions", "committed"):
        assert status(consumer)[offsets] == at_the_ends
    assert consumer.metric("batch_events_sum") == consumer.metric("messages_consumed_total", topic) == 400
    assert consumer.metric("batch_events_count") == consumer.metric("transactions_total")
    before = consumer.metric("transactions_total")
    time.sleep(2)
    assert consumer.metric("transactions_total") == before  # what was passed is written once
    assert consumer.terminate() == 0

    Topic(kafka_bootstrap, topic).delete_before(ends)  # as retention does with a log that is not written any more
    group = {"KAFKA_TOPICS": topic, "KAFKA_GROUP_ID": consumer_variables["KAFKA_GROUP_ID"]}
    code, out, err = run_program("consumer", "check", **group)
    assert (code, err) == (0, ""), out
    again = start_consumer(topic)
    again.wait_for_log("partitions_assigned")
    transactions.commit(messages[400:])
    wait_until_read(conn, kafka_bootstrap, topic, again)
    assert total(conn).counted == 600
    assert_exact(conn)
    assert again.terminate() == 0


def test_without_transactions_nothing_is_written_where_a_log_ends(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(3)
    sample = load(50)
    prepare(conn, sample)
    consumer = start_consumer(topic)
    consumer.wait_for_log("partitions_assigned")
    time.sleep(1)
    assert consumer.metric("transactions_total") == 0
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "log_level": 0})
    for key, value in sample.messages():  # each one's end is told
        producer.produce(topic, value, key)
        assert producer.flush(30) == 0
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    wait_for(lambda: consumer.metric("batch_events_sum") == 50, "all messages in metrics", consumer)
    assert [line for line in consumer.logged("batch_committed") if line["messages"] == 0] == []
    assert consumer.logged("kafka_client") == []
    assert consumer.terminate() == 0


def test_markers_wait_together_while_the_database_is_busy(
    conn: Connection, database_url: str, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(1)
    transactions = Transactions(kafka_bootstrap, topic)
    consumer = start_consumer(topic)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    with psycopg.connect(database_url) as keeper:
        keeper.execute("SELECT FROM consumer_offsets FOR UPDATE")
        for _ in range(10):
            transactions.abort(0, records=2)
            time.sleep(0.1)
        assert stored_offsets(conn, topic) == {0: 0}
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    assert_nothing_lags(consumer, topic, 1)
    assert consumer.metric("transactions_total") <= 3
    assert consumer.terminate() == 0


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_transaction_of_markers_is_through_before_its_partition_goes_to_another(
    conn: Connection,
    database_url: str,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    protocol: str,
) -> None:
    topic = make_topic(2)
    transactions = Transactions(kafka_bootstrap, topic)
    first = start_consumer(topic, KAFKA_GROUP_PROTOCOL=protocol)
    wait_until_read(conn, kafka_bootstrap, topic, first)
    with psycopg.connect(database_url) as keeper:
        keeper.execute("SELECT FROM consumer_offsets FOR UPDATE")
        transactions.abort(0, 1, records=5)
        # The end of one may be told before the other's, which then waits for the writer.
        wait_for(lambda: 6 in status(first)["positions"].values(), "a transaction that is under way", first)
        second = start_consumer(topic, KAFKA_GROUP_PROTOCOL=protocol)
        second.wait_for_log("started")
        time.sleep(3)  # the group has asked for one of the partitions
        assert first.logged("partitions_revoked") == []
    wait_until_read(conn, kafka_bootstrap, topic, first, second)
    (given,) = second.wait_for_log("partitions_assigned")["offsets"].values()
    assert given in {0, 6}
    assert [member.metric("offset_conflicts_total") for member in (first, second)] == [0, 0]
    assert [member.terminate() for member in (first, second)] == [0, 0]
