"""At a steady rate: how long from produce to visible in PostgreSQL; and what the consumer costs then, and when idle."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from bench.programs import BenchError, RunningConsumer, consumer, python
from bench.results import Idle, Steady, first_seen, percentile
from bench.usage import process_seconds
from bench.workload import PARTITIONS, Ground
from local.processes import Process, tail

LOOK_SECONDS = 0.002
SETTLE_SECONDS = 1.0
SILENCE_SECONDS = 30.0

GROUP = "bench-steady"
NEXT = "SELECT partition, next_offset FROM consumer_offsets WHERE group_id = %s"


class Looks:
    """When we looked at the stored offsets, and what they were."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._at: list[int] = []
        self._next: list[list[int]] = []

    def look(self) -> list[int]:
        """The next offset of each partition; noted with the time at which the answer was here."""
        offsets = [0] * PARTITIONS
        for partition, offset in self._ground.conn.execute(NEXT, (GROUP,)).fetchall():
            offsets[partition] = offset
        self._at.append(time.monotonic_ns())
        self._next.append(offsets)
        return offsets

    @property
    def pause_ms(self) -> float:
        """The median time between two looks."""
        return float(np.median(np.diff(self._at))) / 1e6

    def latency_ms(
        self, partition: npt.NDArray[np.int32], offset: npt.NDArray[np.int64], produced_ns: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Milliseconds from each message's produce to the first look that saw it committed."""
        at, seen = np.array(self._at), np.array(self._next)
        latency = np.zeros(len(offset))
        for number in range(PARTITIONS):
            here = partition == number
            latency[here] = (first_seen(offset[here], at, seen[:, number]) - produced_ns[here]) / 1e6
        return latency


@contextmanager
def caught_up_consumer(ground: Ground) -> Iterator[RunningConsumer]:
    """A consumer of the steady topic that has its partitions, and nothing to read yet."""
    environment = ground.environment(ground.steady_topic, GROUP)
    with consumer(ground.folder / "consumer-steady.log", environment) as running:
        running.assigned_at()
        yield running
        running.stop()


def measure_steady(ground: Ground, running: RunningConsumer, rate: float, warm_up: float, seconds: float) -> Steady:
    """Produce at `rate` a second for `warm_up` and then `seconds`, and watch the messages of the latter arrive.

    Raises:
        BenchError: the producer failed, or messages did not arrive.
    """
    messages, file = round(rate * (warm_up + seconds)), ground.folder / "produced.npz"
    log = ground.folder / "paced-producer.log"
    words = (ground.steady_topic, str(rate), str(messages), str(ground.workload.events + 1), file)
    looks = Looks(ground)
    environment = ground.environment(ground.steady_topic, GROUP)
    with python("bench.paced_producer", *words, log=log, environment=environment) as producer:
        percent = _watch_producer(looks, producer, running, warm_up)
    if not file.exists():
        raise BenchError(f"the producer failed. The end of its output:\n{tail(log)}")
    with np.load(file) as produced:
        partition, offset, produced_ns = produced["partition"], produced["offset"], produced["produced_ns"]
        measured = produced_ns >= produced_ns[0] + warm_up * 1e9
        acknowledged = produced["acknowledged_ms"][measured]
    _watch_until_last(looks, running, [int(offset[partition == p].max(initial=-1)) + 1 for p in range(PARTITIONS)])
    latency = looks.latency_ms(partition[measured], offset[measured], produced_ns[measured])
    return Steady(
        per_second=float(json.loads(log.read_text().splitlines()[-1])["per_second"]),
        warm_up_seconds=warm_up,
        seconds=float(np.ptp(produced_ns[measured])) / 1e9,
        messages=len(latency),
        p50_ms=percentile(latency, 50),
        p90_ms=percentile(latency, 90),
        p99_ms=percentile(latency, 99),
        max_ms=float(latency.max()),
        acknowledged_p50_ms=percentile(acknowledged, 50),
        acknowledged_p99_ms=percentile(acknowledged, 99),
        look_ms=looks.pause_ms,
        consumer_core_percent=percent,
    )


def measure_idle(running: RunningConsumer, seconds: float) -> Idle:
    """What a consumer uses that has nothing to do, a second after it had."""
    time.sleep(SETTLE_SECONDS)
    began_cpu, began = process_seconds(running.pid), time.monotonic()
    time.sleep(seconds)
    running.check()
    took = time.monotonic() - began
    return Idle(took, 100 * (process_seconds(running.pid) - began_cpu) / took)


def _watch_producer(looks: Looks, producer: Process, running: RunningConsumer, warm_up: float) -> float:
    """Look until the producer ends; the consumer's CPU use after the warm-up, which starts with the first arrival."""
    arrived: float | None = None
    began: tuple[float, float] | None = None
    while producer.running:
        running.check()
        any_yet, now = any(looks.look()), time.monotonic()
        if any_yet and arrived is None:
            arrived = now
        if began is None and arrived is not None and now >= arrived + warm_up:
            began = process_seconds(running.pid), now
        time.sleep(LOOK_SECONDS)
    if began is None:
        return float("nan")  # the producer failed, which its file tells
    return 100 * (process_seconds(running.pid) - began[0]) / (time.monotonic() - began[1])


def _watch_until_last(looks: Looks, running: RunningConsumer, ends: list[int]) -> None:
    deadline = time.monotonic() + SILENCE_SECONDS
    while any(seen < end for seen, end in zip(looks.look(), ends, strict=True)):
        running.check()
        if time.monotonic() > deadline:
            raise BenchError(f"not all messages were committed {SILENCE_SECONDS:.0f} s after the last was produced")
        time.sleep(LOOK_SECONDS)
