"""Health: the verdicts as functions of state and time, and the server over real connections."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer.errors import ConfigurationError
from consumer.health import Health, State, alive, ready, started
from consumer.health_server import MOST_CLIENTS, HealthServer
from consumer.metrics import Metrics

GOOD = State(ticked_at=0.0, started=True, joined=True, partitions=2, database_error=None, schema_error=None)


# Verdicts


def test_alive_is_a_matter_of_the_loop_alone() -> None:
    assert alive(State(ticked_at=100.0), now=700.0, limit=600.0).ok
    late = alive(replace(GOOD, ticked_at=100.0), now=701.0, limit=600.0)
    assert late.reasons == ("the loop has not turned for 601 s; the limit is 600 s",)
    for state in (replace(GOOD, database_error="refused"), replace(GOOD, joined=False), State(ticked_at=0.0)):
        assert alive(state, now=1.0, limit=600.0).ok


def test_ready_needs_everything() -> None:
    assert ready(GOOD).ok
    assert ready(replace(GOOD, partitions=0)).ok  # standing by
    for broken, reason in [
        (replace(GOOD, database_error="connection refused"), "database: connection refused"),
        (replace(GOOD, schema_error="0007 is missing"), "schema: 0007 is missing"),
        (replace(GOOD, joined=False), "not a member of the consumer group"),
        (replace(GOOD, stopping=True), "stopping"),
        (replace(GOOD, started=False), "starting"),
    ]:
        assert ready(broken).reasons == (reason,)


def test_started_says_what_it_waits_for() -> None:
    assert started(replace(GOOD, database_error="away")).ok  # once started, always started
    state = State(ticked_at=0.0)
    assert started(state).reasons == ("starting; database: not connected yet",)
    assert started(replace(state, database_error=None)).reasons == ("starting; schema: not checked yet",)
    assert started(replace(state, database_error=None, schema_error=None)).reasons == ("starting",)


def test_a_life() -> None:
    health = Health(now=5.0)
    assert health.state == State(ticked_at=5.0)
    health.database(None)
    health.schema(None)
    health.mark_started()
    assert not ready(health.state).ok
    health.joined_group(3)
    health.tick(9.0)
    assert health.state == replace(GOOD, ticked_at=9.0, partitions=3)
    health.database("no answer from postgresql://u:hunter2@db/x")
    assert ready(health.state).reasons == ("database: no answer from postgresql://u:***@db/x",)
    health.left_group()
    assert health.state.partitions == 0
    health.mark_stopping()
    assert health.state.stopping
    assert alive(health.state, 9.0, health.tick_limit_seconds).ok


def test_no_change_is_lost_between_threads() -> None:
    health = Health(now=0.0)
    together = threading.Barrier(2)

    def run(change: Callable[[int], None]) -> None:
        together.wait()
        for n in range(2000):
            change(n)

    threads = [
        threading.Thread(target=run, args=(lambda n: health.tick(float(n)),)),
        threading.Thread(target=run, args=(health.joined_group,)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (health.state.ticked_at, health.state.partitions) == (1999.0, 1999)


# The server


class Site:
    """A server on a free port, its health, and a clock that the test turns."""

    def __init__(self, client_seconds: float, address: str) -> None:
        self.now = 0.0
        self.health = Health(now=0.0, tick_limit_seconds=600.0)
        self.metrics = Metrics(CollectorRegistry())
        self.facts: Callable[[], dict[str, object]] = dict
        self.address = address
        self.server = HealthServer(
            address,
            0,
            self.metrics.registry,
            self.health,
            status=lambda: dict(self.facts()),
            clock=lambda: self.now,
            client_seconds=client_seconds,
        )

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection(self.address, self.server.port, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def probe(self, path: str) -> tuple[int, list[str]]:
        code, headers, body = self.ask(path)
        answer = json.loads(body)
        assert headers["Content-Type"] == "application/json"
        assert answer["ok"] == (code == 200)
        return code, answer["reasons"]


@contextmanager
def serving(client_seconds: float = 5.0, address: str = "127.0.0.1") -> Iterator[Site]:
    site = Site(client_seconds, address)
    site.server.start()
    try:
        yield site
    finally:
        site.server.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def test_probes_answer_with_reasons(site: Site) -> None:
    assert site.probe("/livez") == (200, [])
    assert site.probe("/startupz") == (503, ["starting; database: not connected yet"])
    assert site.probe("/readyz")[0] == 503
    site.health.database(None)
    site.health.schema(None)
    site.health.mark_started()
    site.health.joined_group(0)
    assert site.probe("/startupz") == site.probe("/readyz") == (200, [])
    site.health.database("connection refused")
    assert site.probe("/readyz") == (503, ["database: connection refused"])
    assert site.probe("/livez") == (200, [])
    site.now = 601.0
    assert site.probe("/livez") == (503, ["the loop has not turned for 601 s; the limit is 600 s"])


def test_metrics_are_in_the_format_that_is_asked_for(site: Site) -> None:
    site.metrics.transactions.inc(3)
    code, headers, body = site.ask("/metrics?debug=1")
    assert code == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "reporting_rollup_transactions_total 3.0\n" in body
    _, headers, body = site.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_status_is_one_object_of_state_and_facts(site: Site) -> None:
    site.now = 1.5
    site.facts = lambda: {"partitions_at": {"events-0": 17}}
    code, _, body = site.ask("/status")
    status = json.loads(body)
    assert code == 200
    assert status["seconds_since_tick"] == 1.5
    assert status["partitions_at"] == {"events-0": 17}
    assert status["database_error"] == "not connected yet"


def test_a_page_that_fails_is_an_answer_and_a_log_line(site: Site) -> None:
    def broken() -> dict[str, object]:
        raise LookupError("hunter2")

    site.facts = broken
    with capture_logs() as lines:
        code, _, body = site.ask("/status")
    assert code == 500
    assert json.loads(body)["reasons"] == ["this page failed: LookupError; see the log"]
    assert [line["event"] for line in lines] == ["http_failed"]
    assert site.probe("/livez") == (200, [])


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/nowhere"])
def test_head_is_get_without_a_body(path: str, site: Site) -> None:
    code, headers, body = site.ask(path, "GET")
    head_code, head_headers, head_body = site.ask(path, "HEAD")
    assert (head_code, head_body) == (code, "")
    assert body
    if path != "/metrics":  # its numbers move
        assert head_headers["Content-Length"] == headers["Content-Length"]


@pytest.mark.parametrize("path", ["/", "/nowhere", "/livez/"])
def test_elsewhere_says_where_to_go(path: str, site: Site) -> None:
    code, _, body = site.ask(path)
    assert code == 404
    assert body == "nothing here; there are /livez, /metrics, /readyz, /startupz, /status\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_it_is_read_only(method: str, site: Site) -> None:
    code, headers, _ = site.ask("/metrics", method)
    assert code == 405
    assert headers["Allow"] == "GET, HEAD"


def test_nonsense_is_refused_and_does_no_harm(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.server.port), timeout=10) as client:
        client.sendall(b"\x00\xff nonsense on the wire\r\n\r\n")
        assert b"400" in client.recv(4096)
    assert site.probe("/livez") == (200, [])


def test_a_client_that_goes_away_is_no_log_line(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    with capture_logs() as lines:
        for _ in range(5):
            client = socket.create_connection(("127.0.0.1", site.server.port), timeout=10)
            client.sendall(b"GET /metrics HTTP/1.0\r\n")
            # Reset instead of an orderly end.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            client.close()
        assert site.probe("/livez") == (200, [])
    assert lines == []
    assert capfd.readouterr() == ("", "")


def test_slow_clients_are_cut_off_and_hold_up_nobody() -> None:
    with serving(client_seconds=0.5) as site:
        slow = [socket.create_connection(("127.0.0.1", site.server.port), timeout=10) for _ in range(5)]
        for client in slow:
            client.sendall(b"GET /livez HTTP/1.0\r\nX: ")
        assert site.probe("/livez") == (200, [])
        for client in slow:
            assert client.recv(1) == b""  # blocks until the server hangs up; the test's time limit is the proof
            client.close()


def test_a_client_that_trickles_is_cut_off_too() -> None:
    with serving(client_seconds=0.5) as site:
        client = socket.create_connection(("127.0.0.1", site.server.port), timeout=0.05)
        client.sendall(b"GET /livez HTTP/1.0\r\n")
        for _ in range(400):  # 20 s of a byte each 50 ms; a limit on single reads would never strike
            try:
                client.sendall(b"X")
                if client.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("still connected")
        client.close()


def test_the_oldest_of_too_many_clients_loses_its_place() -> None:
    with serving(client_seconds=30.0) as site:
        held = [socket.create_connection(("127.0.0.1", site.server.port), timeout=10) for _ in range(MOST_CLIENTS)]
        assert site.probe("/livez") == (200, [])
        assert held[0].recv(1) == b""
        held[1].sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert held[1].recv(12) == b"HTTP/1.0 200"
        for client in held:
            client.close()


def test_a_port_in_use_is_one_line(site: Site) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HealthServer("127.0.0.1", site.server.port, CollectorRegistry(), site.health)
    assert str(caught.value) == (
        f"METRICS_PORT={site.server.port} cannot be listened on at METRICS_ADDRESS=127.0.0.1 "
        "(Address already in use); choose another port, or 0 for any free one"
    )


def test_an_address_of_another_machine_is_one_line(site: Site) -> None:
    with pytest.raises(ConfigurationError, match=r"METRICS_ADDRESS=192\.0\.2\.1 .*choose an address of this machine"):
        HealthServer("192.0.2.1", 0, CollectorRegistry(), site.health)


def test_ipv6_where_there_is_some() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with serving(address="::1") as site:
        assert site.probe("/livez") == (200, [])


def test_a_stopped_server_frees_its_port() -> None:
    with serving() as site:
        port = site.server.port
    HealthServer("127.0.0.1", port, CollectorRegistry(), Health(now=0.0)).stop()
