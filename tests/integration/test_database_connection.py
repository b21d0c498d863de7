"""Connections notice what is wrong with the server or the way there, by themselves and in time."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from consumer import database
from consumer.errors import SchemaError
from consumer.rollup.schema import check_schema
from tests.chaos.postgres_wire import PostgresWire, through
from tests.chaos.proxy import Hold, Proxy


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(wire=PostgresWire) as proxy:
        yield proxy


@pytest.fixture
def ours(proxy: Proxy, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[database.PatientConnection]:
    """A connection by way of the proxy, with a statement timeout of 1 s and a patience of 0.5 s more."""
    monkeypatch.setattr(database, "ANSWER_GRACE_SECONDS", 0.5)
    with database.connect(through(proxy, database_url), statement_timeout=1, application="tests") as conn:
        yield conn


def test_a_server_that_hangs_is_left(proxy: Proxy, ours: database.PatientConnection) -> None:
    proxy.silence()
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError, match="no answer for 2 s") as raised, ours.transaction():
        ours.execute("SELECT 1")
    assert 1.5 <= time.monotonic() - began < 3
    assert database.is_transient(raised.value)
    assert ours.closed
    assert ours.broken


def test_its_patience_is_at_most_as_long_again(proxy: Proxy, database_url: str) -> None:
    for timeout, patience in ((2, 4.0), (60, 60 + database.ANSWER_GRACE_SECONDS)):
        with database.connect(through(proxy, database_url), statement_timeout=timeout, application="tests") as conn:
            assert conn.answer_seconds == patience


def test_connecting_takes_no_longer_than_a_statement(proxy: Proxy, database_url: str) -> None:
    url = through(proxy, database_url)
    proxy.silence()
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError, match="timeout") as raised:
        database.connect(url, statement_timeout=1, application="tests").close()
    assert time.monotonic() - began < 4  # 2 s, the shortest that libpq knows
    assert database.is_transient(raised.value)


def test_a_server_that_cancels_is_not(ours: database.PatientConnection) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled) as raised:
        ours.execute("SELECT pg_sleep(10)")
    assert database.is_transient(raised.value)
    assert ours.execute("SELECT 1").fetchone() == (1,)


def test_a_late_answer_within_its_patience_is_an_answer(proxy: Proxy, ours: database.PatientConnection) -> None:
    proxy.interfere = lambda piece: None if piece.to_server else Hold(1.2)
    assert ours.execute("SELECT 1").fetchone() == (1,)


def test_patience_is_for_each_answer(proxy: Proxy, ours: database.PatientConnection) -> None:
    proxy.interfere = lambda piece: None if piece.to_server else Hold(0.5)
    with ours.transaction():
        for number in range(3):
            assert ours.execute("SELECT %s::int", (number,)).fetchone() == (number,)


def test_sessions_that_can_only_read_are_known(database_url: str) -> None:
    for option, expected in (("on", True), ("off", False)):
        url = make_conninfo(database_url, options=f"-c default_transaction_read_only={option}")
        with database.connect(url, statement_timeout=1, application="tests") as conn:
            assert database.is_read_only(conn) is expected


@pytest.mark.parametrize(
    "setting",
    [
        "standard_conforming_strings=off",
        "client_encoding=LATIN1",
        "bytea_output=escape",
        "DateStyle='SQL, DMY'",
        "array_nulls=off",
    ],
)
def test_what_is_written_is_what_is_read_whatever_the_database_prefers(database_url: str, setting: str) -> None:
    written = ([b"\xfe\x01", b"\\x00'", None], "日本 \\ '", datetime(2026, 2, 11, 9, 30, tzinfo=UTC))
    name = conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} SET {setting}".encode())
    with database.connect(database_url, statement_timeout=1, application="tests") as conn:
        assert conn.execute("SELECT %s::bytea[], %s::text, %s::timestamptz", written).fetchone() == written


@pytest.mark.parametrize("place", ["PGOPTIONS", "PGSERVICE", "the URL's service", "the URL"])
def test_settings_of_the_operator_are_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    options, url = "-c search_path=somewhere -c statement_timeout=0", database_url
    services = tmp_path / "pg_service.conf"
    services.write_text(f"[rollup]\noptions={options}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    if place == "PGOPTIONS":
        monkeypatch.setenv("PGOPTIONS", options)
    elif place == "PGSERVICE":
        monkeypatch.setenv("PGSERVICE", "rollup")
    else:
        url = make_conninfo(database_url, **{"options": options} if place == "the URL" else {"service": "rollup"})
    with database.connect(url, statement_timeout=1, application="tests") as conn:
        assert conn.execute("SHOW search_path").fetchone() == ("somewhere",)
        assert conn.execute("SHOW client_encoding").fetchone() == ("UTF8",)
        assert conn.execute("SHOW statement_timeout").fetchone() == ("1s",)  # ours
        # From the start: no statement could make it on a standby whose default is serializable.
        assert "default_transaction_isolation" in conn.info.options


def test_a_transaction_that_took_too_long_is_tried_again(database_url: str) -> None:
    url = make_conninfo(database_url, options="-c transaction_timeout=200ms")
    with database.connect(url, statement_timeout=5, application="tests") as conn:
        with pytest.raises(psycopg.errors.TransactionTimeout) as raised, conn.transaction():
            conn.execute("SELECT pg_sleep(2)")
        assert database.is_transient(raised.value)


def test_an_encoding_that_cannot_hold_every_text_is_refused(database_url: str) -> None:
    name = f"{conninfo_to_dict(database_url)['dbname']}_latin1"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0".encode())
        try:
            with (
                database.connect(
                    make_conninfo(database_url, dbname=name), statement_timeout=1, application="tests"
                ) as conn,
                pytest.raises(SchemaError, match=r"encoding is LATIN1.*ENCODING 'UTF8'"),
            ):
                check_schema(conn)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
