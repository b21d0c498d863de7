"""The schema, forward and back, on empty databases and on those of an application that has its tables already."""

import re
import uuid
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
import pytest

from consumer.errors import SchemaError
from consumer.rollup.schema import CODE, NEEDED, check_schema
from local.migrate import MIGRATIONS, migrate
from tests.fixtures.services import ServicesSession

Connection = psycopg.Connection[Any]
FILES = sorted(MIGRATIONS.glob("*.sql"))
APPLICATION = """
CREATE TABLE reporting_events (
    id bigint PRIMARY KEY, name varchar, value float, value_in_business_hours float, account_id integer,
    inbox_id integer, user_id integer, conversation_id integer, event_start_time timestamp, event_end_time timestamp,
    created_at timestamp(6) NOT NULL, updated_at timestamp(6) NOT NULL, team_id integer
);
CREATE TABLE account_settings (account_id integer PRIMARY KEY, plan text, reporting_timezone text);
INSERT INTO account_settings VALUES (42, 'large', 'Europe/Paris'), (43, 'small', NULL);
INSERT INTO reporting_events (id, name, created_at, updated_at) VALUES (1, 'reply_time', now(), now());
"""
SCHEMA = """
SELECT table_name, column_name, data_type, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT tablename, indexname, indexdef, '', '' FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), '', '' FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT proname, '', prosrc, '', '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace
ORDER BY 1, 2, 3
"""


@pytest.fixture
def empty_url(services_session: ServicesSession) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    server = services_session.postgres.database_url
    name = f"rollup_migrations_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        head, _, query = server.partition("?")
        yield f"{head.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty(empty_url: str) -> Iterator[Connection]:
    """A connection to the database with nothing in it."""
    with psycopg.connect(empty_url, autocommit=True) as conn:
        yield conn


def schema(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute(SCHEMA).fetchall()


def roll_back(url: str) -> None:
    """Every migration."""
    for _ in FILES:
        migrate(url, down=True)


def tables(conn: Connection) -> set[str]:
    found = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in found} - {"schema_migrations"}


# -- files


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_names_say_the_order_and_whether_old_programs_may_stay(file: Path) -> None:
    assert re.fullmatch(r"\d{4}_(expand|contract)_[a-z0-9_]+\.sql", file.name)
    up, down = file.read_text().split("-- migrate:down")
    assert up.count("-- migrate:up") == 1
    assert down.strip()
    if "_expand_" in file.name:
        assert not re.search(r"\bDROP (TABLE|COLUMN)\b", up, re.IGNORECASE)


def test_numbers_follow_without_gap_and_the_code_names_those_it_needs() -> None:
    numbers = [file.name[:4] for file in FILES]
    assert numbers == [f"{n:04}" for n in range(1, len(FILES) + 1)]
    assert set(NEEDED) <= set(numbers)


# -- forward and back


def test_up_down_and_up_again(empty_url: str, empty: Connection) -> None:
    migrate(empty_url)
    first = schema(empty)
    roll_back(empty_url)
    assert tables(empty) == set()
    assert empty.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace").fetchall() == []
    migrate(empty_url)
    assert schema(empty) == first
    assert check_schema(empty) == FILES[-1].name[:4]


def test_each_step_alone_goes_back_to_where_it_began(empty_url: str, empty: Connection, tmp_path: Path) -> None:
    for file in FILES:
        (tmp_path / file.name).write_text(file.read_text())
        before = schema(empty)
        migrate(empty_url, folder=tmp_path)
        migrate(empty_url, folder=tmp_path, down=True)
        after = [row for row in schema(empty) if row[0] != "schema_migrations"]
        assert after == [row for row in before if row[0] != "schema_migrations"]
        migrate(empty_url, folder=tmp_path)


def test_raw_events_survive_the_way_back(empty_url: str, empty: Connection) -> None:
    migrate(empty_url)
    empty.execute(
        "INSERT INTO reporting_events (id, name, account_id, created_at, updated_at) VALUES (1, 'x', 42, now(), now())"
    )
    roll_back(empty_url)
    assert tables(empty) == {"reporting_events"}
    assert empty.execute("SELECT id FROM reporting_events").fetchall() == [(1,)]
    migrate(empty_url)
    assert empty.execute("SELECT id FROM reporting_events").fetchall() == [(1,)]


def test_the_applications_own_tables_stay_as_they_were(empty_url: str, empty: Connection) -> None:
    empty.execute(APPLICATION)
    rows = "SELECT account_id, plan, reporting_timezone FROM account_settings ORDER BY 1"
    before, settings = empty.execute("SELECT t::text FROM reporting_events AS t").fetchall(), empty.execute(rows)
    stored = settings.fetchall()
    migrate(empty_url)
    assert empty.execute("SELECT reporting_events_rollup FROM account_settings").fetchall() == [(False,), (False,)]
    assert empty.execute(rows).fetchall() == stored
    roll_back(empty_url)
    assert tables(empty) == {"reporting_events", "account_settings"}
    assert empty.execute(rows).fetchall() == stored
    assert empty.execute("SELECT t::text FROM reporting_events AS t").fetchall() == before
    empty.execute("UPDATE account_settings SET reporting_timezone = 'whatever the application likes'")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        empty.execute("SELECT rollup_since FROM account_settings")


def test_accounts_that_had_a_time_zone_are_switched_on(empty_url: str, empty: Connection) -> None:
    empty.execute(APPLICATION)
    migrate(empty_url)
    since = empty.execute("SELECT account_id, rollup_since IS NOT NULL FROM account_settings ORDER BY 1").fetchall()
    assert since == [(42, True), (43, False)]


# -- what is in it


def test_the_database_has_the_zones_of_the_package(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        stored = {name for (name,) in conn.execute("SELECT name FROM iana_timezones")}
    assert stored == set(resources.files("tzdata").joinpath("zones").read_text().split())


def test_the_rollup_has_its_primary_key_and_no_other_index(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        found = conn.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'reporting_events_rollups'").fetchall()
    assert len(found) == 1
    assert "(account_id, date, dimension_type, dimension_id, metric)" in found[0][0]


# -- the check at start


def test_a_database_without_schema_is_refused(empty: Connection) -> None:
    with pytest.raises(SchemaError, match="no schema yet: apply the migrations"):
        check_schema(empty)


def test_a_missing_migration_is_named(empty_url: str, empty: Connection) -> None:
    migrate(empty_url)
    empty.execute("DELETE FROM schema_migrations WHERE version = %s", (NEEDED[-1],))
    with pytest.raises(SchemaError, match=f"lacks migration {NEEDED[-1]}: apply the migrations"):
        check_schema(empty)


def test_a_schema_for_newer_programs_is_refused(empty_url: str, empty: Connection) -> None:
    migrate(empty_url)
    empty.execute("UPDATE rollup_control SET needs_code = %s", (CODE + 1,))
    with pytest.raises(SchemaError, match=f"level {CODE + 1}, this one is level {CODE}: deploy a newer release"):
        check_schema(empty)


def test_the_row_of_control_must_be_there(empty_url: str, empty: Connection) -> None:
    migrate(empty_url)
    empty.execute("DELETE FROM rollup_control")
    with pytest.raises(SchemaError, match="INSERT INTO rollup_control DEFAULT VALUES"):
        check_schema(empty)


def test_a_migration_newer_than_the_code_needs_is_fine(empty_url: str, empty: Connection) -> None:
    migrate(empty_url)
    empty.execute("INSERT INTO schema_migrations (version) VALUES ('9999')")
    assert check_schema(empty) == "9999"
