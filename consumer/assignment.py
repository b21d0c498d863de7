"""The partitions of this member: from the group to where they are read, back after a conflict, and away.

Only here do Kafka and stored offsets meet. What is read follows what PostgreSQL says; before partitions are given away,
what was read from them is committed, or all that was read is abandoned. Used by the reading thread alone; Kafka's
callbacks come from within `source.read` and `source.close`.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import psycopg
import structlog

from consumer.flood import FloodWatch
from consumer.health import Health
from consumer.logs import KAFKA_LOGGER, Event
from consumer.metrics import Metrics
from consumer.offset_store import OffsetStore
from consumer.positions import Positions
from consumer.rollup.batch import Partition
from consumer.settings import Settings
from consumer.source import Source
from consumer.topics import Topics
from consumer.writer import Writer

log = structlog.get_logger()


class Assignment:
    """A member of the group and what it reads.

    Args:
        settings: of the consumer.
        connect: makes a connection for questions by key, so that no lock keeps the loop from turning.
        writer: gets what is read.
        metrics, health: told of partitions.

    Attributes:
        source: the Kafka consumer.
        topics: their ids.
        store: the stored offsets.
        positions: where each partition is read.
        flood: whether too many messages of a partition are bad.
        deadline: when the shutdown must be over, monotonic seconds; None while there is none.
    """

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[], psycopg.Connection],
        writer: Writer,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._shutdown_seconds = float(settings.shutdown_timeout_seconds)
        self._writer = writer
        self._metrics = metrics
        self._health = health
        names, logger = [t.topic for t in settings.kafka_topics], logging.getLogger(KAFKA_LOGGER)
        self.source = Source(
            settings.kafka_properties(),
            names,
            leaving=self._leaving,
            rebalanced=self._rebalanced,
            logger=logger,
        )
        self.topics = Topics(settings.kafka_properties(), names, logger)
        self.flood = FloodWatch(settings.dead_letter_limits)
        self.store = OffsetStore(
            connect,
            settings.kafka_group_id,
            settings.on_offset_gap == "reset",
            self.flood.limits.look_back,
            metrics,
            health,
        )
        self.positions = Positions(metrics)
        self.deadline: float | None = None
        self._mirrored: dict[Partition, int] = {}

    def follow(self) -> None:
        """Start what the group assigned, and go back to the stored offsets after a conflict. Call before each read."""
        if self._writer.conflicted:
            self._rewind()
        if self.source.pending:
            self._start_pending()

    def goes_on(self) -> bool:
        """Whether messages are known that were not read yet."""
        return any((self.source.end_offset(p) or 0) > self.positions.next[p] for p in self.source.owned)

    def log_ends(self, ended: Mapping[Partition, int], *, alone: bool) -> dict[Partition, int]:
        """Where logs end beyond the last message that was read, to be stored now.

        Args:
            ended: what the last read told.
            alone: whether it brought no messages, to go along with. They wait until the writer is idle then, so that
                they never pile up before it.
        """
        self.positions.log_ended(ended)
        return {} if alone and not self._writer.idle else self.positions.ends

    def report(self) -> None:
        """Lag, Kafka's copy of the offsets, and whether topics are still the ones that were read. Asks nobody."""
        self.positions.report_lag(self._writer.committed, self.source.end_offset)
        self.mirror()
        self.topics.serve_logs()
        if topic := self.topics.changed(self.store.topic_ids):
            # What was read since counts under the old log's offsets. Stored offsets no longer fit: starting says so, or
            # begins the new log, where events that were counted are duplicates.
            log.warning(Event.OFFSET_GAP, message=f"topic {topic} was deleted and made again", topic=topic)
            self._writer.abandon()
        self._health.kafka(self.topics.unanswered)
        self.source.renew_if_lost(brokers_answer=self.topics.unanswered is None)
        if self.source.is_member and not self._health.state.joined:  # the broker tells some of no assignment at all
            self._health.joined_group(len(self.source.owned))
        elif self.source.refused and self._health.state.joined:
            self._health.left_group()

    def mirror(self) -> None:
        """Tell Kafka what was committed since the last time, for lag tools."""
        committed = {p: o for p, o in self._writer.committed.items() if self._mirrored.get(p) != o}
        if committed:
            self.source.mirror(committed)
            self._mirrored.update(committed)

    def status(self) -> dict[str, object]:
        """Next offsets by partition, for /status; from any thread."""
        return {
            "positions": {str(p): offset for p, offset in self.positions.next.copy().items()},
            "committed": {str(p): offset for p, offset in self._writer.committed.items()},
        }

    def _start_pending(self) -> None:
        """Begin to read assigned partitions from their stored offsets."""
        known = self.store.topic_ids
        offsets = self.store.starts(self.topics, self.source.pending)
        if offsets is not None:
            if known not in ({}, self.store.topic_ids):
                self._writer.abandon()  # a topic was made again: those being read are looked at, too
            self.source.start(offsets)
            self._continue_at(offsets)
            log.info(Event.PARTITIONS_ASSIGNED, offsets={str(p): o for p, o in offsets.items()})

    def _rewind(self) -> None:
        """After a conflict: all partitions go on from where PostgreSQL says."""
        offsets = self.store.starts(self.topics, self.source.owned)
        if offsets is not None:
            self.source.restart(offsets)
            self._continue_at(offsets)
            self._writer.resume()

    def _continue_at(self, offsets: dict[Partition, int]) -> None:
        self._writer.forget(offsets)
        self.positions.start(offsets)
        self.flood.start(self.store.recent_letters)

    def _leaving(self, partitions: Sequence[Partition], lost: bool) -> None:
        """Before partitions go: commit what was read from them, or abandon all that was read."""
        seconds = self._shutdown_seconds
        if self.deadline is not None:
            seconds = self.deadline - time.monotonic()
        if lost or not self._writer.flush(max(0.0, seconds)):
            self._writer.abandon()
        self.mirror()
        self.positions.drop(partitions)

    def _rebalanced(self, kind: str, partitions: Sequence[Partition]) -> None:
        self._metrics.rebalances.labels(kind).inc()
        owned = len(self.source.owned | self.source.pending)
        self._metrics.assigned_partitions.set(owned)
        if kind == "lost":
            self._health.left_group()  # until it is assigned something again
        else:
            self._health.joined_group(owned)
        if kind != "assigned":
            word = Event.PARTITIONS_LOST if kind == "lost" else Event.PARTITIONS_REVOKED
            log.info(word, partitions=[str(p) for p in partitions])
