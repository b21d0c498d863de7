"""The life of a Kafka client: it is made, may lose its brokers for ever, and is closed in a time that is known."""

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException

from consumer.errors import ConfigurationError
from consumer.kafka_properties import variable_of

SILENT_SECONDS, LOOK_SECONDS, MOST_LOOKS = 10.0, 4.0, 5
"""Without a message for so long, look so often whether the client knows a broker; without one so many times in a row,
it has lost them. That is longer than it pauses between attempts to connect (`reconnect.backoff.max.ms`: 10 s)."""


def make_consumer(properties: Mapping[str, str | int], logger: Any) -> Consumer:
    """A client that has not joined its group. Raises ConfigurationError for a property that librdkafka refuses."""
    try:
        return Consumer(dict(properties), logger=logger)
    except KafkaException as error:
        said = error.args[0].str().strip()
        named = re.search(r"[\"`]([a-z0-9]+(?:\.[a-z0-9]+)+)[\"`]", said)
        raise ConfigurationError(
            f"{variable_of(named[1]) if named else 'a KAFKA_ variable'} is wrong: {said}"
        ) from error


class Watch:
    """Notices that a client has lost its brokers, while others find them.

    A broker that comes back before its controller knows of it tells of no brokers at all, in answer to a question for
    metadata. librdkafka then forgets those it knew (2.10 to 2.16, issue 5301). By default it goes back to its bootstrap
    servers, except when its threads end in an unlucky order; with `metadata.recovery.strategy=none` it never does. Then
    it stays alive, tells of no error, and never reads again.
    """

    def __init__(self) -> None:
        self.message_at = 0.0
        """When the last message came, monotonic seconds."""
        self._looked_at = 0.0
        self._looks_in_vain = 0

    def is_lost(self, client: Consumer, topic: str, *, brokers_answer: bool) -> bool:
        """Whether it is lost, once; to be asked every second or so. Asks nobody."""
        now = time.monotonic()
        if now - self.message_at < SILENT_SECONDS or not brokers_answer:
            self._looks_in_vain = 0
        elif now - self._looked_at > LOOK_SECONDS:
            self._looked_at = now
            self._looks_in_vain = 0 if _knows_a_broker(client, topic) else self._looks_in_vain + 1
        lost = self._looks_in_vain == MOST_LOOKS
        if lost:
            self._looks_in_vain = 0
        return lost


def _knows_a_broker(client: Consumer, topic: str) -> bool:
    try:
        client.list_topics(topic, timeout=0.001)
    except KafkaException as error:
        return bool(error.args[0].code() != KafkaError._TRANSPORT)  # a question that was sent times out instead
    return True


class Closer:
    """Closes clients without waiting longer than one wants: a client waits for its coordinator to take its leave from
    the group, for minutes if that one is away, whatever its timeouts are."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    @property
    def busy(self) -> bool:
        """Whether a client has not closed yet."""
        return any(thread.is_alive() for thread in self._threads)

    def close(self, client: Consumer, seconds: float) -> bool:
        """Close it in a thread of its own, which also calls the client's callbacks, and wait for that for so long;
        whether it is done."""
        thread = threading.Thread(target=client.close, name="closes a Kafka client", daemon=True)
        thread.start()
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.join(seconds)
        return not thread.is_alive()
