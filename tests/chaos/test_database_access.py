"""PostgreSQL lets nobody in for a while, or refuses: full of sessions, a changed password, a right that is gone.

Consumers run with the rights of deploy/roles.sql alone. Those that run wait for a server that is full, and for a
password that was changed under them: it is in nobody's hands to restart them before it is known. One that starts and is
refused, or loses a right, ends with its exit code and one line; nothing has moved.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local.postgres import Postgres
from tests.chaos.conftest import MakeWorld
from tests.chaos.world import World
from tests.fixtures.processes import Consumer
from tests.fixtures.roles import PASSWORD, RolesDatabase

CONNECTIONS = 24
REFUSED = 8
"""The exit code of whoever is not let in."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A small server that asks everybody but the superuser for a password."""
    folder = Path(tempfile.mkdtemp(prefix="reporting-rollup-chaos-"))
    folder.chmod(0o711)  # as root, PostgreSQL runs as somebody else, who must get through
    settings = {"fsync": "off", "max_connections": str(CONNECTIONS), "superuser_reserved_connections": "6"}
    with Postgres(folder / "postgres", settings=settings) as server:
        rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (server.folder / "data/pg_hba.conf").write_text(rules)
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("SELECT pg_reload_conf()")
        yield server
    server.remove()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def roles(server: Postgres) -> Iterator[RolesDatabase]:
    database = RolesDatabase(server.url())
    database.create()
    yield database
    database.drop()


@pytest.fixture
def own_world(roles: RolesDatabase, make_world: MakeWorld) -> World:
    """A world whose consumers have the consumer's rights, and no others."""
    world = make_world(url=roles.url())
    world.begin()
    for _ in range(2):
        world.start(DATABASE_URL=roles.url("consumer"))
    world.until_read(1)
    return world


def end_sessions(admin: psycopg.Connection[Any]) -> None:
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'reporting-rollup%'"
    )


def until_they_say(world: World, text: str) -> None:
    """Wait until every consumer is unready for a reason that has this text, and alive."""
    for consumer in world.consumers:

        def says_it(consumer: Consumer = consumer) -> bool:
            status, body = consumer.get("/readyz")  # in one answer: it may get in a moment later
            return status == 503 and text in body

        world.until(says_it, f"a consumer that says: {text}")
        assert consumer.get("/livez")[0] == 200


def until_ready(world: World) -> None:
    for consumer in world.consumers:
        consumer.wait_for_status("/readyz", 200)
    world.until_read(1)


def test_no_session_is_left(own_world: World, roles: RolesDatabase) -> None:
    taken: list[psycopg.Connection[Any]] = []
    with roles.connect() as admin:
        try:
            for _ in range(3):  # those that end leave room, which others may get before
                end_sessions(admin)
                while len(taken) < CONNECTIONS:
                    try:
                        taken.append(roles.connect("reader"))
                    except psycopg.OperationalError:
                        break
            until_they_say(own_world, "connection slots are reserved")
        finally:
            for each in taken:
                each.close()
    until_ready(own_world)
    own_world.settle()


def test_the_password_is_changed(own_world: World, roles: RolesDatabase) -> None:
    login = roles.login("consumer")
    with roles.connect() as admin:
        admin.execute(f"ALTER ROLE {login} PASSWORD 'another-one'".encode())
        end_sessions(admin)
        until_they_say(own_world, "password authentication failed")
        late = own_world.start(DATABASE_URL=roles.url("consumer"))
        own_world.forget(late)
        assert late.wait() == REFUSED
        assert "password authentication failed" in late.wait_for_log("failed")["message"]
        knowing = own_world.start(DATABASE_URL=roles.url("consumer").replace(PASSWORD, "another-one"))
        knowing.wait_for_status("/readyz", 200)
        own_world.until_read(1)  # what the group gave to the one that knows
        own_world.terminate(knowing)
        for consumer in [late, *own_world.consumers]:
            assert PASSWORD not in consumer.out.read_text() + consumer.err.read_text()
        admin.execute(f"ALTER ROLE {login} PASSWORD '{PASSWORD}'".encode())
    until_ready(own_world)
    own_world.settle()


@pytest.mark.parametrize("table", ["reporting_events_rollups", "consumer_offsets", "counted_events"])
def test_a_right_is_taken_away(own_world: World, roles: RolesDatabase, table: str) -> None:
    ended = list(own_world.consumers)
    for consumer in ended:
        own_world.forget(consumer)
    with roles.connect() as admin:
        admin.execute(f"REVOKE ALL ON {table} FROM {roles.role('consumer')}".encode())
    for consumer in ended:
        assert consumer.wait(60) == REFUSED
        assert f"permission denied for table {table}" in consumer.wait_for_log("failed")["message"]
    roles.grant()
    for _ in range(2):
        own_world.start(DATABASE_URL=roles.url("consumer"))
    until_ready(own_world)
    own_world.settle()
