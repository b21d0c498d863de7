"""What guards `account_settings` beside the triggers of plain changes: other ways in, rights, rows from before."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from local.migrate import MIGRATIONS, migrate
from local.processes import LocalError
from tests.fixtures.rollup import Rollup, make_event
from tests.fixtures.services import Connection, ServicesSession
from tests.integration.test_settings import version


def test_truncated_settings_are_noticed_by_consumers(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    rollup.count(make_event(1))
    before = version(rollup)
    rollup.conn.execute("TRUNCATE account_settings")
    assert version(rollup) > before
    rollup.count(make_event(2))
    assert rollup.outcomes().counted == 1
    assert rollup.outcomes().skipped == 1


def test_a_row_does_not_change_its_account(rollup: Rollup) -> None:
    rollup.set_timezone(42, "UTC")
    before = (version(rollup), rollup.contents())
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        rollup.conn.execute("UPDATE account_settings SET account_id = 43")
    assert raised.value.diag.message_primary == "account 42: its account_id cannot become 43"
    assert raised.value.diag.message_hint == "Delete the row and insert one for the other account."
    assert (version(rollup), rollup.contents()) == before


# -- rights


@pytest.fixture
def settings_role(conn: Connection) -> Iterator[str]:
    """A role that may read and write account_settings, and nothing else of the rollup."""
    name = f"rollup_settings_{uuid.uuid4().hex[:12]}"
    role = sql.Identifier(name)
    conn.execute(sql.SQL("CREATE ROLE {}").format(role))
    conn.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON account_settings TO {}").format(role))
    yield name
    conn.execute("RESET ROLE")
    conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
    conn.execute(sql.SQL("DROP ROLE {}").format(role))


def act_as(conn: Connection, role: str) -> None:
    """Give up all rights but the role's."""
    conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))


def test_the_right_to_write_settings_is_enough(conn: Connection, settings_role: str) -> None:
    act_as(conn, settings_role)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("SELECT FROM rollup_days")
    conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (42, 'UTC')")
    with pytest.raises(psycopg.errors.CheckViolation, match="not an IANA time zone"):
        conn.execute("UPDATE account_settings SET reporting_timezone = 'Mars/Olympus'")
    conn.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo'")
    conn.execute("RESET ROLE")
    found = conn.execute("SELECT DISTINCT account_id, stale_since IS NOT NULL FROM rollup_days").fetchall()
    assert found == [(42, True)]
    before = conn.execute("SELECT settings_version FROM rollup_control").fetchall()
    act_as(conn, settings_role)
    conn.execute("TRUNCATE account_settings")
    conn.execute("RESET ROLE")
    assert conn.execute("SELECT settings_version FROM rollup_control").fetchall() > before


@pytest.mark.parametrize("table", ["iana_timezones", "rollup_control", "rollup_days"])
def test_nobody_puts_tables_of_their_own_before_the_triggers(conn: Connection, settings_role: str, table: str) -> None:
    """The triggers run with the rights of the tables' owner: a temporary table's triggers would get them, too."""
    act_as(conn, settings_role)
    conn.execute(sql.SQL("CREATE TEMPORARY TABLE {} AS SELECT 'Mars/Olympus' AS name").format(sql.Identifier(table)))
    conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (42, 'UTC')")
    with pytest.raises(psycopg.errors.CheckViolation, match="not an IANA time zone"):
        conn.execute("UPDATE account_settings SET reporting_timezone = 'Mars/Olympus'")
    assert conn.execute(sql.SQL("SELECT * FROM pg_temp.{}").format(sql.Identifier(table))).fetchall() == [
        ("Mars/Olympus",)
    ]


# -- rows from before


@pytest.fixture
def older_url(services_session: ServicesSession) -> Iterator[str]:
    """The URL of an application's database whose accounts have had settings for long."""
    server = services_session.postgres.database_url
    plain = f"settings_{uuid.uuid4().hex[:12]}"
    name = sql.Identifier(plain)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(name))
        url = server.partition("?")[0].rpartition("/")[0] + f"/{plain}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE account_settings (account_id int PRIMARY KEY, reporting_timezone text)")
            connection.execute(
                "INSERT INTO account_settings VALUES (1, 'Europe/Paris'), (7, 'Mars/Olympus'), (8, NULL), (9, '+02:00')"
            )
        yield url
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def test_migrations_refuse_zones_of_before_that_are_not_iana(older_url: str, tmp_path: Path) -> None:
    for path in MIGRATIONS.glob("*.sql"):
        shutil.copy(path, tmp_path)
    with pytest.raises(LocalError) as raised:
        migrate(older_url, folder=tmp_path)
    said = str(raised.value)
    assert "accounts whose reporting_timezone is not an IANA name: 7 (Mars/Olympus), 9 (+02:00)" in said
    assert "Set these to null, migrate again, and then give them IANA names" in said
    with psycopg.connect(older_url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM iana_timezones").fetchone() == (0,)
        connection.execute("UPDATE account_settings SET reporting_timezone = NULL WHERE account_id IN (7, 9)")
        migrate(older_url, folder=tmp_path)
        connection.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo' WHERE account_id = 7")
        found = connection.execute("SELECT DISTINCT timezone FROM rollup_days WHERE account_id = 7").fetchall()
        assert found == [("Asia/Tokyo",)]
