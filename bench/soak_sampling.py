"""Looks at a consumer, its tables and its topic from outside, about once a second; at its stored offsets more often."""

import time

import numpy as np
import psutil
from confluent_kafka import Consumer, TopicPartition
from psycopg import sql

from bench.programs import BenchError, RunningConsumer
from bench.results import Int64Array, first_seen
from bench.soak_results import Arrival, Bloat, Phase, Sample, TableLook
from bench.usage import peak_memory
from bench.workload import PARTITIONS, WRITTEN, Ground

LOOK_SECONDS = 0.05
"""Between two looks at the stored offsets: latencies are up to this much too high."""

RARELY = 5
"""Every so many samples also look at tables and at the consumer's metrics, which cost more than a system call."""

SILENCE_SECONDS = 120.0
"""Without a commit; a busy machine's checkpoint may take a minute."""

OFFSETS = "SELECT partition, next_offset, messages FROM consumer_offsets WHERE topic = %s"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'reporting-rollup consumer%'"
TABLES = """
    SELECT relname, pg_table_size(relid), pg_indexes_size(relid), n_live_tup, n_dead_tup, autovacuum_count
    FROM pg_stat_user_tables WHERE relname = ANY(%s)
"""
SIZES = "SELECT pg_table_size(%s::regclass), pg_indexes_size(%s::regclass)"


class Sampler:
    """Keeps what it sees until the run is over.

    `every` is the time between two samples in seconds.
    """

    def __init__(self, ground: Ground, running: RunningConsumer, every: float) -> None:
        self.samples: list[Sample] = []
        self.tables: list[TableLook] = []
        self._ground, self._running, self._every = ground, running, every
        self._process = psutil.Process(running.pid)
        self._broker = Consumer(
            {"bootstrap.servers": ground.services.kafka_bootstrap, "group.id": "soak-watermarks", "log_level": 0}
        )
        self._looked_ns: list[int] = []
        self._next: list[list[int]] = []
        self._began_ns = time.monotonic_ns()
        self._progress = (0, time.monotonic())
        self._due = 0.0
        self._number = 0

    def watch(self, phase: Phase, seconds: float) -> None:
        """Look on for so long. Raises `BenchError` when the consumer ends, or commits nothing."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self._look(phase)
            time.sleep(LOOK_SECONDS)

    def watch_until_committed(self) -> None:
        """Look on until all that is in the topic is committed; nobody may send meanwhile."""
        while self._look("catch up") or self._sample("catch up").backlog:
            time.sleep(LOOK_SECONDS)

    def backlog(self) -> int:
        """Messages in the topic that are not committed, as of the last sample."""
        return self.samples[-1].backlog if self.samples else 0

    def in_topic(self) -> int:
        """Messages that the topic ever had."""
        return sum(high for _, high in self._watermarks())

    def arrivals(
        self,
        partition: Int64Array,
        offset: Int64Array,
        produced_ns: Int64Array,
    ) -> list[Arrival]:
        """The latency of messages that the producer noted, in the order of their sending."""
        looked, seen = np.array(self._looked_ns), np.array(self._next)
        found = []
        for number in range(PARTITIONS):
            here = partition == number
            visible = first_seen(offset[here], looked, seen[:, number])
            for sent, then in zip(produced_ns[here].tolist(), visible.tolist(), strict=True):
                found.append(Arrival((sent - self._began_ns) / 1e9, (then - sent) / 1e6))
        return sorted(found, key=lambda arrival: arrival.at)

    def _look(self, phase: Phase) -> bool:
        """Look at the offsets, and take a sample when it is time; whether there is a backlog by the last sample."""
        offsets, messages = [0] * PARTITIONS, 0
        for partition, offset, counted in self._ground.conn.execute(OFFSETS, (self._ground.topic,)).fetchall():
            offsets[partition] = offset
            messages += counted
        now = time.monotonic()
        self._looked_ns.append(time.monotonic_ns())
        self._next.append(offsets)
        if messages != self._progress[0] or not self.backlog():
            self._progress = messages, now
        elif now - self._progress[1] > SILENCE_SECONDS:
            raise BenchError(f"the consumer committed nothing for {SILENCE_SECONDS:.0f} s after {messages} messages")
        if now >= self._due:
            self._due = now + self._every
            self._running.check()
            self._sample(phase)
        return self.backlog() > 0

    def _sample(self, phase: Phase) -> Sample:
        conn, marks = self._ground.conn, self._watermarks()
        row = conn.execute(SESSIONS).fetchone()
        at = (time.monotonic_ns() - self._began_ns) / 1e9
        rarely = self._number % RARELY == 0
        with self._process.oneshot():
            found = Sample(
                at=at,
                phase=phase,
                rss=self._process.memory_info().rss,
                peak=peak_memory(self._running.pid) or 0,
                threads=self._process.num_threads(),
                files=self._process.num_fds(),
                connections=int(row[0]) if row else 0,
                messages=self._progress[0],
                backlog=sum(high for _, high in marks) - sum(self._next[-1]),
                kept=sum(high - low for low, high in marks),
                transactions=self._transactions() if rarely else None,
            )
        self._number += 1
        self.samples.append(found)
        if rarely:
            self.tables += [TableLook(at, *row) for row in conn.execute(TABLES, (list(WRITTEN),)).fetchall()]
        return found

    def _transactions(self) -> tuple[int, float]:
        metrics = self._running.metrics()
        return int(metrics["batch_duration_seconds_count",]), metrics["batch_duration_seconds_sum",]

    def _watermarks(self) -> list[tuple[int, int]]:
        found = []
        for partition in range(PARTITIONS):
            marks = self._broker.get_watermark_offsets(TopicPartition(self._ground.topic, partition), timeout=30)
            if marks is None:
                raise BenchError("Kafka did not tell how long the topic is within 30 s")
            found.append((int(marks[0]), int(marks[1])))
        return found


def bloat(ground: Ground) -> list[Bloat]:
    """Each written table's size as it is, and after VACUUM FULL; nobody may use the tables meanwhile."""
    found = []
    for table in WRITTEN:
        before = ground.conn.execute(SIZES, (table, table)).fetchall()[0]
        ground.conn.execute(sql.SQL("VACUUM (FULL) {}").format(sql.Identifier(table)))
        after = ground.conn.execute(SIZES, (table, table)).fetchall()[0]
        rows = ground.conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchall()[0][0]
        found.append(Bloat(table, rows, *before, *after))
    return found
