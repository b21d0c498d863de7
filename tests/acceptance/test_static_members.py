"""Two processes with one `group.instance.id`: whoever has no place in the group says so, and does not stay for ever."""

import signal
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]

from local.events import produce
from tests.fixtures.events import assert_exact, load, prepare, total, wait_until_read
from tests.fixtures.processes import StartConsumer, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

NAME = {"KAFKA_GROUP_INSTANCE_ID": "only"}


@pytest.fixture
def slow_session(kafka_bootstrap: str, consumer_variables: dict[str, str]) -> None:
    """A dead member keeps its place for longer than a process needs to start."""
    resource = ConfigResource(ConfigResource.Type.GROUP, consumer_variables["KAFKA_GROUP_ID"])
    entry = ConfigEntry("consumer.session.timeout.ms", "5000", incremental_operation=AlterConfigOpType.SET)
    resource.add_incremental_config(entry)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap, "log_level": 0})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


@pytest.mark.usefixtures("slow_session")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_successor_of_a_dead_member_waits_for_its_place(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer, end: signal.Signals
) -> None:
    topic = make_topic(2)
    sample, more = load(500), load(500, 2, first_id=5_000)
    prepare(conn, sample, more)
    produce(kafka_bootstrap, topic, sample.messages())
    first = start_consumer(topic, KAFKA_GROUP_PROTOCOL="consumer", **NAME)
    wait_until_read(conn, kafka_bootstrap, topic, first)
    second = start_consumer(topic, KAFKA_GROUP_PROTOCOL="consumer", **NAME)
    said = "the group still has a member with this KAFKA_GROUP_INSTANCE_ID"
    wait_for(lambda: [line for line in second.logged("kafka_client") if said in line["message"]], said, second)
    assert "not a member" in second.wait_for_status("/readyz", 503)
    assert second.get("/livez")[0] == 200
    first.send(end)
    first.wait()
    produce(kafka_bootstrap, topic, more.messages())
    wait_until_read(conn, kafka_bootstrap, topic, second)
    second.wait_for_status("/readyz", 200)
    assert total(conn).counted == 1_000
    assert_exact(conn)
    assert second.terminate() == 0


def test_a_member_whose_name_another_took_ends(
    conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    topic = make_topic(2)
    sample = load(500)
    prepare(conn, sample)
    first = start_consumer(topic, **NAME)
    first.wait_for_log("partitions_assigned")
    second = start_consumer(topic, **NAME)
    assert first.wait() == 7
    assert "KAFKA_GROUP_INSTANCE_ID" in first.wait_for_log("failed")["message"]
    produce(kafka_bootstrap, topic, sample.messages())
    wait_until_read(conn, kafka_bootstrap, topic, second)
    assert total(conn).counted == 500
    assert_exact(conn)
    assert second.terminate() == 0
