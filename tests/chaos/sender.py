"""A producer that delivers every message, however long Kafka is away."""

import time
from functools import partial

from confluent_kafka import KafkaError, Message, Producer

SILENT_SECONDS = 20.0
"""Without a delivery while messages wait, until another producer sends them."""
_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}


class Sender:
    """Sends to one topic; used by one thread at a time.

    Now and then a producer never sends again after its broker was away. Another one then sends what was not delivered,
    so that messages may be there twice.

    Attributes:
        refused: the errors of messages that Kafka did not take.
    """

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._producer = self._make()
        self._waiting: dict[int, tuple[bytes, bytes, int]] = {}
        self._sent = 0
        self._heard_at = time.monotonic()
        self.refused: list[KafkaError] = []

    def send(self, key: bytes, value: bytes, partition: int = -1) -> None:
        """Send a message soon, to a partition of its key if none is given."""
        if not self._waiting:
            self._heard_at = time.monotonic()
        self._waiting[self._sent] = (key, value, partition)
        self._produce(self._sent)
        self._sent += 1
        self._renew_if_silent()

    def flush(self, seconds: float) -> bool:
        """Whether every message was delivered within so many seconds."""
        deadline = time.monotonic() + seconds
        while self._waiting and time.monotonic() < deadline:
            self._producer.flush(0.5)
            self._renew_if_silent()
        return not self._waiting

    def _produce(self, number: int) -> None:
        key, value, partition = self._waiting[number]
        while True:
            try:
                self._producer.produce(self._topic, value, key, partition, on_delivery=partial(self._delivered, number))
            except BufferError:
                self._producer.poll(0.05)
            else:
                break
        self._producer.poll(0)

    def _delivered(self, number: int, error: KafkaError | None, _: Message) -> None:
        if error is not None and error.code() in _PURGED:
            return
        self._heard_at = time.monotonic()
        if self._waiting.pop(number, None) is not None and error is not None:
            self.refused.append(error)

    def _renew_if_silent(self) -> None:
        if not self._waiting or time.monotonic() - self._heard_at < SILENT_SECONDS:
            return
        self._producer.purge()
        self._producer.poll(0)
        self._producer = self._make()
        self._heard_at = time.monotonic()
        for number in list(self._waiting):
            self._produce(number)

    def _make(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # for ever: the broker may be away
                "topic.metadata.refresh.interval.ms": 1_000,  # partitions may be added
                "linger.ms": 5,
                "log_level": 0,
            }
        )
