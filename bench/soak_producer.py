"""The soak's producer, a process of its own.

`python -m bench.soak_producer TOPIC END_US EVENTS BACKLOG FILE` sends rounds of `bench.soak_traffic` and stays about
BACKLOG messages ahead of the stored offsets. After SIGUSR1 it sends as fast as it can. After SIGTERM it ends the round
it is in and tells in one line of JSON how many rounds and messages it sent; FILE has arrays about one message of each
slice: `partition` and `offset` as the broker reported them, `produced_ns` by the clock that all processes share.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from bench.soak_traffic import SLICE, Traffic, pool
from local.events import Workload

WAIT_SECONDS = 0.02
"""Between two looks at the stored offsets while the producer is far enough ahead."""

QUEUED = 100_000
"""Messages that may wait in the producer: enough to never wait for the broker, some 50 MB."""

FLUSH_SECONDS = 60.0
STORED = "SELECT coalesce(sum(next_offset), 0)::bigint FROM consumer_offsets WHERE topic = %s"


class Sender:
    """Sends slices, and notes when and where one message of each went."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.sent = 0
        self._slices = 0
        self._topic = topic
        self._marks: list[tuple[int, int, int]] = []
        # Idempotent: a message that librdkafka sends twice would count as a duplicate that nobody knows of.
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                "queue.buffering.max.messages": 4 * QUEUED,
            }
        )

    def send(self, slices: list[list[tuple[bytes, bytes]]]) -> None:
        """Hand over a slice: each partition's messages. Waits while too many are queued."""
        while len(self._producer) > QUEUED:
            self._producer.poll(0.02)
        now = time.monotonic_ns()
        filled = [partition for partition, messages in enumerate(slices) if messages]
        marked = filled[self._slices % len(filled)]
        self._slices += 1
        for partition, messages in enumerate(slices):
            batch: list[dict[str, object]] = [{"key": key, "value": value} for key, value in messages]
            if partition == marked:
                batch[-1]["callback"] = self._noting(now)
            taken = self._producer.produce_batch(self._topic, batch, partition=partition) if batch else 0
            if taken != len(batch):
                raise KafkaException(KafkaError(KafkaError._FAIL, f"only {taken} of {len(batch)} messages were taken"))
            self.sent += taken
        self._producer.poll(0)

    def finish(self, file: Path) -> None:
        """Wait until the broker has everything, and write the notes. Raises KafkaException."""
        left = self._producer.flush(FLUSH_SECONDS)
        if left:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} messages were not taken"))
        marks = np.array(self._marks, np.int64).reshape(-1, 3)
        np.savez(file, produced_ns=marks[:, 0], partition=marks[:, 1], offset=marks[:, 2])

    def _noting(self, produced_ns: int) -> Callable[[KafkaError | None, Message], None]:
        def delivered(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is None and partition is not None and offset is not None:
                self._marks.append((produced_ns, partition, offset))

        return delivered


def run(topic: str, workload: Workload, backlog: int, file: Path) -> dict[str, int]:
    """Send until SIGTERM; returns what was sent. Raises KafkaException, psycopg.Error."""
    hurried: list[int] = []  # signals that were received; from the first one on nobody is waited for
    signal.signal(signal.SIGUSR1, lambda number, _frame: hurried.append(number))
    signal.signal(signal.SIGTERM, lambda number, _frame: hurried.append(number))
    traffic = Traffic(pool(workload))
    sender = Sender(os.environ["KAFKA_BOOTSTRAP_SERVERS"], topic)
    rounds, stored = 0, 0
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name="soak producer") as conn:
        while signal.SIGTERM not in hurried:
            for start in range(0, traffic.events, SLICE):
                slices = traffic.messages(rounds, start)
                while not hurried and sender.sent - stored > backlog:
                    row = conn.execute(STORED, (topic,)).fetchone()
                    stored = int(row[0]) if row else 0
                    if sender.sent - stored > backlog:
                        time.sleep(WAIT_SECONDS)
                sender.send(slices)
            rounds += 1
    sender.finish(file)
    return {"rounds": rounds, "messages": sender.sent}


def main(words: list[str]) -> None:
    """The command."""
    topic, end_us, events, backlog, file = words
    print(json.dumps(run(topic, Workload(end_us=int(end_us), events=int(events)), int(backlog), Path(file))))


if __name__ == "__main__":
    main(sys.argv[1:])
