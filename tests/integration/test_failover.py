"""A database that failed over: it may have forgotten settings, or have become a standby that keeps our connection."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.fixtures.events import Connection, total
from tests.fixtures.processes import wait_for
from tests.fixtures.rollup import Rollup
from tests.integration.test_writer import SECONDS, Writing

VERSION = "SELECT settings_version FROM rollup_control"


class Failing(Writing):
    """A writer whose connections can be reached, as the server's side of them could be."""

    connections: list[psycopg.Connection]

    def __init__(self, url: str, conn: Connection, rollup: Rollup) -> None:
        self.connections = []
        super().__init__(url, conn, rollup)

    def _connect(self) -> psycopg.Connection:
        self.connections.append(super()._connect())
        return self.connections[-1]


@pytest.fixture
def failing(database_url: str, conn: Connection, rollup: Rollup) -> Iterator[Failing]:
    """A started writer that has committed something, and therefore knows the settings."""
    made = Failing(database_url, conn, rollup)
    made.writer.start()
    made.submit()
    assert made.writer.flush(SECONDS)
    yield made
    assert made.writer.stop(SECONDS)
    wait_for(lambda: not made.backends(), "the end of the writer's session")


def test_settings_are_read_again_after_a_lost_connection_whatever_their_version(failing: Failing) -> None:
    """The new primary lacks the last change, and has had another one since that came to the same version."""
    conn, lost = failing.conn, failing.backends()
    known = conn.execute(VERSION).fetchall()
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")  # no triggers: it never knew
        conn.execute("UPDATE account_settings SET reporting_timezone = NULL")
        conn.execute("UPDATE rollup_control SET changed_by = NULL")
    assert conn.execute(VERSION).fetchall() == known
    conn.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (lost,))
    wait_for(lambda: not set(lost) & set(failing.backends()), "the end of the session")
    before = total(conn)
    failing.submit()
    assert failing.writer.flush(SECONDS)
    became = total(conn)
    assert (became.counted, became.skipped) == (before.counted, before.messages)  # a chunk each
    assert failing.metric("settings_reloads_total") == 0  # the version did not tell
    assert len(failing.connections) == 2


def test_a_primary_that_became_a_standby_is_left(failing: Failing) -> None:
    (first,) = failing.connections
    first.execute("SET default_transaction_read_only = on")  # what its answers are like from now on
    failing.submit()
    assert failing.writer.flush(SECONDS)
    assert failing.metric("db_retries_total", sqlstate="25006") == 1
    assert first.closed
    assert len(failing.connections) == 2
    failing.finish()
