"""The thread that writes: takes the batches that gathered, and commits them one transaction at a time.

The reader submits and goes on reading; PostgreSQL works on one batch while the next gathers. What passes by itself (the
database away, a lock timeout) is waited for here with back-off, batch in hand. What does not is handed to the reader:
`conflicted` (stored offsets moved, or a batch was too large: start from the stored offsets again and `resume`) and
`failure` (an error that ends the process).
"""

import threading
import time
from collections.abc import Callable, Iterable

import psycopg
import structlog

from consumer.commit_report import report_commit
from consumer.database import Backoff, end_silent_sessions, is_transient, is_usable
from consumer.errors import OffsetConflict, SettingsChanged
from consumer.health import Health
from consumer.logs import Event
from consumer.metrics import Metrics
from consumer.poll_cycle import Gathering, Policy
from consumer.rollup.accounts import AccountZones
from consumer.rollup.batch import Batch, Partition
from consumer.rollup.store import Rules, Written, account_zones, prepare, write

log = structlog.get_logger()

HALVE_AFTER = 3
"""Attempts that took longer than a statement may, or ended with the connection, until a batch is given up for smaller
ones. The first ones may have waited for somebody's lock."""
LONG_SECONDS = 1.0
"""A connection that ends sooner says nothing about the batch."""


class Writer:
    """Commits batches in a thread of its own.

    Args:
        connect: makes a connection; may raise psycopg.OperationalError.
        rules: what to count by.
        policy: when batches are due, and how many events may wait.
        metrics: told of every stage and outcome.
        health: told whether the database answers.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection],
        rules: Rules,
        policy: Policy,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._connect = connect
        self._rules = rules
        self._metrics = metrics
        self._health = health
        self._gathering = Gathering(policy)
        self._changed = threading.Condition()
        self._writing: Batch | None = None
        self._round = 0  # rises when the reader abandons what was submitted
        self._stopping = False
        self._hurry = False
        self._conn: psycopg.Connection | None = None
        self._accounts: AccountZones | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.committed: dict[Partition, int] = {}
        """The next offset of every partition this thread has committed. Replaced as a whole, never changed."""
        self.conflicted = False
        """Stored offsets moved, or a batch is to be read again in parts; nothing is written until `resume`."""
        self.failure: BaseException | None = None
        """The error that ended the thread."""
        self.database_away = False
        """Whether the last attempt found PostgreSQL away."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, batch: Batch, *, lagging: bool) -> None:
        """Hand over a batch; returns at once. Its spans must follow those submitted before."""
        with self._changed:
            self._gathering.add(batch, lagging=lagging, now=time.monotonic())
            self._metrics.pending_events.set(self._pending())
            self._changed.notify_all()

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until more may be submitted; False if that took longer, or something needs the reader."""
        with self._changed:
            self._changed.wait_for(lambda: not self._gathering.full or self._needs_reader(), seconds)
            return not self._gathering.full and not self._needs_reader()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being written, not even a batch without messages."""
        return not self._gathering.waiting and self._writing is None

    @property
    def limit(self) -> int:
        """How many messages to read at once at most, as things are: a transaction is at least one read."""
        return self._gathering.limit

    def flush(self, seconds: float) -> bool:
        """Wait until all that was submitted is committed; False if that took longer or failed."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.idle or self._needs_reader(), seconds)
            self._hurry = False
            return self.idle and not self._needs_reader()

    def abandon(self) -> None:
        """Forget what waits, and give up the batch in hand at its next failure. If that one commits after all, stored
        offsets say so. Read them again, then `resume`."""
        with self._changed:
            self._round += 1
            self._gathering.clear()
            self.conflicted = True
            self._changed.notify_all()

    def resume(self) -> None:
        """The reader starts again from the stored offsets."""
        with self._changed:
            self._gathering.clear()
            self.conflicted = False
            self._changed.notify_all()

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop what `committed` says of partitions: they start again from stored offsets."""
        with self._changed:
            gone = set(partitions)
            self.committed = {p: offset for p, offset in self.committed.items() if p not in gone}

    def stop(self, seconds: float) -> bool:
        """End the thread, if it was started, after the batch in hand; False if that took longer."""
        with self._changed:
            self._stopping = True
            self._round += 1
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _pending(self) -> int:
        return self._gathering.events + (self._writing.messages if self._writing else 0)

    def _needs_reader(self) -> bool:
        return self.conflicted or self.failure is not None

    def _run(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._commit(*taken)
                with self._changed:
                    self._writing = None
                    self._metrics.pending_events.set(self._pending())
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - handed to the reader, which ends the process with it
            with self._changed:
                self.failure = error
                self._changed.notify_all()
        finally:
            self._disconnect()

    def _take(self) -> tuple[Batch, int] | None:
        """The next batch when it is due, and the round it belongs to; None at the end."""
        began = time.monotonic()
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                due = None if self.conflicted else self._gathering.due_in(now)
                if due == 0 or (self._hurry and due is not None):
                    self._metrics.observe_stage("waiting", now - began)
                    self._writing = self._gathering.take(now)
                    self._changed.notify_all()
                    self._metrics.observe_stage("merge", time.monotonic() - now)
                    return self._writing, self._round
                self._changed.wait(due)
        return None

    def _commit(self, batch: Batch, round_: int) -> None:
        """Write a batch, however often that takes, unless the reader abandons it."""
        backoff, failures, timeouts = Backoff(), 0, 0
        while True:
            began = time.monotonic()
            try:
                conn, accounts = self._connected()
                written = write(conn, batch, accounts, self._rules, time.time_ns() // 1000, self._metrics.observe_stage)
            except SettingsChanged:
                self._accounts = None
                self._metrics.settings_reloads.inc()
                log.info(Event.SETTINGS_RELOADED)
                continue
            except OffsetConflict as conflict:
                self._metrics.offset_conflicts.inc()
                log.warning(Event.OFFSET_CONFLICT, partitions=conflict.partitions, message=str(conflict))
                with self._changed:
                    self._gathering.clear()
                    self.conflicted = True
                return
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                failures += 1
                # A transaction_timeout of the operator's ends the connection, and so do we if an answer takes too long.
                ended = self._conn is not None and self._conn.closed and time.monotonic() - began > LONG_SECONDS
                timeouts += ended or isinstance(error, psycopg.errors.QueryCanceled)
                self._failed(error, failures)
                if timeouts == HALVE_AFTER and batch.messages > 1:
                    self._halve(batch)
                    return
            else:
                self._succeeded(batch, written, time.monotonic() - began)
                return
            wait = time.monotonic()
            with self._changed:
                self._changed.wait_for(lambda: round_ != self._round, backoff.delay(failures))
                self._metrics.observe_stage("retry", time.monotonic() - wait)
                if round_ != self._round:
                    return

    def _halve(self, batch: Batch) -> None:
        """Have the reader read it again, in parts."""
        with self._changed:
            self._gathering.shrink(batch.messages)
            self._gathering.clear()
            self.conflicted = True
            self._changed.notify_all()
        log.warning(Event.BATCH_TOO_LARGE, messages=batch.messages, limit=self._gathering.limit)

    def _connected(self) -> tuple[psycopg.Connection, AccountZones]:
        if self._conn is None or self._conn.closed:
            conn = self._connect()
            self._conn = conn
            try:
                prepare(conn)
            except psycopg.Error:
                self._disconnect()
                raise
        if self._accounts is None:
            self._accounts = account_zones(self._conn)
        if self.database_away:
            log.info(Event.DATABASE_BACK)
        self.database_away = False
        self._health.database(None)
        self._metrics.db_up.set(1)
        return self._conn, self._accounts

    def _failed(self, error: psycopg.Error, failures: int) -> None:
        self._metrics.observe_retry(error.sqlstate)
        # 25006: a primary that became a standby, and kept our connection.
        away = self._conn is None or not is_usable(self._conn) or error.sqlstate == "25006"
        if away:
            if not self.database_away:
                log.warning(Event.DATABASE_LOST, message=str(error).strip())
            self.database_away = True
            self._health.database(str(error).strip())
            self._metrics.db_up.set(0)
            self._disconnect()
        else:
            log.warning(Event.BATCH_RETRIED, sqlstate=error.sqlstate, attempt=failures, message=str(error).strip())
            if isinstance(error, psycopg.errors.QueryCanceled):
                self._end_frozen_zombies()

    def _end_frozen_zombies(self) -> None:
        """We waited as long as a statement may take: perhaps for one who had our partitions before, and is frozen."""
        try:
            if self._conn is not None and (ended := end_silent_sessions(self._conn)):
                log.warning(Event.SILENT_SESSIONS_ENDED, pids=ended)
        except psycopg.Error as error:  # the next attempt will find out more
            log.warning(Event.BATCH_RETRIED, sqlstate=error.sqlstate, message=str(error).strip())

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
        self._accounts = None  # a database that failed over may have forgotten settings

    def _succeeded(self, batch: Batch, written: Written, seconds: float) -> None:
        with self._changed:
            self._gathering.grow()
            self.committed = {**self.committed, **{span.source: span.next for span in batch.spans}}
        report_commit(self._metrics, batch, written, seconds)
