"""What librdkafka and Python can read at most: the measure that the consumer's rate is compared with.

`python -m bench.consume_only TOPIC PARTITIONS MESSAGES` reads with the consumer's own librdkafka properties, from the
start of all partitions and without a group, and does nothing with what it reads. One line of JSON is its answer.
"""

import json
import sys
import time

from confluent_kafka import Consumer, TopicPartition

from bench.programs import answer_of
from bench.results import ConsumeOnly
from bench.workload import PARTITIONS, Ground
from consumer.settings import Settings

AT_ONCE = 20_000
"""Messages a call, as many as the consumer takes at once by default."""

SILENCE_SECONDS = 30.0


def read(topic: str, partitions: int, messages: int) -> ConsumeOnly:
    """Read so many messages. Raises `TimeoutError` when none came for half a minute, `RuntimeError` for an error."""
    consumer = Consumer(Settings.load().kafka_properties() | {"enable.partition.eof": "false"})  # messages alone count
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
        count, began, began_cpu = 0, 0.0, 0.0
        while count < messages:
            # The first one alone, since the clock starts with it; never more than there are, to not wait at the end.
            got = consumer.consume(min(AT_ONCE, messages - count) if count else 1, SILENCE_SECONDS)
            if not got:
                raise TimeoutError(f"{topic}: no message for {SILENCE_SECONDS:.0f} s after {count} of {messages}")
            if error := next((m.error() for m in got if m.error()), None):
                raise RuntimeError(f"{topic}: {error.str()}")
            if not count:
                began, began_cpu = time.monotonic(), time.process_time()
            count += len(got)
        seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
    finally:
        consumer.close()
    return ConsumeOnly(count, seconds, (count - 1) / seconds, cpu)


def measure(ground: Ground, number: str) -> ConsumeOnly:
    """Run it over the ground's topic in a process of its own; `number` names its log."""
    environment = ground.environment(ground.topic, "bench-consume-only")
    words = (ground.topic, str(PARTITIONS), str(ground.workload.events))
    log = ground.folder / f"consume-only-{number}.log"
    answer = answer_of("bench.consume_only", *words, log=log, environment=environment, seconds=600)
    return ConsumeOnly(**answer)


def main(words: list[str]) -> None:
    """The command."""
    topic, partitions, messages = words
    found = read(topic, int(partitions), int(messages))
    print(json.dumps({name: getattr(found, name) for name in found.__slots__}))


if __name__ == "__main__":
    main(sys.argv[1:])
