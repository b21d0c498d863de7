"""The port of metrics and probes, open to whoever reaches it: slow, many, large, half and senseless clients. Probes go
on answering, and neither threads nor memory grow with what clients do."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest
from prometheus_client import CollectorRegistry

from consumer.health import Health
from consumer.health_server import MOST_CLIENTS, HealthServer
from tests.fixtures.processes import wait_for

SECONDS = 1.0
"""How long a client may take here."""


@pytest.fixture
def server() -> Iterator[HealthServer]:
    """A server as the programs have it, but for its patience."""
    server = HealthServer("127.0.0.1", 0, CollectorRegistry(), Health(now=time.monotonic()), client_seconds=SECONDS)
    server.start()
    yield server
    server.stop()


def connect(server: HealthServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def alive(server: HealthServer) -> bool:
    """Whether /livez answers as it should."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def answer(server: HealthServer, request: bytes) -> bytes:
    """All that the server says to these bytes, until it hangs up."""
    with connect(server) as client:
        with contextlib.suppress(OSError):  # it may hang up before all is sent
            client.sendall(request)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while more := client.recv(65_536):
                found += more
    return found


def server_threads() -> int:
    return sum(thread.name.startswith("Thread-") for thread in threading.enumerate())


def test_probes_answer_while_slow_clients_hold_every_place(server: HealthServer) -> None:
    """Twice as many slow clients as there are places, each sending a byte at a time, and coming back when cut off."""
    ended = threading.Event()
    before = server_threads()
    most = 0

    def trickle() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError), connect(server) as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ")
                while not ended.wait(0.1):
                    client.sendall(b"x")
            ended.wait(0.5)

    attackers = [threading.Thread(target=trickle) for _ in range(2 * MOST_CLIENTS)]
    for attacker in attackers:
        attacker.start()
    try:
        wait_for(lambda: server_threads() - len(attackers) - before >= MOST_CLIENTS, "every place taken")
        answers = []
        deadline = time.monotonic() + 2 * SECONDS
        while time.monotonic() < deadline:
            answers.append(alive(server))
            most = max(most, server_threads() - len(attackers) - before)
        assert len(answers) > 10
        assert answers.count(False) <= len(answers) // 20
    finally:
        ended.set()
        for attacker in attackers:
            attacker.join()
    assert most <= 2 * MOST_CLIENTS
    wait_for(lambda: alive(server), "an answer")
    wait_for(lambda: server_threads() <= before + 1, "the end of the clients' threads")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", b"431"),
        (b"GET /livez HTTP/9.9\r\n\r\n", b"505"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),  # somebody speaks TLS
        (b"\x00" * 200 + b"\r\n\r\n", b"400"),
        (b"GET /livez extra words HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /livez/../metrics HTTP/1.1\r\n\r\n", b"404"),
        (b"GET file:///etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", b"405"),
        (b"PUT /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", b"405"),
        (b"DELETE /status HTTP/1.1\r\n\r\n", b"405"),
        (b"CONNECT db:5432 HTTP/1.1\r\n\r\n", b"405"),
        (b"TRACE / HTTP/1.1\r\nCookie: hunter2\r\n\r\n", b"405"),
    ],
    ids=lambda value: value[:30].decode("latin-1").strip() if isinstance(value, bytes) else None,
)
def test_what_is_no_proper_request_is_refused(request_line: bytes, status: bytes, server: HealthServer) -> None:
    said = answer(server, request_line)
    assert said.startswith(b"HTTP/1.0 " + status)
    body = said.partition(b"\r\n\r\n")[2]
    assert b"hunter2" not in said
    assert b"root:" not in body
    assert len(body) < 200  # what was sent is not sent back
    assert alive(server)


def test_a_request_that_is_never_ended_is_bounded_in_memory(server: HealthServer) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(20)]
        block = b"x" * 65_536
        sent = 0
        for client in clients:
            with contextlib.suppress(OSError):
                client.settimeout(0.2)
                for _ in range(200):
                    sent += client.send(block)
        assert sent > 1_000_000
        assert alive(server)
    assert process.memory_info().rss - before < 64 * 2**20


def test_half_closed_idle_and_reset_connections_are_let_go(server: HealthServer) -> None:
    with connect(server) as half:
        half.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        half.shutdown(socket.SHUT_WR)
        assert half.recv(65_536).startswith(b"HTTP/1.0 200")
    with connect(server) as empty:
        empty.shutdown(socket.SHUT_WR)
        assert empty.recv(1) == b""
    with connect(server) as silent:
        began = time.monotonic()
        assert silent.recv(1) == b""  # cut off
        assert time.monotonic() - began < 5 * SECONDS
    with connect(server) as deaf:  # asks, and never reads the answer
        deaf.sendall(b"GET /metrics HTTP/1.0\r\n\r\n" * 3)
        wait_for(lambda: alive(server), "an answer")
    process = psutil.Process()
    wait_for(lambda: len(process.net_connections("tcp")) <= 2, "the end of all connections")


def test_it_listens_where_it_was_told_and_nowhere_else() -> None:
    server = HealthServer("127.0.0.1", 0, CollectorRegistry(), Health(now=time.monotonic()))
    server.start()
    try:
        listening = [c for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert ("127.0.0.1", server.port) in [tuple(c.laddr) for c in listening]
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", server.port), timeout=5)
    finally:
        server.stop()
