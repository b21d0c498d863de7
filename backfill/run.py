"""Rebuilds days one after the other, each in a transaction of its own, through what passes by itself."""

import time
from collections.abc import Callable, Sequence
from datetime import date
from typing import TypeVar

import psycopg

from consumer import database
from consumer.rollup.rebuild import Rebuilder, Rebuilt
from consumer.rollup.registry import REGISTRY
from consumer.rollup.schema import check_schema
from consumer.rollup.statements import STATEMENTS
from consumer.settings import DatabaseSettings

ATTEMPTS = 6
"""Tries for one day before its error is reported; with back-off they span about ten seconds."""

Day = tuple[int, date]
T = TypeVar("T")


class Runner:
    """Rebuilds days with a connection that is made again when it breaks."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._conn: psycopg.Connection | None = None
        self._rebuilder: Rebuilder | None = None

    def rebuild(self, accounts: Sequence[int], day: date, *, force: bool = False) -> list[Rebuilt]:
        """Rebuild a date of some accounts in one transaction; locks and lost connections are waited for.

        Raises:
            SchemaError: migrations are missing, or newer than this program.
            psycopg.Error: the database stayed away, or refused.
        """
        return self._try(lambda: self._ready().rebuild_many(accounts, day, time.time_ns() // 1000, force=force))

    def stale_days(self) -> list[Day]:
        """Stale days that can be rebuilt now, those waiting longest first. Raises SchemaError."""
        self._try(self._ready)
        rows = self._try(lambda: self._connected().execute(STATEMENTS["days_to_rebuild"]).fetchall())
        return [(account, day) for account, day in rows]

    def settling(self) -> int:
        """How many stale days still wait for a change of time zone to settle."""
        row = self._try(lambda: self._connected().execute(STATEMENTS["days_settling"]).fetchone())
        return int(row[0]) if row else 0

    @property
    def connected(self) -> bool:
        """Whether the connection survived the last error."""
        return self._conn is not None and not self._conn.closed and not self._conn.broken

    def close(self) -> None:
        """Close the connection."""
        if self._conn is not None:
            self._conn.close()

    def _connected(self) -> psycopg.Connection:
        if self._conn is None or not self.connected:
            self._rebuilder = None
            self._conn = database.connect(
                self._settings.database_url,
                statement_timeout=self._settings.db_statement_timeout_seconds,
                application="reporting-rollup backfill",
            )
            # A rebuild cannot be read again from Kafka: wait for the disk.
            self._conn.execute("SET synchronous_commit = on")
        return self._conn

    def _ready(self) -> Rebuilder:
        conn = self._connected()
        if self._rebuilder is None:
            check_schema(conn)
            self._rebuilder = Rebuilder(conn, REGISTRY, self._settings.open_days)
        return self._rebuilder

    def _try(self, action: Callable[[], T]) -> T:
        backoff = database.Backoff(first=0.3)
        for failures in range(1, ATTEMPTS):
            try:
                return action()
            except psycopg.Error as error:
                if not database.is_transient(error):
                    raise
                time.sleep(backoff.delay(failures))
        return action()
