"""Migrations while consumers run, as docs/operations.md promises: first the schema, then the programs, one by one; two
migrators at once; and a program that is too old for the schema, or too new, says so."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from consumer.rollup.schema import CODE, NEEDED
from local.migrate import MIGRATIONS, migrate
from tests.chaos.conftest import MakeWorld
from tests.chaos.world import World
from tests.fixtures.processes import wait_for

EXPAND = """
-- migrate:up
SELECT rollup_lock_settings(); -- no consumer is between two of these tables: docs/operations.md
ALTER TABLE reporting_events_rollups ADD COLUMN later integer NOT NULL DEFAULT 7;
ALTER TABLE rollup_days ADD COLUMN later text;
ALTER TABLE consumer_offsets ADD COLUMN later bigint NOT NULL DEFAULT 0;
ALTER TABLE counted_events ADD COLUMN later boolean;
ALTER TABLE dead_letters ADD COLUMN later timestamptz;
CREATE TABLE later (id bigint PRIMARY KEY);
CREATE INDEX dead_letters_later ON dead_letters (later);
-- migrate:down
DROP TABLE later;
"""
"""What a later release may add."""


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The migrations of a later release: ours, and one that expands every table that consumers write."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    (folder / "9001_expand_later.sql").write_text(EXPAND)
    return folder


@pytest.fixture
def empty_url(database_url: str) -> Iterator[str]:
    """A database of its own without any schema, dropped after the test."""
    name = f"{conninfo_to_dict(database_url)['dbname']}_empty"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield database_url.replace(str(conninfo_to_dict(database_url)["dbname"]), name)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def migrate_twice_at_once(url: str, folder: Path) -> None:
    """Two deployments at the same time."""
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(migrate, url, folder=folder) for _ in range(2)]:
            done.result(60)


@pytest.mark.quick
def test_the_schema_is_expanded_under_load(world: World, next_release: Path) -> None:
    world.begin()
    for _ in range(2):
        world.start()
    world.until_read(world.chance.randrange(50, 400))
    migrate_twice_at_once(world.url, next_release)
    assert world.conn.execute("SELECT count(*) FROM schema_migrations WHERE version = '9001'").fetchone() == (1,)
    world.until_read(100)  # those that ran before it
    world.terminate(world.chance.choice(world.consumers))
    world.start()  # one that starts with the newer schema
    world.until_read(100)
    world.settle()


def test_a_schema_that_is_not_there_yet_and_one_that_has_moved_on(make_world: MakeWorld, empty_url: str) -> None:
    migrate_all_but_the_newest(empty_url)
    world = make_world(url=empty_url)
    early = world.start()
    world.forget(early)
    wait_for(lambda: early.code is not None, "the end of a consumer that came before its schema")
    assert early.code == 3, early.tail()
    assert NEEDED[-1] in early.wait_for_log("failed")["message"]
    migrate_twice_at_once(empty_url, MIGRATIONS)

    world.begin()
    for consumer in [world.start() for _ in range(2)]:
        consumer.wait_for_log("started")
    world.until_read(100)
    # A contract migration: those that run go on to their end, those that start are refused. (So would a rebuild be.)
    world.unrest.rest()
    world.conn.execute("UPDATE rollup_control SET needs_code = %s", (CODE + 1,))
    world.until_read(100)
    late = world.start()
    world.forget(late)
    wait_for(lambda: late.code is not None, "the end of a consumer that is too old")
    assert late.code == 3, late.tail()
    assert "deploy a newer release" in late.wait_for_log("failed")["message"]
    world.until_read(100)
    world.conn.execute("UPDATE rollup_control SET needs_code = %s", (CODE,))
    world.unrest.go_on()
    world.settle()


def migrate_all_but_the_newest(url: str) -> None:
    """The schema as it was before the newest migration that programs need."""
    migrate(url)
    with psycopg.connect(url, autocommit=True) as conn:
        while conn.execute("SELECT FROM schema_migrations WHERE version = %s", (NEEDED[-1],)).fetchone() is not None:
            migrate(url, down=True)
