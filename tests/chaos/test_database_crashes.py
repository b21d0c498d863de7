"""PostgreSQL crashes, is killed, hangs, or comes back older than it was, under load and with two consumers.

Commits do not wait for the disk here, so each crash forgets the last of them: offsets and rows together, and Kafka
still has the events. What the application wrote itself and was forgotten, it writes again at the end.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local.migrate import migrate
from local.postgres import Postgres
from tests.chaos.conftest import MakeWorld
from tests.chaos.world import World
from tests.fixtures.processes import wait_for

CRASHES = 3
TERMINATED = 10
LATCH_SECONDS = 2.0
"""Far longer than any question about locks takes."""
WRITERS = "application_name = 'reporting-rollup consumer' AND datname = current_database()"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server that tests may stop, and leave running."""
    folder = Path(tempfile.mkdtemp(prefix="reporting-rollup-chaos-"))
    folder.chmod(0o711)  # as root, PostgreSQL runs as somebody else, who must get through
    with Postgres(folder / "postgres", settings={"fsync": "off", "shared_buffers": "64MB"}) as server:
        yield server
    server.remove()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_world(server: Postgres, make_world: MakeWorld) -> World:
    """A world whose database is on that server."""
    url = server.url(f"rollup_{uuid.uuid4().hex[:12]}")
    migrate(url)
    return make_world(url=url)


def begin(world: World, **variables: str | int) -> None:
    world.begin()
    for _ in range(2):
        world.start(**variables)
    world.until_read(1)


def until_it_goes_on(world: World) -> None:
    """Wait until every consumer that owns partitions has its database back, and messages are read."""

    def ready() -> bool:
        return all(consumer.get("/readyz")[0] == 200 for consumer in world.consumers)

    world.until(ready, "consumers that are ready again")
    world.until_read(1)


def stop(server: Postgres, world: World, how: str) -> None:
    """End the server: `fast`, `immediate` or `kill`."""
    world.conn.close()  # or the test would be the first to stumble over it
    if how == "kill":
        server.kill()
    else:
        server.stop("immediate" if how == "immediate" else "fast")


@pytest.mark.quick
def test_crashes_under_load(server: Postgres, own_world: World) -> None:
    begin(own_world)
    for _ in range(CRASHES):
        own_world.wait(own_world.chance.uniform(0.2, 1.0))
        stop(server, own_world, own_world.chance.choice(["immediate", "kill"]))
        own_world.wait(own_world.chance.uniform(0, 0.5))
        server.start()
        if own_world.chance.random() < 0.5:  # else it crashes again while they are coming back
            until_it_goes_on(own_world)
    own_world.settle()


@contextmanager
def copies(folder: Path) -> Iterator[Path]:
    """A place for a copy, deleted afterwards."""
    place = Path(tempfile.mkdtemp(prefix="copy-", dir=folder))
    try:
        yield place / "data"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", source, target], check=True)  # with owners, which shutil forgets


def test_it_comes_back_older_than_it_was(server: Postgres, own_world: World) -> None:
    """A failover to a standby that was behind: commits that consumers had an answer for are gone."""
    own_world.unrest.zones = False  # the application's raw rows are gone as well, and come long after their messages
    begin(own_world)
    own_world.until_read(300)
    data = (server.folder / "data").resolve()
    with copies(data.parent) as old:
        stop(server, own_world, "fast")
        copy(data, old)
        server.start()
        until_it_goes_on(own_world)
        for _ in range(2):
            own_world.until_read(500)
            read = own_world.read()
            stop(server, own_world, "immediate")
            copy(old, data)
            server.start()
            assert own_world.read() < read
            until_it_goes_on(own_world)
    assert sum(consumer.metric("offset_conflicts_total") for consumer in own_world.consumers) >= 1
    own_world.settle()


@pytest.mark.quick
def test_sessions_are_terminated_again_and_again(world: World) -> None:
    begin(world)
    done = 0
    with psycopg.connect(world.url, autocommit=True) as admin:
        ended = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE "
        while done < TERMINATED:
            where = "application_name LIKE 'reporting-rollup%' AND datname = current_database()"
            done += one(admin, ended + (where if world.chance.random() < 0.3 else WRITERS))
            world.wait(world.chance.uniform(0.02, 0.4))
    until_it_goes_on(world)
    world.settle()


def test_a_session_hangs_with_its_locks(server: Postgres, own_world: World) -> None:
    """A process of the server is stopped in the middle of a transaction: it neither answers nor keeps its timeout."""
    begin(own_world, DB_STATEMENT_TIMEOUT_SECONDS=1)
    with psycopg.connect(own_world.url, autocommit=True) as admin:
        in_transaction = f"SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE {WRITERS} AND state <> 'idle'"

        def freeze() -> int:
            """Stop a process that holds a consumer's transaction; 0 if it had none any more."""
            pid = one(admin, in_transaction)
            with suppress(ProcessLookupError):  # it may also just be ending
                if pid:
                    os.kill(pid, signal.SIGSTOP)
                    if holds_locks(admin, pid):
                        return pid
                    os.kill(pid, signal.SIGCONT)
            return 0

        for _ in range(2):
            pid = wait_for(freeze, "a transaction to stop", *own_world.consumers)
            try:
                lost = [len(consumer.logged("database_lost")) for consumer in own_world.consumers]
                own_world.until(
                    lambda lost=lost: [len(c.logged("database_lost")) for c in own_world.consumers] != lost,  # type: ignore[misc]
                    "a consumer that has left its connection",
                )
                own_world.wait(1)  # somebody runs into its locks
            finally:
                os.kill(pid, signal.SIGCONT)
            until_it_goes_on(own_world)
    own_world.settle()


def holds_locks(conn: psycopg.Connection[Any], stopped: int) -> bool:
    """Whether a process that was stopped holds locks of tables. If it has the latch of the lock table itself in hand,
    no answer would ever come, as no timeout ends a wait for a latch: then it goes on, and the answer is no."""
    goes_on = threading.Event()

    def let_it_go_on() -> None:
        goes_on.set()
        os.kill(stopped, signal.SIGCONT)

    timer = threading.Timer(LATCH_SECONDS, let_it_go_on)
    timer.start()
    held = one(conn, f"SELECT count(*) FROM pg_locks WHERE pid = {stopped} AND mode = 'RowExclusiveLock'")
    timer.cancel()
    timer.join()
    return held > 0 and not goes_on.is_set()


def one(conn: psycopg.Connection[Any], query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0
