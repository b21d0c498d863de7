"""A connection for the commands, through what passes by itself: locks, and a database that is away for a moment."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

import psycopg

from consumer import database
from consumer.access import refused_by_database
from consumer.dead_letters.letters import Contents, Picked, contents, newest_id, page, portions_to_read
from consumer.dead_letters.selection import Filters
from consumer.errors import RollupError
from consumer.rollup.schema import check_schema
from consumer.rollup.store import prepare
from consumer.settings import DatabaseSettings

PATIENCE_SECONDS = 15.0
"""How long one action is tried again. Rebuilds of large days hold their locks for longer; the letters wait on then."""

T = TypeVar("T")


class DatabaseAway(RollupError):  # noqa: N818 - nobody did anything wrong
    """The database stayed away, or could not do it."""


class LockedOut(DatabaseAway):
    """Others held the locks all the time, or a statement took too long; the database is well."""


class Session:
    """A connection that is made again when it breaks. Close it, or use it as a context manager.

    Args:
        settings: how to reach the database.
        patience: seconds that an action is tried again.
    """

    def __init__(self, settings: DatabaseSettings, patience: float = PATIENCE_SECONDS) -> None:
        self._settings = settings
        self._patience = patience
        self._conn: psycopg.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._conn is not None:
            self._conn.close()

    def attempt(self, action: Callable[[psycopg.Connection], T]) -> T:
        """Do something on the connection; again with back-off while that can help, so it must be safe to do twice.

        Raises:
            SchemaError: migrations are missing, or newer than this program.
            LockedOut: locks were not to be had.
            AccessError: the database refused us.
            DatabaseAway: it stayed away.
        """
        backoff, failures, deadline = database.Backoff(), 0, time.monotonic() + self._patience
        while True:
            try:
                return action(self._connected())
            except psycopg.Error as error:
                failures += 1
                if not database.is_transient(error) or time.monotonic() > deadline:
                    raise self._told(error) from error
            threading.Event().wait(backoff.delay(failures))

    def pages(self, filters: Filters) -> Iterator[list[Picked]]:
        """The letters asked for that are there now, by rising id, some at a time; raises as `attempt`."""
        last = self.attempt(newest_id)
        after = 0
        while picked := self._page(filters, after, last):
            yield picked
            after = picked[-1].id

    def contents(self, filters: Filters) -> Iterator[Contents]:
        """The letters asked for that are there now with their contents, by rising id. A portion of them is held in
        memory at once; raises as `attempt`."""
        for picked in self.pages(filters):
            for portion in portions_to_read(picked):
                yield from self._contents([letter.id for letter in portion])

    def _contents(self, ids: list[int]) -> list[Contents]:
        return self.attempt(lambda conn: contents(conn, ids))

    def _page(self, filters: Filters, after: int, last: int) -> list[Picked]:
        return self.attempt(lambda conn: page(conn, filters, after, last))

    def _told(self, error: psycopg.Error) -> RollupError:
        if refusal := refused_by_database(error):
            return refusal
        said = database.one_line(error)
        if error.sqlstate in {"55P03", "40P01", "57014"}:  # several locks together may take a statement's time
            return LockedOut(f"locked by others, or too slow, for {self._patience:.0f} s: {said}")
        return DatabaseAway(f"database: {said}. What was not reported as done was not done; run the command again")

    def _connected(self) -> psycopg.Connection:
        if self._conn is not None and not database.is_usable(self._conn):
            self._conn.close()
        if self._conn is None or self._conn.closed:
            self._conn = database.connect(
                self._settings.database_url,
                statement_timeout=self._settings.db_statement_timeout_seconds,
                application="reporting-rollup dead letters",
            )
            # What was told as done cannot be read again from Kafka: wait for the disk.
            self._conn.execute("SET synchronous_commit = on")
            check_schema(self._conn)
            prepare(self._conn)
        return self._conn
