"""TLS and passwords to PostgreSQL, by DATABASE_URL alone, and what the programs say when they are not let in."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from local.events import produce
from local.migrate import migrate
from local.postgres import Postgres
from tests.fixtures.certificates import Authority
from tests.fixtures.events import assert_exact, load, prepare, wait_until_read
from tests.fixtures.processes import RunProgram, StartConsumer
from tests.fixtures.roles import RolesDatabase
from tests.fixtures.services import MakeTopic
from tests.fixtures.tls_front import TlsFront

Connection = psycopg.Connection[Any]

PASSWORD = "a-marked-secret"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Whom everybody trusts."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Whom nobody trusts."""
    return Authority(tmp_path / "stranger", "Nobody knows them")


def server_of(url: str) -> tuple[str, int]:
    parts = conninfo_to_dict(url)
    return str(parts["host"]), int(parts["port"] or 5432)


def through(front: TlsFront, url: str, **options: object) -> str:
    """The address of the same database behind the front."""
    parts = conninfo_to_dict(url)
    who = f"{parts['user']}:{parts['password']}" if parts.get("password") else str(parts["user"])
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"postgresql://{who}@127.0.0.1:{front.port}/{parts['dbname']}?{query}"


@pytest.mark.parametrize("mutual", [False, True], ids=["server's certificate", "certificates of both"])
def test_verified_tls(
    mutual: bool,
    conn: Connection,
    database_url: str,
    authority: Authority,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    run_program: RunProgram,
) -> None:
    options: dict[str, object] = {"sslmode": "verify-full", "sslrootcert": authority.certificate}
    if mutual:
        ours = authority.issue("rollup")
        options |= {"sslcert": ours.certificate, "sslkey": ours.key}
    shown = authority.issue("postgresql", "127.0.0.1")
    topic, sample = make_topic(2), load(300)
    prepare(conn, sample)
    produce(kafka_bootstrap, topic, sample.messages())
    with TlsFront(server_of(database_url), shown, authority.certificate if mutual else None) as front:
        url = through(front, database_url, **options)
        code, out, _ = run_program("consumer", "check", KAFKA_TOPICS=topic, DATABASE_URL=url)
        assert code == 0, out
        consumer = start_consumer(topic, DATABASE_URL=url)
        wait_until_read(conn, kafka_bootstrap, topic, consumer)
        assert consumer.terminate() == 0
        code, out, err = run_program("backfill", "--stale", DATABASE_URL=url)
        assert code == 0, out + err
        assert front.encrypted >= 4
    assert_exact(conn)


def assert_refused(start: StartConsumer, run: RunProgram, url: str, *words: str) -> None:
    """The consumer ends with exit code 8 and one line with these words, and so does the backfill with exit code 1."""
    consumer = start("reporting_events", DATABASE_URL=url)
    assert consumer.wait() == 8
    [failed] = consumer.logged("failed")
    assert failed["message"].startswith("PostgreSQL refuses us: ")
    assert "\n" not in failed["message"]
    assert "exception" not in failed
    code, out, err = run("backfill", "status", DATABASE_URL=url)
    assert code == 8
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in failed["message"]
        assert word in err
    assert PASSWORD not in consumer.out.read_text() + consumer.err.read_text() + out + err


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("not trusted", "certificate verify failed"),
        ("expired", "certificate verify failed"),
        ("another host", "does not match host name"),
        ("no authority", "does not exist"),
        ("no certificate of ours", "certificate required"),
    ],
)
def test_certificates_that_do_not_do(
    case: str,
    words: str,
    database_url: str,
    authority: Authority,
    stranger: Authority,
    start_consumer: StartConsumer,
    run_program: RunProgram,
) -> None:
    shown = authority.issue("postgresql", "127.0.0.1")
    trusted: Path = authority.certificate
    if case == "not trusted":
        trusted = stranger.certificate
    elif case == "expired":
        shown = authority.issue("postgresql", "127.0.0.1", lifetime=timedelta(hours=-1))
    elif case == "another host":
        shown = authority.issue("postgresql", "db.example")
    elif case == "no authority":
        trusted = Path("/no/such/file")
    clients = authority.certificate if case == "no certificate of ours" else None
    with TlsFront(server_of(database_url), shown, clients) as front:
        url = through(front, database_url, sslmode="verify-full", sslrootcert=trusted)
        assert_refused(start_consumer, run_program, url, words)


def test_a_server_without_tls(database_url: str, start_consumer: StartConsumer, run_program: RunProgram) -> None:
    url = database_url + ("&" if "?" in database_url else "?") + "sslmode=require"
    with psycopg.connect(database_url) as conn:
        if conn.execute("SHOW ssl").fetchone() == ("on",):
            pytest.skip("this server has TLS")
    assert_refused(start_consumer, run_program, url, "server does not support SSL")


@pytest.fixture
def with_passwords(service_folder: Path) -> Iterator[Postgres]:
    """A server that wants passwords, but for the superuser's."""
    with Postgres(service_folder / "postgres", settings={"fsync": "off"}) as server:
        (server.folder / "data/pg_hba.conf").write_text(
            "host all postgres 127.0.0.1/32 trust\nhost all locked_out 127.0.0.1/32 reject\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )
        migrate(server.url("rollup"))
        with psycopg.connect(server.url("rollup"), autocommit=True) as admin:
            admin.execute("SELECT pg_reload_conf()")
            for name in ("rollup", "locked_out"):
                statement = sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}")
                admin.execute(statement.format(sql.Identifier(name), PASSWORD))
        yield server


def test_passwords(with_passwords: Postgres, start_consumer: StartConsumer, run_program: RunProgram) -> None:
    where = f"127.0.0.1:{with_passwords.port}/rollup"
    code, out, err = run_program("backfill", "status", DATABASE_URL=f"postgresql://rollup:{PASSWORD}@{where}")
    assert code == 0, out + err
    for user, password, words in (
        ("rollup", f"{PASSWORD}-not", "password authentication failed"),
        ("nobody_knows_me", PASSWORD, "password authentication failed"),
        ("locked_out", PASSWORD, "pg_hba.conf"),
        ("rollup", "", "no password supplied"),
    ):
        assert_refused(start_consumer, run_program, f"postgresql://{user}:{password}@{where}", words)


def test_a_missing_right_is_told_in_one_line(roles_database: RolesDatabase, start_consumer: StartConsumer) -> None:
    consumer = start_consumer("reporting_events", DATABASE_URL=roles_database.url("reader"))
    assert consumer.wait() == 8
    [failed] = consumer.logged("failed")
    assert "permission denied for table schema_migrations" in failed["message"]
    assert "docs/security.md" in failed["message"]
    assert "exception" not in failed
