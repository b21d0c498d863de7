"""What stands in a topic, read by a plain client that knows nothing of the product."""

from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from tests.fixtures.processes import wait_for

WAIT_SECONDS = 30.0


class Position(NamedTuple):
    """Where a message stands; a topic that is made again has another id."""

    topic_id: str
    partition: int
    offset: int


class Topic:
    """A topic, looked at and changed by an administrator.

    Args:
        bootstrap: the broker.
        name: of the topic.
    """

    def __init__(self, bootstrap: str, name: str) -> None:
        self.name = name
        self._bootstrap = bootstrap
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def make(self, partitions: int) -> None:
        """Create it, and wait until its partitions have a leader."""
        self.admin.create_topics([NewTopic(self.name, partitions, 1)])[self.name].result(WAIT_SECONDS)
        wait_for(lambda: self._led() == partitions, f"leaders of {partitions} partitions")

    def grow(self, partitions: int) -> None:
        """Add partitions, up to so many, and wait until they have a leader."""
        self.admin.create_partitions([NewPartitions(self.name, partitions)])[self.name].result(WAIT_SECONDS)
        wait_for(lambda: self._led() == partitions, f"leaders of {partitions} partitions")

    def delete(self) -> None:
        """Delete it, and wait until it has gone."""
        self.admin.delete_topics([self.name])[self.name].result(WAIT_SECONDS)
        wait_for(lambda: self.name not in self.admin.list_topics(timeout=10).topics, "the topic to go")

    def delete_before(self, offsets: dict[int, int]) -> None:
        """Delete each partition's messages before an offset, as retention would."""
        asked = [TopicPartition(self.name, partition, offset) for partition, offset in offsets.items()]
        for deleted in self.admin.delete_records(asked).values():
            deleted.result(WAIT_SECONDS)

    def id(self) -> str:
        """Its id, as the product stores it."""
        described = self.admin.describe_topics(TopicCollection([self.name]), request_timeout=WAIT_SECONDS)
        return str(described[self.name].result().topic_id)

    def ranges(self) -> dict[int, tuple[int, int]]:
        """By partition: the first offset, and the next one to be written."""
        reader = self._reader()
        try:
            partitions = reader.list_topics(self.name, timeout=WAIT_SECONDS).topics[self.name].partitions
            return {
                p: reader.get_watermark_offsets(TopicPartition(self.name, p), timeout=WAIT_SECONDS) for p in partitions
            }
        finally:
            reader.close()

    def messages(self) -> dict[Position, bytes | None]:
        """Every message that a reader may see, by its position."""
        topic_id = self.id()
        reader = self._reader()
        found: dict[Position, bytes | None] = {}
        try:
            partitions = reader.list_topics(self.name, timeout=WAIT_SECONDS).topics[self.name].partitions
            reader.assign([TopicPartition(self.name, p, 0) for p in partitions])
            ended: set[int] = set()
            while len(ended) < len(partitions):
                message = reader.poll(WAIT_SECONDS)
                assert message is not None, f"{self.name} cannot be read to its end"
                partition, offset, error = message.partition() or 0, message.offset() or 0, message.error()
                if error is None:
                    value = message.value()
                    found[Position(topic_id, partition, offset)] = value.encode() if isinstance(value, str) else value
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(partition)
                else:
                    raise KafkaException(error)
        finally:
            reader.close()
        return found

    def _reader(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "none",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )

    def _led(self) -> int:
        found = self.admin.list_topics(self.name, timeout=10).topics[self.name]
        return sum(p.leader >= 0 for p in found.partitions.values())
