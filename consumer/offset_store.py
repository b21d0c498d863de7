"""The reader's own view of PostgreSQL: from which stored offsets partitions start, and whether these fit the topics.

What passes by itself (the database or the broker away) yields None, to be asked again; what does not is raised.
"""

import logging
import time
from collections.abc import Callable

import psycopg
import structlog
from confluent_kafka import KafkaException

from consumer import database
from consumer.dead_letters.recent import recent_letters
from consumer.errors import OffsetGapError, TopicMadeAgain
from consumer.flood import Recent
from consumer.health import Health
from consumer.logs import KAFKA_LOGGER, Event
from consumer.metrics import Metrics
from consumer.rollup.batch import Partition
from consumer.rollup.offsets import Stored, adopt_partitions, gap, reset_offset, stored_offsets
from consumer.rollup.schema import check_schema, check_zones
from consumer.rollup.statements import STATEMENTS
from consumer.topics import Topics

log = structlog.get_logger()

RETRIES = database.Backoff(first=0.5)
"""Between two questions for stored offsets while somebody does not answer."""

ANSWER_SECONDS = 4.0
"""How long a broker may take to answer; the loop stands still meanwhile, and notices no signal."""

ADVICE = "Rebuild the days of the missing events: python -m backfill --account A --date D"


class OffsetStore:
    """Stored offsets, read on a connection that is made again when it breaks.

    Args:
        connect: makes a connection; may raise psycopg.OperationalError.
        group_id: whose offsets.
        resets: whether to go on from the log's start where a stored offset is gone (ON_OFFSET_GAP=reset).
        letters_before: how many offsets before a partition's start to look for dead letters.
        metrics, health: told of gaps, stale days and whether the database answers.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection],
        group_id: str,
        resets: bool,
        letters_before: int,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._connect = connect
        self._group_id = group_id
        self._resets = resets
        self._letters_before = letters_before
        self._metrics = metrics
        self._health = health
        self._conn: psycopg.Connection | None = None
        self._retry_at = 0.0
        self._failures = 0
        self._away = False
        self.topic_ids: dict[str, str] = {}
        """Topic ids as of the last answer."""
        self.recent_letters: dict[Partition, list[Recent]] = {}
        """The dead letters just before the starts of the last answer."""

    def check_schema(self) -> None:
        """Raises SchemaError, or psycopg.Error when the database is away."""
        conn = self._connected()
        check_schema(conn)
        check_zones(conn)
        self._answered()

    def starts(self, topics: Topics, partitions: set[Partition]) -> dict[Partition, int] | None:
        """The next offsets of partitions, checked against their topics; None if that can't be known now. Partitions
        that the group has never read are adopted at their log's start. Blocks for some seconds at the most.

        Raises:
            OffsetGapError: a stored offset does not fit, and we may not reset it.
            TopicError: a topic is gone.
        """
        now = time.monotonic()
        if now < self._retry_at:
            return None
        try:
            conn = self._connected()
            stored = stored_offsets(conn, self._group_id, partitions)
            # Asked afterwards, so that the log's end is not older than what another member may just have stored.
            topic_ids = topics.ids(ANSWER_SECONDS)
            logs = topics.log_ranges(partitions, ANSWER_SECONDS)
            firsts = {p: Stored(topic_ids[p.topic], low) for p, (low, _) in logs.items()}
            for partition in stored:
                problem = gap(partition, stored[partition], topic_ids[partition.topic], *logs[partition])
                if problem and stored_offsets(conn, self._group_id, [partition]) == {partition: stored[partition]}:
                    self._close_gap(conn, partition, stored[partition], firsts[partition], problem)
                if problem:
                    return None
            adopt_partitions(conn, self._group_id, {p: firsts[p] for p in partitions - stored.keys()})
            stored |= stored_offsets(conn, self._group_id, partitions - stored.keys())
            self.recent_letters = recent_letters(conn, self._group_id, stored, self._letters_before)
        except psycopg.Error as error:
            self.lost(error)
        except KafkaException as error:
            logging.getLogger(KAFKA_LOGGER).warning("cannot ask the broker for offsets: %s", error)
        else:
            self._failures = 0
            self._answered()
            self.topic_ids = topic_ids
            return {p: row.next for p, row in stored.items()}
        self._failures += 1
        self._retry_at = time.monotonic() + RETRIES.delay(self._failures)
        return None

    def count_stale_days(self) -> None:
        """For the metric; and so that a database that is away is noticed when there is nothing to write, too."""
        try:
            row = self._connected().execute(STATEMENTS["count_stale_days"]).fetchone()
        except psycopg.errors.QueryCanceled:
            return  # it counts whole tables: too slow for now, but the database is there
        except psycopg.Error as error:
            self.lost(error)
            return
        self._answered()
        if row is not None:
            self._metrics.stale_days.set(row[0])

    def close(self) -> None:
        """Close the connection."""
        if self._conn is not None:
            self._conn.close()

    def lost(self, error: psycopg.Error) -> None:
        """Tell that the database is away, once; what does not pass by itself is raised again."""
        if not database.is_transient(error):
            raise error
        message = database.one_line(error)
        if not self._away:
            log.warning(Event.DATABASE_LOST, message=message)
        self._away = True
        self._health.database(message)
        self._metrics.db_up.set(0)

    def _answered(self) -> None:
        if self._away:
            log.info(Event.DATABASE_BACK)
        self._away = False
        self._health.database(None)
        self._metrics.db_up.set(1)

    def _connected(self) -> psycopg.Connection:
        if self._conn is not None and (not database.is_usable(self._conn) or database.is_read_only(self._conn)):
            self._conn.close()
        if self._conn is None or self._conn.closed:
            self._conn = self._connect()
        if database.is_read_only(self._conn):
            raise psycopg.errors.ReadOnlySqlTransaction("the database is read-only: a standby, or made so")
        return self._conn

    def _close_gap(
        self, conn: psycopg.Connection, partition: Partition, stored: Stored, first: Stored, problem: str
    ) -> None:
        if not self._resets:
            error = OffsetGapError if stored.topic_id == first.topic_id else TopicMadeAgain
            raise error(
                f"{problem}. Nothing was skipped. To go on from offset {first.next}, set ON_OFFSET_GAP=reset. {ADVICE}"
            )
        if reset_offset(conn, self._group_id, partition, stored, first):
            self._metrics.offset_gaps.inc()
            log.warning(Event.OFFSET_GAP, message=f"{problem}. Going on from offset {first.next}. {ADVICE}")
