"""PostgreSQL says no: full disks, locks, deadlocks, serialization failures, read-only. All of it passes by itself.

Errors that cannot be had honestly on every machine are raised by a trigger of the test, with the SQLSTATE that
PostgreSQL would give, within statements and at COMMIT.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local.migrate import migrate
from local.postgres import Postgres
from local.postgres_account import server_account
from tests.chaos.conftest import MakeWorld
from tests.chaos.world import World
from tests.fixtures.processes import wait_for

Connection = psycopg.Connection[Any]

TABLES = ("reporting_events_rollups", "consumer_offsets", "rollup_days", "counted_events")
STATES = ("53100", "40001", "40P01", "55P03", "57014", "53200", "58030", "25006")
"""Disk full, serialization, deadlock, lock not available, statement timeout, out of memory, I/O error, read only."""
EACH = 2
"""How often each state must have been met."""
TABLESPACE_BYTES = 48_000_000

# COMMIT fires the constraint trigger. random() belongs to the server: a seed does not repeat it.
FAULTS = """
CREATE TABLE faults (sqlstate text, share float8);
CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    found text := (SELECT sqlstate FROM faults WHERE random() < share);
BEGIN
    IF found IS NOT NULL THEN RAISE EXCEPTION 'a fault of the test' USING ERRCODE = found; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER fault_at_commit AFTER UPDATE ON consumer_offsets DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fault();
"""
ON_TABLE = "CREATE TRIGGER fault_in_statement AFTER INSERT OR UPDATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION fault();"


def begin(world: World, **variables: str | int) -> None:
    world.begin()
    for _ in range(2):
        world.start(**variables)
    world.until_read(1)


def retries(world: World, *states: str) -> float:
    """How often consumers met one of these errors, or one that has no series of its own, and tried again."""
    found = [consumer.metrics("db_retries_total") for consumer in world.consumers]
    return sum(count for each in found for labels, count in each.items() if labels[0] in {*states, "other"})


@pytest.mark.quick
def test_errors_that_pass(world: World) -> None:
    """One after the other, in statements and at commits."""
    states = world.chance.sample(STATES, len(STATES))
    with psycopg.connect(world.url, autocommit=True) as admin:
        admin.execute((FAULTS + "".join(ON_TABLE.format(table) for table in TABLES)).encode())
        begin(world)
        for state in states:
            before = retries(world, state)
            admin.execute("INSERT INTO faults VALUES (%s, 0.05)", (state,))
            world.until(lambda s=state, b=before: retries(world, s) >= b + EACH, f"retries after {state}")  # type: ignore[misc]
            admin.execute("DELETE FROM faults")
            world.until_read(1)
    world.settle()


@contextlib.contextmanager
def holding(world: World, statement: str, parameters: Sequence[object] = ()) -> Iterator[Connection]:
    """A transaction that has executed a statement and keeps its locks."""
    with psycopg.connect(world.url) as holder:
        holder.execute(statement.encode(), parameters)
        yield holder
        holder.rollback()


LOCKS = {
    "days": "SELECT FROM rollup_days WHERE updated_at > now() - interval '3 s' ORDER BY account_id, date FOR UPDATE",
    "an offset": "SELECT FROM consumer_offsets ORDER BY partition LIMIT 1 FOR UPDATE",
    "the rollup": "LOCK TABLE reporting_events_rollups IN EXCLUSIVE MODE",
    "settings": "SELECT pg_advisory_xact_lock(hashtextextended('reporting-rollup settings', 0))",
}


def test_locks_held_beyond_the_statement_timeout(world: World) -> None:
    begin(world, DB_STATEMENT_TIMEOUT_SECONDS=1)
    for statement in world.chance.sample(list(LOCKS.values()), len(LOCKS)):
        before = retries(world, "57014")
        with holding(world, statement):
            world.until(lambda b=before: retries(world, "57014") > b, f"a statement timeout after: {statement}")  # type: ignore[misc]
            assert [consumer.get("/livez")[0] for consumer in world.consumers] == [200, 200]
        world.until_read(1)
    assert sum(consumer.metric("rebalances_total", "lost") for consumer in world.consumers) == 0
    world.settle()


def test_forced_deadlocks(world: World) -> None:
    """A third session takes days in the wrong order. It is patient, so that consumers are the victims."""
    begin(world)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND application_name = 'reporting-rollup consumer'"
    )
    with psycopg.connect(world.url, autocommit=True) as admin:
        while retries(world, "40P01") < 2:
            days = admin.execute(
                "SELECT account_id, date FROM rollup_days WHERE updated_at > now() - interval '2 s'"
                " ORDER BY account_id, date"
            ).fetchall()
            if len(days) < 2:
                world.wait(0.1)
                continue
            lock = "SELECT FROM rollup_days WHERE (account_id, date) = (%s, %s) FOR UPDATE"
            with psycopg.connect(world.url, options="-c deadlock_timeout=1min -c statement_timeout=4s") as third:
                third.execute(lock, days[-1])
                if not wait_briefly(world, lambda: admin.execute(waiting).fetchone() != (0,)):
                    continue
                try:
                    for day in reversed(days[:-1]):
                        third.execute(lock, day)
                except psycopg.errors.QueryCanceled:  # the consumer that waits for us had not taken any of these
                    third.rollback()
    world.until_read(1)
    world.settle()


def wait_briefly(world: World, condition: Any) -> bool:
    """Whether something comes to hold within a second."""
    for _ in range(20):
        if condition():
            return True
        world.wait(0.05)
    return False


def test_the_database_is_read_only_for_a_while(world: World) -> None:
    begin(world)
    database = psycopg.conninfo.conninfo_to_dict(world.url)["dbname"]
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'reporting-rollup%'"
    end += " AND datname = current_database()"
    with psycopg.connect(world.url, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on'.encode())
        admin.execute(end.encode())
        world.until(lambda: retries(world, "25006") >= 2, "refused transactions")
        for consumer in world.consumers:
            world.until(lambda c=consumer: "read-only" in c.get("/readyz")[1], "a consumer that says so")  # type: ignore[misc]
            assert consumer.get("/readyz")[0] == 503
            assert consumer.get("/livez")[0] == 200
        admin.execute("SET default_transaction_read_only = off")
        admin.execute(f'ALTER DATABASE "{database}" RESET default_transaction_read_only'.encode())
    for consumer in world.consumers:
        consumer.wait_for_status("/readyz", 200)
    world.settle()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own; only root can make one, and may not be allowed to either."""
    place = Path(tempfile.mkdtemp(prefix="reporting-rollup-disk-"))
    words: list[str | Path] = ["mount", "-t", "tmpfs", "-o", f"size={TABLESPACE_BYTES},mode=0755", "none", place]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode != 0:
        place.rmdir()
        pytest.skip("no file system can be mounted here; test_errors_that_pass has the same error from a trigger")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)
    place.rmdir()


def test_the_disk_is_full_for_a_while(small_disk: Path, service_folder: Path, make_world: MakeWorld) -> None:
    place, filling = small_disk / "tables", small_disk / "filling"
    place.mkdir()
    if account := server_account():
        os.chown(place, *account)
    with Postgres(service_folder / "postgres", settings={"fsync": "off"}) as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE TABLESPACE small LOCATION '{place}'".encode())
            admin.execute("CREATE DATABASE rollup TABLESPACE small")
        migrate(server.url("rollup"))
        # An application that writes its raw rows first would stop at the full disk itself, and send nothing to count.
        world = make_world(url=server.url("rollup"), raw_first=False)
        begin(world)
        for _ in range(2):
            before = retries(world, "53100")
            with filling.open("wb", buffering=0) as rubbish, contextlib.suppress(OSError):
                while rubbish.write(bytes(4096)):
                    pass
            wait_for(lambda b=before: retries(world, "53100") > b, "a disk that is full", *world.consumers)  # type: ignore[misc]
            assert [consumer.get("/livez")[0] for consumer in world.consumers] == [200, 200]
            filling.unlink()
            world.until_read(100)
        world.settle()
