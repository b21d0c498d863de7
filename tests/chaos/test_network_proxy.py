"""The proxy itself: it sees what psycopg sends, and a client feels what it is told to do."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from consumer import database
from tests.chaos.postgres_wire import COMMIT, PostgresWire, through
from tests.chaos.proxy import Cut, Deed, Hold, Piece, Proxy

Connection = psycopg.Connection[Any]

INSERT = "INSERT INTO account_settings (account_id) VALUES (%s)"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(wire=PostgresWire) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy, database_url: str) -> Iterator[Connection]:
    url = through(proxy, database_url)
    with psycopg.connect(url, autocommit=True, application_name="me", tcp_user_timeout=1_000) as client:
        yield client


def at(label: str, *, to_server: bool, deed: Deed) -> Any:
    return lambda piece: deed if (piece.label, piece.to_server) == (label, to_server) else None


def accounts(conn: Connection) -> int:
    return len(conn.execute("SELECT FROM account_settings").fetchall())


def test_it_names_statements_and_their_answers(proxy: Proxy, client: Connection) -> None:
    seen: list[Piece] = []
    proxy.interfere = seen.append
    for account in range(2):
        with client.transaction():
            client.execute(INSERT, (account,), prepare=True)
            with client.cursor() as cursor, cursor.copy("COPY account_settings\n (account_id) FROM STDIN;") as copy:
                copy.write(f"{account + 10}\n")
    labels = [(piece.label, piece.step) for piece in seen if piece.to_server]
    insert, copy_in = INSERT.replace("%s", "$1"), "COPY account_settings (account_id) FROM STDIN"
    first = ["BEGIN", insert, insert, copy_in, f"DATA {copy_in}", COMMIT]  # it is prepared, then executed
    second = ["BEGIN", insert, copy_in, f"DATA {copy_in}", COMMIT]
    assert labels == [(label, step) for each in (first, second) for step, label in enumerate(each)]
    assert [(piece.label, piece.step) for piece in seen if not piece.to_server] == labels
    assert {(piece.session, piece.client) for piece in seen} == {(1, "me")}
    assert seen[-1].content == b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\5I"  # the tag, then ready for the next


def test_a_lost_answer_to_commit(proxy: Proxy, client: Connection, conn: Connection) -> None:
    proxy.interfere = at(COMMIT, to_server=False, deed=Cut())
    with pytest.raises(psycopg.OperationalError), client.transaction():
        client.execute(INSERT, (1,))
    assert accounts(conn) == 1


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_commit_that_arrives_in_part_or_not_at_all(
    proxy: Proxy, client: Connection, conn: Connection, share: float
) -> None:
    proxy.interfere = at(COMMIT, to_server=True, deed=Cut(share))
    with pytest.raises(psycopg.OperationalError), client.transaction():
        client.execute(INSERT, (1,))
    assert accounts(conn) == 0


def test_an_answer_cut_in_two(proxy: Proxy, client: Connection) -> None:
    proxy.interfere = at("SELECT 1234567", to_server=False, deed=Cut(0.5))
    with pytest.raises(psycopg.OperationalError):
        client.execute("SELECT 1234567")


def test_late_and_slow(proxy: Proxy, client: Connection) -> None:
    def seconds(statement: str) -> float:
        began = time.monotonic()
        client.execute(statement)
        return time.monotonic() - began

    proxy.interfere = at("SELECT 1", to_server=False, deed=Hold(0.3))
    assert seconds("SELECT 1") > 0.3
    proxy.delay = 0.1
    assert seconds("SELECT 2") > 0.2  # there and back
    proxy.restore()
    proxy.bytes_per_second = 10_000
    assert seconds("SELECT repeat('x', 5000)") > 0.4
    proxy.restore()
    assert client.execute("SELECT 3").fetchone() == (3,)


def test_silence(proxy: Proxy, client: Connection) -> None:
    proxy.silence()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(lambda: client.execute("SELECT 1").fetchone())
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(client.info.dsn, connect_timeout=2).close()
        assert not answer.done()  # TCP is content: the connection lives
        proxy.restore()
        assert answer.result(10) == (1,)


def test_lost_packets(proxy: Proxy, client: Connection) -> None:
    proxy.lose_packets()
    with pytest.raises(psycopg.OperationalError, match="timed out"):  # what TCP itself finds out
        client.execute("SELECT 1")
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", proxy.port), 1).close()
    proxy.restore()
    with psycopg.connect(client.info.dsn) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_consumers_connections_notice_lost_packets(proxy: Proxy, database_url: str) -> None:
    with database.connect(through(proxy, database_url), statement_timeout=60, application="tests") as conn:
        proxy.lose_packets()
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
        assert time.monotonic() - began < 25  # by TCP, long before a statement's 60 seconds
        assert conn.broken


def test_refused_and_cut(proxy: Proxy, client: Connection) -> None:
    proxy.refuse()
    with pytest.raises(psycopg.OperationalError):
        client.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(client.info.dsn).close()
    proxy.restore()
    with psycopg.connect(client.info.dsn) as again:
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            again.execute("SELECT 1")


def test_one_fault_after_the_other(proxy: Proxy, database_url: str) -> None:
    url = through(proxy, database_url)
    for fault in (proxy.refuse, proxy.lose_packets, proxy.silence, proxy.refuse, proxy.cut):
        fault()
    proxy.restore()
    with psycopg.connect(url) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_a_cut_is_a_reset_and_not_an_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(server.getsockname()[1]) as proxy:
        proxy.interfere = lambda piece: Cut(0.5) if piece.content == b"abcd" else None
        with socket.create_connection(("127.0.0.1", proxy.port)) as ours, server.accept()[0] as theirs:
            ours.sendall(b"hello")
            assert theirs.recv(10) == b"hello"
            ours.sendall(b"abcd")
            assert theirs.recv(10) == b"ab"
            for each in (ours, theirs):
                with pytest.raises(ConnectionResetError):
                    each.recv(10)
        with socket.create_connection(("127.0.0.1", proxy.port)) as ours, server.accept()[0] as theirs:
            theirs.close()
            assert ours.recv(10) == b""  # an end is passed on as an end


def test_what_fails_inside_it_fails_the_test(database_url: str) -> None:
    def fail(_: Piece) -> Deed:
        raise ValueError("a mistake in a scenario")

    with pytest.raises(AssertionError, match="the proxy failed"), Proxy(wire=PostgresWire) as proxy:
        proxy.interfere = fail
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(through(proxy, database_url)).close()
