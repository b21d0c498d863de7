"""How commands that only look ask the database: one read-only snapshot.

A snapshot is a REPEATABLE READ transaction: all that a command prints was true at one instant. It takes no row
locks, so neither consumers nor rebuilds wait for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from consumer import database
from consumer.rollup.schema import check_schema
from consumer.settings import DatabaseSettings

Connection = psycopg.Connection[Any]


@contextmanager
def open_snapshot(settings: DatabaseSettings) -> Iterator[Connection]:
    """A connection of its own, in a snapshot.

    Raises:
        SchemaError: migrations are missing, or newer than this program.
        psycopg.Error: the database is away, or a statement took longer than DB_STATEMENT_TIMEOUT_SECONDS.
    """
    with database.connect(
        settings.database_url,
        statement_timeout=settings.db_statement_timeout_seconds,
        application="reporting-rollup backfill",
    ) as conn:
        check_schema(conn)
        with snapshot(conn):
            yield conn


@contextmanager
def snapshot(conn: Connection) -> Iterator[None]:
    """One read-only transaction that sees the database as it is now, on an idle autocommit connection."""
    before = conn.isolation_level, conn.read_only
    conn.isolation_level, conn.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
    try:
        with conn.transaction():
            yield
    finally:
        if not conn.closed:
            conn.isolation_level, conn.read_only = before
