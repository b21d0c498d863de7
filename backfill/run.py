"""A connection that rebuilds days, through what passes by itself: locks, deadlocks, a database that is away."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, LiteralString, Self, TypeVar

import psycopg

from consumer import database
from consumer.access import refused_by_database
from consumer.rollup.rebuild import Rebuilder, Rebuilt
from consumer.rollup.registry import REGISTRY
from consumer.rollup.schema import check_schema
from consumer.settings import DatabaseSettings

ATTEMPTS = 6
"""Tries for one day before its error is reported; with back-off they span about ten seconds."""

T = TypeVar("T")


class Runner:
    """Rebuilds days with a connection that is made again when it breaks.

    Args:
        settings: how to reach the database.
        stop: set to end waits between attempts early.
        on_trouble: told why, whenever the connection is lost or cannot be made, before the next attempt.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        stop: threading.Event | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._stop = stop or threading.Event()
        self._on_trouble = on_trouble
        self._conn: psycopg.Connection | None = None
        self.was_let_in = False
        """Whether there has been a connection."""
        self._rebuilder: Rebuilder | None = None

    def rebuild(self, accounts: Sequence[int], day: date, *, force: bool = False) -> list[Rebuilt]:
        """Rebuild a date of some accounts in one transaction; locks and lost connections are waited for.

        Raises:
            SchemaError: migrations are missing, or newer than this program.
            psycopg.Error: the database stayed away, or refused.
        """
        return self.attempt(lambda: self.ready()[1].rebuild_many(accounts, day, time.time_ns() // 1000, force=force))

    def attempt(self, action: Callable[[], T]) -> T:
        """Do something on the connection of `ready`; tried again with back-off while that can help: not if we are
        refused."""
        backoff = database.Backoff(first=0.3)
        for failures in range(1, ATTEMPTS):
            try:
                return action()
            except psycopg.Error as error:
                if not database.is_transient(error) or refused_by_database(error):
                    raise
                if isinstance(error, psycopg.errors.QueryCanceled):
                    self._end_frozen()
                if self._on_trouble and not self.connected:
                    self._on_trouble(database.one_line(error))
                if self._stop.wait(backoff.delay(failures)):
                    raise
        return action()

    def _end_frozen(self) -> None:
        """We waited as long as a statement may take: perhaps for a program of ours that is frozen."""
        if self._conn is not None and self.connected:
            with suppress(psycopg.Error):  # the next attempt will find out more
                database.end_silent_sessions(self._conn)

    def execute(self, statement: LiteralString, parameters: Mapping[str, Any]) -> int:
        """Execute one statement in a transaction of its own; how many rows it changed or found."""
        return self.attempt(lambda: self.connection().execute(statement, parameters).rowcount)

    def fetch(self, statement: LiteralString, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Ask one question; all rows of its answer."""
        return self.attempt(lambda: self.connection().execute(statement, parameters).fetchall())

    @property
    def connected(self) -> bool:
        """Whether the connection survived the last error."""
        return self._conn is not None and database.is_usable(self._conn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._conn is not None:
            self._conn.close()

    def connection(self) -> psycopg.Connection:
        """The connection, made if need be: enough for whoever only asks, even where nothing may be written.

        Raises:
            SchemaError: migrations are missing, or newer than this program.
            psycopg.Error: the database is away.
        """
        if self._conn is None or not self.connected:
            self.close()
            self._rebuilder = None
            conn = database.connect(
                self._settings.database_url,
                statement_timeout=self._settings.db_statement_timeout_seconds,
                application="reporting-rollup backfill",
            )
            try:
                # A rebuild cannot be read again from Kafka: wait for the disk.
                conn.execute("SET synchronous_commit = on")
                check_schema(conn)
            except BaseException:
                conn.close()
                raise
            self._conn = conn
            self.was_let_in = True
        return self._conn

    def ready(self) -> tuple[psycopg.Connection, Rebuilder]:
        """The connection, made if need be, and a rebuilder on it.

        Raises:
            SchemaError: migrations are missing, or newer than this program.
            psycopg.Error: the database is away.
        """
        conn = self.connection()
        if self._rebuilder is None:
            self._rebuilder = Rebuilder(conn, REGISTRY, self._settings.open_days)
        return conn, self._rebuilder
