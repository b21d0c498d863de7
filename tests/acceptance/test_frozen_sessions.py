"""Sessions of frozen processes that keep locks: PostgreSQL ends them, or whoever waits for those locks does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from consumer.database import connect, end_silent_sessions
from local.events import produce
from tests.fixtures.events import assert_exact, load, prepare, rebuild_stale_days, wait_until_read
from tests.fixtures.processes import RunProgram, StartConsumer, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

NAME = "reporting-rollup consumer"
BACKFILL = "reporting-rollup backfill"
LOCKS = "SELECT FROM consumer_offsets FOR UPDATE"
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"


def is_there(conn: Connection, pid: int) -> bool:
    return conn.execute(COUNT, (pid,)).fetchone() == (1,)


@contextmanager
def frozen(url: str, application: str, locks: str, where: str) -> Iterator[int]:
    """A session that took locks, is in the midst of something, and does not go on; its process id in PostgreSQL."""
    with connect(url, statement_timeout=1, application=application) as session:
        session.execute("CREATE TEMPORARY TABLE stage (n int)")
        session.execute("BEGIN")
        session.execute(locks)
        raw = session.pgconn
        copying = session.cursor().copy("COPY stage FROM STDIN")  # ends when nobody holds it
        if where == "copy":
            copying.__enter__().write(b"1\n")
        else:
            raw.enter_pipeline_mode()
            raw.send_query_params(b"INSERT INTO stage VALUES (1)", None)
            if where == "between two pipelines":
                raw.pipeline_sync()
            raw.send_flush_request()
            raw.flush()
        try:
            yield session.info.backend_pid
        finally:
            raw.finish()


def is_silent(conn: Connection, pid: int) -> bool:
    found = conn.execute(
        "SELECT wait_event = 'ClientRead' AND now() - query_start > '1s' FROM pg_stat_activity WHERE pid = %s", (pid,)
    ).fetchone()
    return found == (True,)


@pytest.mark.parametrize(
    ("where", "application"),
    [
        ("copy", NAME),
        ("pipeline", NAME),
        ("between two pipelines", NAME),
        ("pipeline", BACKFILL),
    ],
)
def test_a_program_frozen_while_it_sends_keeps_nobody_from_its_partitions(
    conn: Connection,
    database_url: str,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    where: str,
    application: str,
) -> None:
    topic = make_topic(1)
    first, then = load(200, 1), load(200, 2, first_id=1_000)
    prepare(conn, first, then)
    produce(kafka_bootstrap, topic, first.messages())
    consumer = start_consumer(topic, DB_STATEMENT_TIMEOUT_SECONDS=1)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    with frozen(database_url, application, LOCKS, where) as pid:
        produce(kafka_bootstrap, topic, then.messages())
        wait_until_read(conn, kafka_bootstrap, topic, consumer)
        assert not is_there(conn, pid)
    assert consumer.logged("silent_sessions_ended")
    assert consumer.terminate() == 0
    rebuild_stale_days(conn)
    assert_exact(conn)


def test_a_rebuild_waits_for_no_frozen_program(conn: Connection, database_url: str, run_program: RunProgram) -> None:
    prepare(conn, load(200))
    with frozen(database_url, BACKFILL, "SELECT rollup_lock_settings() FROM rollup_control FOR UPDATE", "copy") as pid:
        rebuild = ("--all-accounts", "--date", "2020-01-01..2020-01-02")
        assert run_program("backfill", *rebuild, DB_STATEMENT_TIMEOUT_SECONDS=1)[0] == 0
        assert not is_there(conn, pid)


@pytest.mark.parametrize(
    ("application", "locks"),
    [("psql", "CREATE TABLE written (n int)"), (NAME, "SELECT 1")],
    ids=["other programs", "nothing written"],
)
def test_others_are_left_alone(conn: Connection, database_url: str, application: str, locks: str) -> None:
    with (
        frozen(database_url, application, locks, "copy") as pid,
        connect(database_url, statement_timeout=1, application=NAME) as ours,
    ):
        wait_for(lambda: is_silent(conn, pid), "a second of silence")
        assert end_silent_sessions(ours) == []
        assert is_there(conn, pid)


def test_one_that_has_not_been_silent_for_long_is_left_alone(conn: Connection, database_url: str) -> None:
    with (
        frozen(database_url, NAME, "CREATE TABLE written (n int)", "copy") as pid,
        connect(database_url, statement_timeout=600, application=NAME) as patient,
        connect(database_url, statement_timeout=1, application=NAME) as ours,
    ):
        wait_for(lambda: is_silent(conn, pid), "a second of silence")
        assert end_silent_sessions(patient) == []
        assert end_silent_sessions(ours) == [pid]
        wait_for(lambda: not is_there(conn, pid), "the end of it")


def test_one_that_reads_no_answers_is_ended_where_the_server_does_not_notice(
    conn: Connection, database_url: str
) -> None:
    with (
        connect(database_url, statement_timeout=600, application=NAME) as session,  # as with a Unix socket
        connect(database_url, statement_timeout=1, application=NAME) as ours,
    ):
        session.execute("BEGIN")
        session.execute("CREATE TABLE written (n int)")
        session.pgconn.send_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
        session.pgconn.flush()
        pid = session.info.backend_pid
        wait_for(lambda: end_silent_sessions(ours) == [pid], "a session that writes in vain")
        wait_for(lambda: not is_there(conn, pid), "the end of it")
        session.pgconn.finish()


def test_one_that_reads_no_answers_is_ended_by_the_server(conn: Connection, database_url: str) -> None:
    with connect(database_url, statement_timeout=1, application=NAME) as session:
        session.execute("BEGIN")
        session.execute("CREATE TABLE written (n int)")
        session.pgconn.send_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
        session.pgconn.flush()
        pid = session.info.backend_pid
        assert is_there(conn, pid)
        wait_for(lambda: not is_there(conn, pid), "the end of it")
        session.pgconn.finish()
