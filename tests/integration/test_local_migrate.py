"""`local.migrate`: up, down, twice, at once, and what it says when it fails; a migrated database for each test."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from local.migrate import migrate, status
from local.processes import LocalError
from tests.fixtures.services import Connection, ServicesSession

ROOT = Path(__file__).parents[2]


@pytest.fixture
def empty_url(services_session: ServicesSession) -> Iterator[str]:
    """The URL of a database that is not there yet; dropped after the test."""
    name = f"migrations_{uuid.uuid4().hex}"
    server = services_session.postgres.database_url
    yield server.partition("?")[0].rpartition("/")[0] + f"/{name}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two migrations: a table, and a view on it."""
    write(tmp_path, "0001_expand_table", "CREATE TABLE a (b int); SELECT pg_sleep(0.2);", "DROP TABLE a;")
    write(tmp_path, "0002_expand_view", "CREATE VIEW v AS SELECT b FROM a;", "DROP VIEW v;")
    return tmp_path


def write(folder: Path, name: str, up: str, down: str) -> None:
    (folder / f"{name}.sql").write_text(f"-- migrate:up\n{up}\n\n-- migrate:down\n{down}\n")


def relations(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        return {str(row[0]) for row in rows} & {"a", "v"}


def test_migrations_go_up_once_and_down_one_by_one(empty_url: str, folder: Path) -> None:
    for _ in range(2):
        migrate(empty_url, folder=folder)
        assert relations(empty_url) == {"a", "v"}
    assert "Pending: 0" in status(empty_url, folder=folder)
    migrate(empty_url, down=True, folder=folder)
    assert relations(empty_url) == {"a"}
    migrate(empty_url, down=True, folder=folder)
    assert relations(empty_url) == set()
    assert "Applied: 0" in status(empty_url, folder=folder)


def test_two_that_migrate_at_once_wait_for_each_other(empty_url: str, folder: Path) -> None:
    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(migrate, empty_url, folder=folder) for _ in range(3)]:
            future.result()
    assert relations(empty_url) == {"a", "v"}


def test_a_failing_migration_leaves_nothing_and_says_where(empty_url: str, folder: Path) -> None:
    write(folder, "0003_expand_broken", "DROP VIEW v; SELECT no_such_function();", "")
    with pytest.raises(LocalError, match=r"dbmate up of (.|\n)*0003_expand_broken(.|\n)*no_such_function"):
        migrate(empty_url, folder=folder)
    assert relations(empty_url) == {"a", "v"}


def test_errors_of_migrations_show_no_password(folder: Path) -> None:
    with pytest.raises(LocalError, match=r"postgresql://127\.0\.0\.1:1/x failed") as caught:
        migrate("postgresql://me:secret@127.0.0.1:1/x", folder=folder)
    assert "secret" not in str(caught.value)
    with pytest.raises(LocalError, match="must be a URL"):
        migrate("host=127.0.0.1 dbname=x", folder=folder)
    with pytest.raises(LocalError, match="no folder of migrations at /no/such/folder"):
        migrate("postgresql://127.0.0.1:1/x", folder=Path("/no/such/folder"))


def test_the_command_needs_to_know_the_database() -> None:
    command = [sys.executable, "-m", "local.migrate"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("DATABASE_URL is not set: ")
    assert result.stderr.count("\n") == 1


def test_the_command_migrates_the_database_of_the_project(empty_url: str) -> None:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "local.migrate", *words]
        environment = os.environ | {"DATABASE_URL": empty_url}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    up = run()
    assert up.returncode == 0, up.stderr
    assert "Pending: 0" in up.stdout
    down = run("--down")
    assert down.returncode == 0, down.stderr
    assert "Pending: 1" in run("--status").stdout


def test_the_command_reads_the_url_from_a_file(empty_url: str, tmp_path: Path) -> None:
    def run(file: Path | str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "local.migrate"]
        environment = {k: v for k, v in os.environ.items() if k != "DATABASE_URL"} | {"DATABASE_URL_FILE": str(file)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    (tmp_path / "url").write_text(empty_url + "\n")
    assert "Pending: 0" in run(tmp_path / "url").stdout
    missing = run(tmp_path / "none")
    assert missing.returncode == 2
    assert missing.stderr.startswith("DATABASE_URL_FILE is wrong: cannot read ")
    mistaken = run("postgresql://user:lorem@127.0.0.1/x")
    assert mistaken.returncode == 2
    assert "lorem" not in mistaken.stderr


def test_each_test_gets_a_migrated_database_of_its_own(conn: Connection, template_database: str) -> None:
    row = conn.execute("SELECT current_database() <> %s, to_regclass('schema_migrations')", [template_database])
    assert row.fetchone() == (True, "schema_migrations")


@pytest.mark.parametrize("schema", ["helpdesk", "Help-Desk", "order"])
@pytest.mark.parametrize("path", ['public, "{}"', '"{}"'])
def test_settings_may_lie_in_a_schema_of_the_applications(empty_url: str, schema: str, path: str) -> None:
    name = empty_url.rpartition("/")[2]
    server = make_conninfo(empty_url, dbname="postgres")
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"'.encode())
        conn.execute(f'ALTER DATABASE "{name}" SET search_path = {path.format(schema)}'.encode())
    with psycopg.connect(empty_url, autocommit=True) as conn:
        conn.execute(
            f'CREATE SCHEMA "{schema}"; CREATE TABLE "{schema}".account_settings (account_id integer PRIMARY KEY, '
            "reporting_timezone text, reporting_events_rollup boolean NOT NULL DEFAULT true)".encode()
        )
    migrate(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as conn:
        conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (42, 'Europe/Paris')")
        conn.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo'")
        with pytest.raises(psycopg.errors.CheckViolation, match="Europe/Pari"):
            conn.execute("UPDATE account_settings SET reporting_timezone = 'Europe/Pari'")
    migrate(empty_url, down=True)
    with psycopg.connect(empty_url, autocommit=True) as conn:
        conn.execute("UPDATE account_settings SET reporting_timezone = 'Europe/Rome'")
