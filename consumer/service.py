"""The running consumer: builds the parts, turns the loop, and ends in order.

The loop reads, decodes and submits; the writer's thread commits; `consumer.assignment` keeps both at the stored
offsets. What passes by itself is waited for.
"""

import gc
import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import NoReturn

import psycopg
import structlog
from confluent_kafka import KafkaException, Message
from prometheus_client import CollectorRegistry

from consumer import database
from consumer.access import refused_by_database
from consumer.assembly import FIRST_READ, assemble, next_read
from consumer.assignment import Assignment
from consumer.errors import OffsetGapError
from consumer.flood import Excess, before, flood
from consumer.handlers import handler_for
from consumer.health import Health
from consumer.health_server import HealthServer
from consumer.logs import KAFKA_LOGGER, Event
from consumer.metrics import Metrics
from consumer.poll_cycle import Policy
from consumer.rollup.batch import Batch, Partition
from consumer.rollup.registry import REGISTRY
from consumer.rollup.store import Rules
from consumer.settings import Settings
from consumer.source import Read
from consumer.writer import Writer

log = structlog.get_logger()

IDLE_WAIT = 0.5
"""Seconds to wait for a message when there is none: how soon a signal is noticed, at two turns a second."""

CONTROL_TIMEOUT_SECONDS = 2
"""Longest statement of the loop's own connection: it reads some rows by key."""

COLLECT_AFTER = 500_000
"""Objects that must have piled up before Python looks for cycles: more than a turn of the loop makes and frees."""

LEAVE_SECONDS = 5.0
"""How long the group may take to let us go. Without an answer it does so when the session times out."""

PAUSE_AFTER = 1.0
"""Seconds without room before partitions are paused, so that polling can go on."""


class Service:
    """One consumer process. `run` returns at the end of an orderly stop; errors that need somebody are raised."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._stop_at: float | None = None
        self._metrics = Metrics(CollectorRegistry(), [t.topic for t in settings.kafka_topics])
        self._health = Health(time.monotonic(), 2 * settings.max_poll_interval_seconds)
        self._handlers = {t.topic: handler_for(t.handler, REGISTRY) for t in settings.kafka_topics}
        rules = Rules(settings.kafka_group_id, REGISTRY, settings.open_days)
        policy = Policy(settings.batch_max_events)
        self._writer = Writer(self._connect, rules, policy, self._metrics, self._health)
        self._assignment = Assignment(settings, self._connect_briefly, self._writer, self._metrics, self._health)
        self._source, self._store = self._assignment.source, self._assignment.store
        self._report_at = 0.0
        self._stale_at = 0.0

    def run(self) -> None:
        """Consume until SIGTERM or SIGINT.

        Raises:
            SchemaError, TopicError, AccessError, OffsetGapError, DeadLetterFlood, FencedError: somebody must act.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        server = HealthServer(
            self._settings.metrics_address,
            self._settings.metrics_port,
            self._metrics.registry,
            self._health,
            status=self._assignment.status,
        )
        server.start()
        log.info(Event.HTTP_LISTENING, address=self._settings.metrics_address, port=server.port)
        try:
            self._wait_until_ready()
            if not self._stop.is_set():
                self._writer.start()
                self._source.subscribe()
                log.info(Event.STARTED)
                self._loop()
        finally:
            self._shut_down()
            server.stop()

    @property
    def has_ended(self) -> bool:
        """False if a Kafka client still waits for its broker, after `run`: nothing depends on it."""
        return not self._source.closing

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stop.set()
        self._stop_at = time.monotonic()
        # A second signal ends the process at once; nothing is lost by that either.
        signal.signal(number, signal.SIG_DFL)

    def _wait_until_ready(self) -> None:
        """Until PostgreSQL has the right schema and Kafka the topics. Away is waited for, wrong is raised."""
        backoff, failures = database.Backoff(first=0.2), 0
        while not self._stop.is_set():
            self._health.tick(time.monotonic())
            try:
                self._store.check_schema()
                self._health.schema(None)
                # Briefly, since a signal is only noticed in between; the client goes on connecting meanwhile.
                self._assignment.topics.ids(timeout=2)
            except psycopg.Error as error:
                if refusal := refused_by_database(error):
                    raise refusal from error
                self._store.lost(error)
            except KafkaException as error:
                logging.getLogger(KAFKA_LOGGER).warning("no broker answers yet: %s", error)
                self._health.kafka(f"no broker answers yet: {error.args[0].str()}")
            else:
                self._health.kafka(None)
                self._health.mark_started()
                return
            self._source.serve_logs()
            self._assignment.topics.serve_logs()
            failures += 1
            self._stop.wait(backoff.delay(failures))

    def _loop(self) -> None:
        observe = self._metrics.observe_stage
        blocked_since: float | None = None
        # Messages are made and freed by the ten thousand, in no cycles: the collector would only walk them, a fifth of
        # the time it takes to read them. `messages` is kept until the next ones are there, so that their memory is used
        # again instead of going back to the kernel page by page, a third. docs/performance.md has the figures.
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        most = min(FIRST_READ, self._settings.fetch_max_events)
        gather = self._settings.batch_max_wait_ms / 1000
        while not self._stop.is_set():
            turn = time.monotonic()
            self._health.tick(turn)
            if self._writer.failure is not None:
                raise self._writer.failure
            self._assignment.follow()
            self._report(time.monotonic())  # `follow` may have waited for an answer
            # While paused, `read` does the waiting.
            if self._writer.conflicted or not self._writer.wait_for_room(0 if self._source.paused else 0.1):
                blocked_since = blocked_since or turn
                offsets_away = self._writer.conflicted or self._writer.database_away
                if offsets_away or turn - blocked_since > PAUSE_AFTER:
                    self._pause()
                    self._read(1, 0.1, 0)  # serves the group; fetches nothing
                    observe("paused", time.monotonic() - turn)
                    reason = "database" if offsets_away else "backpressure"
                    self._metrics.paused_seconds.labels(reason).inc(time.monotonic() - turn)
                else:
                    observe("backpressure", time.monotonic() - turn)
                continue
            blocked_since = None
            self._unpause()
            waited = time.monotonic()
            messages, ended, full = self._read(min(most, self._writer.limit), IDLE_WAIT, gather)
            read = time.monotonic()
            ends = self._assignment.log_ends(ended, alone=not messages)
            if not messages and not ends:
                observe("idle", read - waited)
                continue
            observe("poll", read - waited)
            batch = self._assemble(messages, ends)
            if excesses := self._assignment.flood.look(batch, messages):
                self._stop_before(excesses, messages)
            self._submit(batch, lagging=full)
            if messages:
                most = next_read(messages, self._settings.fetch_max_events)
            observe("decode", time.monotonic() - read)

    def _read(self, most: int, idle_wait: float, gather_wait: float) -> Read:
        try:
            return self._source.read(most, idle_wait, gather_wait)
        except OffsetGapError:
            if self._settings.on_offset_gap == "stop":
                raise
            self._writer.abandon()  # and start again from the stored offsets, where the gap is closed
            return Read([], {}, full=False)

    def _assemble(self, messages: Sequence[Message], ends: Mapping[Partition, int]) -> Batch:
        now_us, starts = time.time_ns() // 1000, self._assignment.positions.next
        return assemble(messages, starts, self._store.topic_ids, self._handlers, now_us, ends)

    def _stop_before(self, excesses: Sequence[Excess], messages: Sequence[Message]) -> NoReturn:
        """Too many messages are bad: what comes before is still written, and the process ends."""
        if good := before(messages, excesses):
            self._submit(self._assemble(good, {}), lagging=False)
        for excess in excesses:
            letter = excess.letter
            log.error(
                Event.TOO_MANY_DEAD_LETTERS,
                topic=letter.source.topic,
                partition=letter.source.partition,
                offset=letter.offset,
                limit=excess.limit,
                message=str(excess),
            )
        raise flood(excesses)

    def _submit(self, batch: Batch, *, lagging: bool) -> None:
        """Hand a batch to the writer. `lagging`: the read was full; if the log goes on, more will come at once."""
        self._assignment.positions.advance(batch)
        self._writer.submit(batch, lagging=lagging and self._assignment.goes_on())

    def _pause(self) -> None:
        if not self._source.paused:
            log.warning(Event.PAUSED)
            self._source.pause()

    def _unpause(self) -> None:
        if self._source.paused:
            log.info(Event.RESUMED)
            self._source.resume()

    def _connect(self) -> psycopg.Connection:
        return database.connect(
            self._settings.database_url,
            statement_timeout=self._settings.db_statement_timeout_seconds,
            application="reporting-rollup consumer",
        )

    def _connect_briefly(self) -> psycopg.Connection:
        """For the loop's own questions, so that no lock keeps it from turning."""
        return database.connect(
            self._settings.database_url,
            statement_timeout=min(CONTROL_TIMEOUT_SECONDS, self._settings.db_statement_timeout_seconds),
            application="reporting-rollup consumer, offsets",
        )

    def _report(self, now: float) -> None:
        """Once a second: lag, and Kafka's copy of the offsets."""
        if now < self._report_at:
            return
        self._report_at = now + 1.0
        self._assignment.report()
        if now >= self._stale_at:
            self._stale_at = now + 15.0
            self._store.count_stale_days()

    def _shut_down(self) -> None:
        """Within one deadline, from the signal on: the batch in hand, the group, the connections."""
        log.info(Event.STOPPING)
        self._health.mark_stopping()
        deadline = (self._stop_at or time.monotonic()) + self._settings.shutdown_timeout_seconds * 0.8
        self._assignment.deadline = deadline
        self._writer.flush(max(0.0, deadline - time.monotonic()))
        self._assignment.mirror()
        self._source.close(max(0.1, min(LEAVE_SECONDS, deadline - time.monotonic())))
        self._writer.stop(max(0.1, deadline - time.monotonic()))
        self._store.close()
        log.info(Event.STOPPED)
