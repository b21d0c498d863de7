"""What becomes of a topic: made again, cut off at its start, read from old offsets, full of holes. Nothing is skipped
in silence; where messages are gone for good, the consumer stops and says so, and the raw events make up for them."""

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from local.events import write_raw
from tests.chaos.conftest import MakeWorld
from tests.chaos.load import drawn
from tests.chaos.world import World
from tests.fixtures.events import prepare
from tests.fixtures.processes import wait_for

STATIC = {"KAFKA_GROUP_INSTANCE_ID": "only"}
"""The next one has its partitions at once, and not when the session of a killed one has timed out."""
RESET = {"ON_OFFSET_GAP": "reset"}
NEVER_HAPPENED = 1_000_000_000
"""Ids of events whose messages are in aborted transactions: no raw row has one."""


def stop_everything(world: World) -> dict[int, int]:
    """No load, no consumers; the stored offsets, which nobody moves any more."""
    world.rest()
    for consumer in list(world.consumers):
        if world.chance.random() < 0.5:
            world.kill(consumer)
        else:
            world.terminate(consumer)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s"
    world.until(lambda: world.conn.execute(sessions, ("%consumer%",)).fetchone() == (0,), "end of all sessions")
    return world.offsets()


def assert_stops_and_then_goes_on(world: World, said: str) -> None:
    """A consumer ends, by a code of its own, and moves nothing; the operator lets it go on, and rebuilds what is
    missing."""
    stored = world.offsets()
    consumer = world.start(**STATIC)
    world.forget(consumer)
    wait_for(lambda: consumer.code is not None, "the end of a consumer that finds a gap")
    assert consumer.code == (9 if "made again" in said else 5), consumer.tail()
    message = consumer.wait_for_log("failed")["message"]
    assert said in message
    assert "ON_OFFSET_GAP=reset" in message
    assert world.offsets() == stored
    world.go_on()
    world.start(**STATIC, **RESET)
    world.until_read(200)
    world.rest()
    world.until_everything_is_read()
    world.rebuild_all_days()
    world.go_on()
    world.settle()


@pytest.mark.quick
def test_a_topic_is_deleted_and_made_again(world: World) -> None:
    world.begin()
    world.start(**STATIC)
    world.until_read(world.chance.randrange(100, 1_000))
    stored = stop_everything(world)
    world.lost |= {p for p in world.remember() if p.offset >= stored.get(p.partition, 0)}
    world.topic.delete()
    world.topic.make(world.partitions)
    assert_stops_and_then_goes_on(world, "the topic was deleted and made again")


def test_a_topic_is_made_again_under_a_running_consumer(world: World) -> None:
    world.begin()
    consumer = world.start(**STATIC)
    world.until_read(world.chance.randrange(100, 1_000))
    world.rest()
    world.until_everything_is_read()
    world.remember()
    world.forget(consumer)
    world.topic.delete()
    world.wait(world.chance.uniform(0, 2))
    world.topic.make(world.partitions)
    wait_for(lambda: consumer.code is not None, "the end of the consumer")
    # It may have seen that there was no topic, or a log that ends before its offset.
    assert consumer.code in {4, 5, 9}, consumer.tail()
    assert_stops_and_then_goes_on(world, "the topic was deleted and made again")


def test_messages_are_deleted_before_they_were_read(world: World) -> None:
    world.begin()
    world.start(**STATIC)
    world.until_read(world.chance.randrange(100, 600))
    stored = stop_everything(world)
    present = world.remember()
    ends = {partition: end for partition, (_, end) in world.topic.ranges().items()}
    starts = {p: world.chance.randint(0, end) for p, end in ends.items()}
    gap = world.chance.choice([p for p, end in ends.items() if end > stored.get(p, 0)])  # one is sure to have a gap
    starts[gap] = world.chance.randint(stored.get(gap, 0) + 1, ends[gap])
    world.topic.delete_before(starts)
    world.lost |= {p for p in present if stored.get(p.partition, 0) <= p.offset < starts[p.partition]}
    assert_stops_and_then_goes_on(world, "lies before the log's start")


@pytest.mark.parametrize("whole", [True, False], ids=["rows", "offsets"])
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_stored_offsets_are_put_back_to_an_old_copy(world: World, whole: bool, running: bool) -> None:
    world.begin()
    for _ in range(2):
        world.start()
    world.until_read(world.chance.randrange(200, 600))
    world.conn.execute("CREATE TABLE old_copy AS SELECT * FROM consumer_offsets")
    world.until_read(world.chance.randrange(200, 600))
    if not running:
        stop_everything(world)
    columns = "next_offset"
    if whole:  # with the balance: whoever counted these messages is forgotten
        world.ids_are_whole = False
        columns += ", messages, counted, duplicates, late, skipped, dead"
    put_back = world.conn.execute(
        f"UPDATE consumer_offsets AS o SET ({columns}) = (SELECT {columns} FROM old_copy AS c"
        " WHERE (c.group_id, c.topic, c.partition) = (o.group_id, o.topic, o.partition))"
        " WHERE EXISTS (SELECT FROM old_copy AS c"
        " WHERE (c.group_id, c.topic, c.partition) = (o.group_id, o.topic, o.partition))"
        " RETURNING old.next_offset - new.next_offset"
    )
    again = sum(moved for (moved,) in put_back)
    assert again > 0
    world.read_again += 0 if whole else again
    if not running:
        world.go_on()
        world.start()
    world.until_read(1)
    world.settle()


@pytest.fixture
def transactional(world: World) -> Iterator[Producer]:
    """A producer of transactions."""
    producer = Producer(
        {"bootstrap.servers": world.bootstrap, "transactional.id": f"tx-{uuid.uuid4().hex[:8]}", "log_level": 0}
    )
    producer.init_transactions(30)
    yield producer
    assert producer.flush(30) == 0


@pytest.mark.quick
def test_producers_commit_and_abort_transactions(world: World, transactional: Producer) -> None:
    world.begin()
    for _ in range(2):
        world.start()
    for number in range(8):
        commits = number % 2 == 0 or world.chance.random() < 0.3
        events = world.chance.randrange(1, 40)
        if commits:
            world.load.rest()  # so that it draws no events at the same time
            sample = world.load.draw(events)
            write_raw(world.conn, sample)
            world.load.go_on()
        else:
            sample = drawn(world.chance, events, NEVER_HAPPENED + number * 1_000)
        transactional.begin_transaction()
        for key, value in world.load.messages(sample):
            transactional.produce(world.topic.name, value, key)
        assert transactional.flush(30) == 0  # in the log; nobody may read on before it is known what becomes of them
        world.wait(world.chance.uniform(0, 0.6))
        if commits:
            transactional.commit_transaction(30)
        else:
            transactional.abort_transaction(30)
    world.rest()
    ends = {partition: end for partition, (_, end) in world.topic.ranges().items()}  # markers are there, not messages
    world.until(lambda: world.offsets() == ends, f"offsets {ends}")
    world.go_on()
    world.settle()


def test_a_compacted_topic_has_holes(make_world: MakeWorld) -> None:
    world = make_world(
        3, cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.001, max_compaction_lag_ms=200
    )
    hurry_the_cleaner(world)
    sample = world.load.draw(800)
    prepare(world.conn, sample)
    producer = Producer({"bootstrap.servers": world.bootstrap, "log_level": 0})
    messages = list(world.load.messages(sample))
    for share in (1.0, 0.5, 0.5, 0.01):  # repeats have their first one's key: only the last one stays
        for number, (_, value) in enumerate(messages):
            if world.chance.random() < share:
                producer.produce(world.topic.name, value, b"%d" % number)
        assert producer.flush(30) == 0
        world.wait(0.3)  # a new segment begins; the last one is never compacted
    written = sum(end for _, end in world.topic.ranges().values())
    wait_for(lambda: len(world.topic.messages()) < written - len(messages) // 2, "holes in the topic", seconds=60)
    alter(world.topic.admin, ResourceType.TOPIC, world.topic.name, "cleanup.policy", "delete")
    for _ in range(2):
        world.start()
    world.settle()


def hurry_the_cleaner(world: World) -> None:
    """It looks every 15 s by default."""
    (broker,) = world.topic.admin.list_topics(timeout=10).brokers
    alter(world.topic.admin, ResourceType.BROKER, str(broker), "log.cleaner.backoff.ms", "200")


def alter(admin: AdminClient, kind: ResourceType, of: str, name: str, value: str) -> None:
    """Change one setting of the broker's."""
    resource = ConfigResource(kind, of)
    resource.add_incremental_config(ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET))
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
