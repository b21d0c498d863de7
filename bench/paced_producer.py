"""A producer that keeps a steady rate and notes when it handed over each message, in a process of its own.

`python -m bench.paced_producer TOPIC RATE MESSAGES FIRST_ID FILE` writes arrays to FILE: `partition` and `offset` as
the broker reported them, `produced_ns` by the monotonic clock, which is one for all processes of a machine, and
`acknowledged_ms`, the time from then to the broker's answer by librdkafka's own count.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from local.events import Workload, generate

TICK_SECONDS = 0.002
"""Between two looks at the clock; each sends the few messages that are due."""


def run(bootstrap: str, topic: str, rate: float, messages: int, first_id: int, file: Path) -> float:
    """Send `messages` at `rate` a second; returns the rate that was kept. Raises KafkaException."""
    now_us = time.time_ns() // 1000
    sample = generate(Workload(end_us=now_us, events=messages, hours=messages / rate / 3600, first_id=first_id, seed=2))
    ready = list(sample.messages())
    partition, offset = np.full(messages, -1, np.int32), np.full(messages, -1, np.int64)
    produced_ns, acknowledged_ms = np.zeros(messages, np.int64), np.zeros(messages)
    errors: list[KafkaError] = []

    def noting(at: int) -> Callable[[KafkaError | None, Message], None]:
        def delivered(error: KafkaError | None, message: Message) -> None:
            where, place = message.partition(), message.offset()
            if error is not None or where is None or place is None:
                errors.append(error or KafkaError(KafkaError._FAIL, "a delivery report without partition and offset"))
            else:
                partition[at], offset[at], acknowledged_ms[at] = where, place, (message.latency() or 0.0) * 1e3

        return delivered

    # As an application that cares: all defaults but compression and the partitioner of Java clients.
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "lz4", "partitioner": "murmur2_random"})
    producer.list_topics(topic, timeout=10)  # connected before the clock starts
    began = time.monotonic()
    for at, (key, value) in enumerate(ready):
        due = began + at / rate
        while time.monotonic() < due:
            producer.poll(0)
            time.sleep(TICK_SECONDS)
        produced_ns[at] = time.monotonic_ns()
        producer.produce(topic, value, key, on_delivery=noting(at))
    kept = messages / (time.monotonic() - began)
    producer.flush(30)
    if errors or (offset < 0).any():
        raise KafkaException(errors[0] if errors else KafkaError(KafkaError._TIMED_OUT, "not all messages were taken"))
    np.savez(file, partition=partition, offset=offset, produced_ns=produced_ns, acknowledged_ms=acknowledged_ms)
    return kept


def main(words: list[str]) -> None:
    """The command."""
    topic, rate, messages, first_id, file = words
    bootstrap = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    kept = run(bootstrap, topic, float(rate), int(messages), int(first_id), Path(file))
    print(json.dumps({"per_second": kept}))


if __name__ == "__main__":
    main(sys.argv[1:])
