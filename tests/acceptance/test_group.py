"""Several processes as one group: however members come, go, die or freeze, every message is counted once."""

import signal
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]

from local.events import produce
from tests.fixtures.events import (
    Trickle,
    assert_all_counted,
    assert_exact,
    load,
    mixed_load,
    prepare,
    read_messages,
    total,
    wait_until_read,
)
from tests.fixtures.processes import Consumer, StartConsumer, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

PARTITIONS = 6
QUICK_TIMEOUT = "2000"
"""Milliseconds until a silent member's partitions go to others, where the member and not the broker decides."""
PROTOCOLS: dict[str, dict[str, str | int]] = {
    "classic": {"KAFKA_SESSION_TIMEOUT_MS": QUICK_TIMEOUT},
    "consumer": {"KAFKA_GROUP_PROTOCOL": "consumer"},
}


@pytest.fixture
def quick_group(kafka_bootstrap: str, consumer_variables: dict[str, str]) -> None:
    """The group's own timeouts, for members that leave them to the broker (`group.protocol=consumer`)."""
    resource = ConfigResource(ConfigResource.Type.GROUP, consumer_variables["KAFKA_GROUP_ID"])
    for name, value in (("consumer.session.timeout.ms", QUICK_TIMEOUT), ("consumer.heartbeat.interval.ms", "300")):
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource.add_incremental_config(entry)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap, "log_level": 0})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


def wait_until_owned(members: Sequence[Consumer], partitions: int) -> None:
    """Wait until each member owns something, and together they own all."""

    def owned() -> list[float]:
        return [member.metric("assigned_partitions") for member in members]

    wait_for(lambda: all(owned()) and sum(owned()) == partitions, f"{partitions} partitions owned", *members)


@pytest.mark.usefixtures("quick_group")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_members_join_leave_and_die_under_load(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer, protocol: str
) -> None:
    topic, settings = make_topic(PARTITIONS), PROTOCOLS[protocol]
    sample = mixed_load(10_000)
    prepare(conn, sample)
    with Trickle(kafka_bootstrap, topic, sample):
        first, second = start_consumer(topic, **settings), start_consumer(topic, **settings)
        wait_until_owned([first, second], PARTITIONS)
        third = start_consumer(topic, **settings)
        wait_until_owned([first, second, third], PARTITIONS)
        before = read_messages(conn)
        wait_for(lambda: read_messages(conn) > before, "messages read by three", first, second, third)
        assert first.terminate() == 0
        wait_until_owned([second, third], PARTITIONS)
        second.kill()
        wait_until_owned([third], PARTITIONS)
        assert read_messages(conn) < sample.expected.messages  # there was load all the time
    wait_until_read(conn, kafka_bootstrap, topic, third)
    assert sum(third.metrics("rebalances_total").values()) >= 3
    assert_all_counted(conn, sample)


def test_static_members_come_back_without_a_rebalance(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(PARTITIONS)
    sample = mixed_load(5_000)
    prepare(conn, sample)

    def start(name: str) -> Consumer:
        return start_consumer(topic, KAFKA_GROUP_INSTANCE_ID=name, KAFKA_SESSION_TIMEOUT_MS=20_000)

    with Trickle(kafka_bootstrap, topic, sample):
        stays, goes = start("stays"), start("goes")
        wait_until_owned([stays, goes], PARTITIONS)
        given_away = stays.metric("rebalances_total", "revoked")
        assert goes.terminate() == 0
        goes = start("goes")
        wait_until_owned([stays, goes], PARTITIONS)
        goes.kill()
        goes = start("goes")
        wait_until_owned([stays, goes], PARTITIONS)
        assert stays.metric("rebalances_total", "revoked") == given_away
        assert stays.metric("rebalances_total", "lost") == 0
        assert read_messages(conn) < sample.expected.messages
    wait_until_read(conn, kafka_bootstrap, topic, stays, goes)
    assert_all_counted(conn, sample)


@pytest.mark.usefixtures("quick_group")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_frozen_member_loses_its_partition_and_its_transaction(
    conn: Connection,
    database_url: str,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    protocol: str,
) -> None:
    topic = make_topic(1)
    settings = {**PROTOCOLS[protocol], "DB_STATEMENT_TIMEOUT_SECONDS": 2}
    sample, more = load(2_000), load(500, 2, first_id=5_000)
    prepare(conn, sample, more)
    frozen = start_consumer(topic, **settings)
    wait_until_owned([frozen], 1)
    heir = start_consumer(topic, **settings)
    if protocol == "classic":
        heir.wait_for_status("/readyz", 200)  # standing by is ready, too
    assert heir.metric("assigned_partitions") == 0
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM rollup_days FOR UPDATE")
        produce(kafka_bootstrap, topic, sample.messages())
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        wait_for(lambda: conn.execute(waiting).fetchone() == (1,), "a transaction that waits for the days", frozen)
        frozen.freeze()
    # Now its transaction holds its offset and the days, and nobody goes on with it.
    wait_until_owned([heir], 1)
    wait_until_read(conn, kafka_bootstrap, topic, heir)
    assert total(conn).counted == 2_000
    frozen.send(signal.SIGCONT)
    frozen.wait_for_log("partitions_lost")
    heir.kill()
    produce(kafka_bootstrap, topic, more.messages())
    wait_until_read(conn, kafka_bootstrap, topic, frozen)
    assert total(conn).counted == total(conn).messages == 2_500
    assert_exact(conn)


def test_offsets_moved_by_hand_are_followed(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(2)
    sample = load(4_000)
    prepare(conn, sample)
    with Trickle(kafka_bootstrap, topic, sample):
        consumer = start_consumer(topic)
        wait_for(lambda: read_messages(conn) > 500, "messages read", consumer)
        back = conn.execute(
            "UPDATE consumer_offsets SET next_offset = next_offset / 2 RETURNING old.next_offset, next_offset"
        )
        again = sum(before - after for before, after in back.fetchall())
        assert again > 0
        consumer.wait_for_log("offset_conflict")
        assert read_messages(conn) < 4_000
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    became = total(conn)
    assert (became.messages, became.counted, became.duplicates) == (4_000 + again, 4_000, again)
    assert consumer.metric("offset_conflicts_total") >= 1
    assert_exact(conn)
