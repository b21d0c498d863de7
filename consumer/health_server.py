"""The small HTTP server for scrapes and probes: /metrics, /livez, /readyz, /startupz and /status. Read only.

Answers of probes are one JSON object that says why not: `{"ok": false, "reasons": ["database: connection refused"]}`,
with status 200 or 503. It runs in threads of its own, so that it answers while the loop is busy or stuck. It is open
to whoever reaches the port: it shows no payloads and no secrets, and slow clients are cut off.
"""

import contextlib
import errno
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from consumer.errors import ConfigurationError
from consumer.health import Health, Verdict, alive, ready, started
from consumer.logs import Event

SLOW_CLIENT_SECONDS = 5.0
"""How long one client may take for its whole request and answer. Below Prometheus's usual scrape timeout of 10 s."""

MOST_CLIENTS = 64
"""Connections at once; one more takes the place of the oldest. Prometheus and the probes need a handful, and are
answered in milliseconds: it is slow clients that lose their place to them, and never the other way round."""

_TURN_SECONDS = 0.2

log = structlog.get_logger()

Answer = tuple[int, str, bytes]
"""Status, content type, body."""

Page = Callable[[str], Answer]
"""Answers a request, given its Accept header. Called in a server thread; must not block."""


class HealthServer:
    """Listens from the moment it is made, answers after `start`.

    Args:
        address: IPv4 or IPv6 address to listen on.
        port: 0 takes any free one; see the attribute `port`.
        registry: what /metrics shows.
        health: what the probes show.
        status: more facts for /status, as JSON values. Called in a server thread; must not block.
        clock: monotonic seconds.
        client_seconds: how long one client may take.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """

    def __init__(
        self,
        address: str,
        port: int,
        registry: CollectorRegistry,
        health: Health,
        *,
        status: Callable[[], Mapping[str, object]] = dict,
        clock: Callable[[], float] = time.monotonic,
        client_seconds: float = SLOW_CLIENT_SECONDS,
    ) -> None:
        def metrics(accept: str) -> Answer:
            encode, content_type = choose_encoder(accept)
            return 200, content_type, encode(registry)

        def status_page(_: str) -> Answer:
            state = asdict(health.state)
            state["seconds_since_tick"] = round(clock() - state.pop("ticked_at"), 3)
            return _json(200, {**state, **status()})

        pages: dict[str, Page] = {
            "/livez": lambda _: _probe(alive(health.state, clock(), health.tick_limit_seconds)),
            "/metrics": metrics,
            "/readyz": lambda _: _probe(ready(health.state)),
            "/startupz": lambda _: _probe(started(health.state)),
            "/status": status_page,
        }
        try:
            self._server = _Server(address, port, pages, client_seconds)
        except OSError as error:
            way_out = "choose another port, or 0 for any free one"
            if error.errno == errno.EADDRNOTAVAIL:
                way_out = "choose an address of this machine, or 0.0.0.0 for all"
            raise ConfigurationError(
                f"METRICS_PORT={port} cannot be listened on at METRICS_ADDRESS={address} ({error.strerror}); {way_out}"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_TURN_SECONDS,), name="health-server", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port; answers under way are cut off. Takes up to 0.2 s."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _json(code: int, body: Mapping[str, object]) -> Answer:
    return code, "application/json", json.dumps(body, default=str).encode() + b"\n"


def _probe(verdict: Verdict) -> Answer:
    return _json(200 if verdict.ok else 503, {"ok": verdict.ok, "reasons": list(verdict.reasons)})


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that hangs must not hold up the end of the process
    block_on_close = False
    request_queue_size = MOST_CLIENTS

    def __init__(self, address: str, port: int, pages: Mapping[str, Page], client_seconds: float) -> None:
        self.pages = pages
        self._client_seconds = client_seconds
        self._deadlines: dict[socket.socket, float] = {}  # the oldest first
        self._serving: set[socket.socket] = set()  # those whose thread has not ended yet
        self._deadlines_lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host's name, which can take seconds where there is no DNS.
        TCPServer.server_bind(self)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        with self._deadlines_lock:
            if len(self._serving) >= 2 * MOST_CLIENTS:  # threads of those that lost their place take a moment to end
                return False
            if len(self._deadlines) >= MOST_CLIENTS:
                self._hang_up(next(iter(self._deadlines)))
            self._deadlines[request] = time.monotonic() + self._client_seconds
            self._serving.add(request)
        return True

    def shutdown_request(self, request: Any) -> None:
        with self._deadlines_lock:
            self._deadlines.pop(request, None)
            self._serving.discard(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        # A socket timeout bounds one read; a client that sends a byte a second is only stopped by a deadline.
        now = time.monotonic()
        with self._deadlines_lock:
            for request in [r for r, deadline in self._deadlines.items() if deadline < now]:
                self._hang_up(request)

    def _hang_up(self, request: socket.socket) -> None:
        """Cut a client off, with the lock held."""
        del self._deadlines[request]
        with contextlib.suppress(OSError):  # the client was faster
            request.shutdown(socket.SHUT_RDWR)  # its thread reads an end, and closes

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        error = sys.exception()
        if not isinstance(error, OSError):  # a client that went away is nobody's error
            log.error(Event.HTTP_FAILED, exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "reporting-rollup"
    sys_version = ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"
    default_request_version = "HTTP/1.0"  # what cannot be understood is answered with a status, too

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # any method but those below
            return self._refuse
        raise AttributeError(name)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse a request without saying what was in it."""
        super().send_error(code)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        page = self.server.pages.get(path)
        if page is None:
            paths = ", ".join(self.server.pages)
            self._send((404, self.error_content_type, f"nothing here; there are {paths}\n".encode()))
            return
        try:
            answer = page(self.headers.get("Accept", ""))
        except Exception as error:  # whatever a page runs into, the client gets an answer
            log.error(Event.HTTP_FAILED, path=path, exc_info=error)
            answer = _json(500, {"ok": False, "reasons": [f"this page failed: {type(error).__name__}; see the log"]})
        self._send(answer)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _refuse(self) -> None:
        self._send((405, self.error_content_type, b"read only: GET or HEAD\n"), allow="GET, HEAD")

    def _send(self, answer: Answer, allow: str | None = None) -> None:
        code, content_type, body = answer
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if allow:
            self.send_header("Allow", allow)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Probes every few seconds are no events of interest."""
