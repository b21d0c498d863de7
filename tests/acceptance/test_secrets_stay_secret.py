"""Marked secrets are given to the programs, and looked for in all that they show: logs, errors, tracebacks, metrics,
pages, command lines. librdkafka logs as much as it can."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from local.events import produce
from local.migrate import migrate, status
from local.processes import LocalError, free_port
from tests.fixtures.events import load, prepare, wait_until_read
from tests.fixtures.processes import Consumer, Program, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

pytestmark = pytest.mark.timeout(300)

MARK = "hunter2-marked"
PAGES = ("/metrics", "/status", "/readyz", "/livez", "/startupz", "/nothing")


def with_password(url: str, port: int | None = None) -> str:
    """The URL with a marked password, which the test's server does not ask for."""
    parts = conninfo_to_dict(url)
    return f"postgresql://{parts['user']}:{MARK}@{parts['host']}:{port or parts['port']}/{parts['dbname']}"


def secret(folder: Path, text: str) -> str:
    file = folder / f"secret-{len(list(folder.iterdir()))}"
    file.write_text(text + "\n")
    return str(file)


@pytest.fixture
def variables(consumer_variables: dict[str, str], database_url: str, tmp_path: Path) -> dict[str, str]:
    """A consumer's settings, with every secret from a file, and everything logged."""
    if conninfo_to_dict(database_url).get("password"):
        pytest.skip("the server of this run asks for a password")
    folder = tmp_path / "secrets"
    folder.mkdir()
    settings = {name: value for name, value in consumer_variables.items() if name != "DATABASE_URL"}
    return {
        **os.environ,
        **settings,
        "DATABASE_URL_FILE": secret(folder, with_password(database_url)),
        "KAFKA_SASL_USERNAME": "rollup",
        "KAFKA_SASL_PASSWORD_FILE": secret(folder, MARK),
        "KAFKA_SSL_KEY_PASSWORD_FILE": secret(folder, MARK),
        "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET_FILE": secret(folder, MARK),
        "KAFKA_DEBUG": "all",
    }


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    """Programs to be ended after the test."""
    started: list[Program] = []
    yield started
    for program in started:
        program.kill()


def everything_shown(program: Program) -> str:
    return program.out.read_text() + program.err.read_text()


def test_a_consumer_at_work(
    conn: Connection,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    variables: dict[str, str],
    programs: list[Program],
    tmp_path: Path,
) -> None:
    topic, sample = make_topic(1), load(200)
    prepare(conn, sample)
    produce(kafka_bootstrap, topic, sample.messages())
    consumer = Consumer(tmp_path / "consumer", ["consumer"], {**variables, "KAFKA_TOPICS": topic}, whole=True)
    programs.append(consumer)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    pages = "".join(consumer.get(page)[1] for page in PAGES)
    process = psutil.Process(consumer.pid)
    commands = " ".join(word for one in [process, *process.children(recursive=True)] for word in one.cmdline())
    sessions = str(conn.execute("SELECT application_name, query FROM pg_stat_activity").fetchall())
    # What does not pass by itself ends it, with a traceback.
    conn.execute("ALTER TABLE consumer_offsets RENAME TO gone")
    produce(kafka_bootstrap, topic, load(10, 2, first_id=9_000).messages())
    assert consumer.wait() == 1
    shown = everything_shown(consumer)
    assert "Traceback" in shown
    assert shown.count("kafka_client") > 50  # librdkafka did log
    for place, text in (("output", shown), ("pages", pages), ("commands", commands), ("sessions", sessions)):
        assert MARK not in text, place
    assert "***" in shown  # that there is a password may be seen


def test_servers_that_are_away_and_settings_that_are_wrong(
    variables: dict[str, str], database_url: str, programs: list[Program], tmp_path: Path
) -> None:
    port = str(free_port())
    away = {**variables, "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}"}
    del away["DATABASE_URL_FILE"]
    folder = tmp_path / "more"
    folder.mkdir()
    cases: dict[str, tuple[list[str], dict[str, str]]] = {
        "consumer": (["consumer"], {"DATABASE_URL": with_password(database_url, int(port))}),
        "check": (["consumer", "check", "--timeout=1"], {"DATABASE_URL": with_password(database_url, int(port))}),
        "letters": (["consumer", "dead-letters", "list"], {"DATABASE_URL": f"postgresql://u:{MARK}@127.0.0.1:x/y"}),
        "status": (["backfill", "status"], {"DATABASE_URL": with_password(database_url, int(port))}),
        "no url": (["consumer"], {"DATABASE_URL": f"postgresql://u:{MARK}@[::1/"}),
        "percent": (["backfill", "status"], {"DATABASE_URL": f"postgresql://u:{MARK}%zz@h/d"}),
        "words": (["consumer"], {"DATABASE_URL": f"host=h password={MARK} nonsense"}),
        "both": (["consumer"], {"DATABASE_URL": f"password={MARK}", "DATABASE_URL_FILE": secret(folder, MARK)}),
        "no path": (["consumer"], {"DATABASE_URL_FILE": f"postgresql://u:{MARK}@h/d"}),
        "no property": (["consumer"], {"DATABASE_URL": database_url, "KAFKA_SASL_NO_SUCH_PASSWORD": MARK}),
        "misspelt": (["consumer", "check", "--timeout=1"], {"DATABASE_URLS": f"postgresql://u:{MARK}@h/d"}),
        "wrong key": (
            ["consumer"],
            {"DATABASE_URL": database_url, "KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEY_PEM": MARK},
        ),
    }
    for case, (words, more) in cases.items():
        program = Program(tmp_path / case, words, {**away, **more}, whole=True)
        programs.append(program)
        if case == "consumer":
            wait_for(lambda: "database_lost" in program.out.read_text(), "trouble", program)  # noqa: B023
            assert isinstance(program.pid, int)
            program.kill()
        else:
            assert program.wait() != 0, case
        assert MARK not in everything_shown(program), case
        assert everything_shown(program).strip(), case


def test_migrations_take_the_url_from_the_environment(database_url: str, tmp_path: Path) -> None:
    if conninfo_to_dict(database_url).get("password"):
        pytest.skip("the server of this run asks for a password")
    (tmp_path / "9001_expand_wait.sql").write_text(
        "-- migrate:up\nSELECT pg_advisory_xact_lock(4711);\n-- migrate:down\nSELECT 1;\n"
    )
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT pg_advisory_lock(4711)")
        url = with_password(database_url)
        runner = threading.Thread(target=migrate, args=(url,), kwargs={"folder": tmp_path})
        runner.start()
        try:

            def running() -> list[str]:
                for child in psutil.Process().children(recursive=True):
                    try:
                        words = child.cmdline()
                    except psutil.Error:
                        continue
                    if words and Path(words[0]).name == "dbmate":
                        return [str(word) for word in words]
                return []

            seen = wait_for(running, "dbmate")
        finally:
            holder.execute("SELECT pg_advisory_unlock(4711)")
            runner.join()
    assert "up" in seen
    assert MARK not in " ".join(seen)
    (tmp_path / "9002_expand_wrong.sql").write_text("-- migrate:up\nnonsense;\n-- migrate:down\nSELECT 1;\n")
    with pytest.raises(LocalError) as raised:
        migrate(with_password(database_url), folder=tmp_path)
    assert MARK not in str(raised.value)
    with pytest.raises(LocalError) as raised:
        status(with_password(database_url, free_port()))
    assert MARK not in str(raised.value)


def test_the_backfill_with_a_url_from_a_file(variables: dict[str, str], tmp_path: Path) -> None:
    program = Program(tmp_path / "status", ["backfill", "status"], variables)
    assert program.wait() == 0
    assert MARK not in everything_shown(program)
