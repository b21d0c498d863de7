"""The connection of `verify`: it cannot write, and comes back after what passes by itself."""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Any, LiteralString, TypeVar

import psycopg

from backfill.selection import Resolved, Selection, resolve
from backfill.settling import Settling
from backfill.verdict import Day, State, Verdict, Verified
from backfill.verify import Verifier, unsettled_dates
from consumer import database
from consumer.access import refused_by_database
from consumer.errors import ConfigurationError
from consumer.rollup.registry import REGISTRY
from consumer.rollup.schema import check_schema
from consumer.settings import DatabaseSettings

ATTEMPTS = 6
"""Tries for one look before its error is reported; with back-off they span about ten seconds."""

T = TypeVar("T")


class Looks:
    """Looks at days on a connection that cannot write, made again when it breaks."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings
        self._conn: psycopg.Connection | None = None
        self._verifier: Verifier | None = None

    def resolve(self, selection: Selection) -> tuple[Resolved, list[Day]]:
        """What a selection comes to; with all dates, also the days that only the rollup knows, oldest date first."""

        def days() -> tuple[Resolved, list[Day]]:
            conn = self._ready()[0]
            resolved = resolve(conn, selection, _now_us())
            accounts = resolved.timezones if selection.dates is None else ()
            kept = ((account, each) for account in accounts for each in unsettled_dates(conn, account))
            return resolved, sorted((day for day in kept if day not in resolved), key=_by_date)

        return self._attempt(days)

    def look(self, day: Day) -> Verified:
        """One look at a day. An error that concerns this day alone becomes its verdict.

        Raises:
            psycopg.Error: the database stayed away, or refuses us.
        """
        try:
            return self._attempt(lambda: self._ready()[1].look(*day, _now_us()))
        except ConfigurationError as error:
            problem = str(error)
        except psycopg.Error as error:
            if self._conn is None or not database.is_usable(self._conn) or refused_by_database(error):
                raise
            problem = database.one_line(error)
        return Verified(*day, None, State.UNKNOWN, Verdict.FAILED, problem=problem)

    def settling(self, accounts: Iterable[int]) -> Settling:
        """The stale days of some accounts that have not settled."""

        def fetch(statement: LiteralString, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
            return self._attempt(lambda: self._ready()[0].execute(statement, parameters).fetchall())

        return Settling.of(fetch, accounts)

    def close(self) -> None:
        """Close the connection."""
        if self._conn is not None:
            self._conn.close()

    def _ready(self) -> tuple[psycopg.Connection, Verifier]:
        if self._conn is None or self._verifier is None or not database.is_usable(self._conn):
            self.close()
            self._verifier = None
            self._conn = database.connect(
                self.settings.database_url,
                statement_timeout=self.settings.db_statement_timeout_seconds,
                application="reporting-rollup verify",
            )
            self._conn.execute("SET default_transaction_read_only = on")
            # Days are small and found by index: neither plans for whole tables nor compiling them would pay.
            self._conn.execute("SET enable_seqscan = off")
            self._conn.execute("SET jit = off")
            check_schema(self._conn)
            self._verifier = Verifier(self._conn, REGISTRY, self.settings.open_days)
        return self._conn, self._verifier

    def _attempt(self, action: Callable[[], T]) -> T:
        backoff = database.Backoff(first=0.3)
        for failures in range(1, ATTEMPTS):
            try:
                return action()
            except psycopg.Error as error:
                if not database.is_transient(error) or refused_by_database(error):
                    raise
                time.sleep(backoff.delay(failures))
        return action()


def in_order(resolved: Resolved, kept: list[Day]) -> Iterator[Day]:
    """The days of both, oldest date first."""
    return heapq.merge(resolved.days(), kept, key=_by_date)


def _by_date(day: Day) -> tuple[date, int]:
    return day[1], day[0]


def _now_us() -> int:
    return time.time_ns() // 1000
