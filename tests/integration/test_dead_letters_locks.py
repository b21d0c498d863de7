"""A replay that must wait for others keeps no consumer waiting for long: holding stored offsets, it steps back."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from consumer.database import is_transient
from consumer.dead_letters.replay import Replayed
from consumer.rollup.store import prepare
from tests.fixtures.letters import replay_letters, wrapped
from tests.fixtures.processes import wait_for
from tests.fixtures.rollup import Connection, Rollup, make_event

SECONDS = 30.0
A_CONSUMERS_PATIENCE = "5s"
"""Far above what a replay may make it wait, far below how long others hold what the replay waits for."""
ACCOUNTS = range(1, 13)


@pytest.fixture
def rollup(rollup: Rollup) -> Rollup:
    """Every account has a zone."""
    rollup.always_had(dict.fromkeys(ACCOUNTS, "Europe/Paris"))
    return rollup


@contextmanager
def replaying(rollup: Rollup) -> Iterator["Future[list[Replayed]]"]:
    """A replay of all letters that has begun to wait for somebody."""
    conn = rollup.connect()
    prepare(conn)
    conn.execute("SET statement_timeout = '60s'")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(replay_letters, rollup, conn=conn)
        blocking = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
        wait_for(
            lambda: rollup.conn.execute(blocking, (conn.info.backend_pid,)).fetchone() == (True,),
            "a replay that waits",
            seconds=SECONDS,
        )
        yield future


def consumers_connection(rollup: Rollup) -> Connection:
    conn = rollup.connect()
    prepare(conn)
    conn.execute(f"SET statement_timeout = '{A_CONSUMERS_PATIENCE}'".encode())
    return conn


def assert_it_stepped_back(replay: "Future[list[Replayed]]") -> None:
    error = replay.exception(SECONDS)
    assert isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled)
    assert is_transient(error)


def test_one_partition_does_not_wait_for_another(rollup: Rollup) -> None:
    rollup.count(wrapped(make_event(1, account_id=1)), partition=0)
    rollup.count(wrapped(make_event(2, account_id=1)), partition=1)
    batch, live = rollup.read(make_event(3, account_id=1), partition=0), consumers_connection(rollup)
    with rollup.connect() as other, other.transaction():
        other.execute("SELECT FROM consumer_offsets WHERE partition = 1 FOR UPDATE")
        with replaying(rollup) as replay:
            rollup.write(batch, live)  # as it would if the replay were not there
        assert_it_stepped_back(replay)


def test_many_days_that_are_held_for_a_moment_each_are_no_long_wait(rollup: Rollup) -> None:
    rollup.count(*[make_event(100 + account, account_id=account) for account in ACCOUNTS])
    rollup.count(*[wrapped(make_event(account, account_id=account)) for account in ACCOUNTS], partition=0)
    live = consumers_connection(rollup)
    holders = {account: rollup.connect() for account in ACCOUNTS}
    for account, holder in holders.items():
        holder.execute("BEGIN")
        holder.execute("SELECT FROM rollup_days WHERE account_id = %s FOR UPDATE", (account,))

    def let_go() -> None:
        for holder in holders.values():
            time.sleep(0.8)
            holder.execute("COMMIT")

    letting_go = threading.Thread(target=let_go)
    with replaying(rollup) as replay:
        letting_go.start()
        live.execute("SELECT FROM consumer_offsets WHERE partition = 0 FOR UPDATE")
    assert_it_stepped_back(replay)
    letting_go.join()
    assert {letter.outcome for letter in replay_letters(rollup)} == {"counted"}
