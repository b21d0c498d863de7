"""Where each partition is read, and how far behind commits are: plain bookkeeping of the reader, no Kafka, no database.

All offsets are the next to read.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from consumer.metrics import Metrics
from consumer.rollup.batch import Batch, Partition


class Positions:
    """The partitions that are being read.

    Args:
        metrics: told of messages consumed and of lag.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.next: dict[Partition, int] = {}
        """The next offset to read."""
        self._started: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        # What is not committed yet: (first offset, next offset, broker timestamp in µs of the oldest message).
        self._unread: dict[Partition, deque[tuple[int, int, int]]] = {}

    def start(self, offsets: Mapping[Partition, int]) -> None:
        """Partitions begin here, or begin again."""
        for partition, offset in offsets.items():
            self.next[partition] = self._started[partition] = offset
            self._unread[partition] = deque()
            self._ends.pop(partition, None)
        self._metrics.add_partitions(offsets)

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Partitions went to another member."""
        for partition in partitions:
            self.next.pop(partition, None)
            self._unread.pop(partition, None)
            self._ends.pop(partition, None)
            self._metrics.remove_partitions([partition])

    def advance(self, batch: Batch) -> None:
        """A batch was read, and waits for its commit."""
        for span in batch.spans:
            self.next[span.source] = span.next
            self._metrics.messages_consumed.labels(span.source.topic).inc(span.messages)
            if span.oldest_us is not None:
                self._unread[span.source].append((span.start, span.next, span.oldest_us))

    def log_ended(self, ends: Mapping[Partition, int]) -> None:
        """Partitions were read up to here, be it that no message lies right before."""
        self._ends |= ends

    @property
    def ends(self) -> dict[Partition, int]:
        """Where logs ended beyond the next offset to read: between the two there is no message."""
        return {p: end for p, end in self._ends.items() if end > self.next[p]}

    def report_lag(self, committed: Mapping[Partition, int], end_of: Callable[[Partition], int | None]) -> None:
        """Set the lag of every partition whose log's end is known.

        Args:
            committed: the writer's offsets; a partition it has not committed yet is where it started.
            end_of: the next offset to be written to a partition.
        """
        for partition, position in self.next.items():
            unread = self._unread[partition]
            done = max(committed.get(partition, 0), self._started[partition])
            while unread and unread[0][1] <= done:
                unread.popleft()
            end = end_of(partition)
            if end is None:
                continue
            labels = (partition.topic, str(partition.partition))
            behind = end - (unread[0][0] if unread else position)
            age = time.time() - unread[0][2] / 1e6 if unread else 0.0
            self._metrics.consumer_lag_messages.labels(*labels).set(max(0, behind))
            self._metrics.consumer_lag_seconds.labels(*labels).set(max(0.0, age))
