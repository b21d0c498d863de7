"""A real Kafka and a real PostgreSQL, from whichever source there is; `python -m local.services` runs both.

In this order, for each of the two: TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_DATABASE_URL name running ones; a Docker
engine that answers runs the official images; the PyPI packages of `local.kafka` and `local.postgres` run
them as plain processes. TEST_SERVICES=docker or =packages picks one of the last two.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from local.kafka import PROPERTIES, Kafka
from local.kafka_jars import VERSION
from local.postgres import SETTINGS, Postgres
from local.processes import LocalError, free_port

POSTGRES_IMAGE = "postgres:18"
KAFKA_IMAGE = f"apache/kafka:{VERSION}"
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Services:
    """Where the services are.

    Attributes:
        database_url: of a database in which others may be created; empty when PostgreSQL was not asked for.
        kafka_bootstrap: for `bootstrap.servers`; empty when Kafka was not asked for.
        origin: "environment" when all that was asked for is named there, else "docker" or "packages".
        postgres, kafka: the servers, to be stopped and killed; None unless they come from packages.
    """

    database_url: str
    kafka_bootstrap: str
    origin: str
    postgres: Postgres | None = None
    kafka: Kafka | None = None


@contextmanager
def services(
    folder: Path | None = None,
    *,
    kafka: bool = True,
    postgres: bool = True,
    kafka_properties: Mapping[str, str] = NOTHING,
    postgres_settings: Mapping[str, str] = NOTHING,
) -> Iterator[Services]:
    """Start what is asked for and not named in the environment; stop it on leaving. Raises `LocalError`.

    Packages keep their data in `folder`, or without one in a new folder that is deleted on leaving.
    """
    database_url = os.environ.get("TEST_DATABASE_URL", "") if postgres else ""
    kafka_bootstrap = os.environ.get("TEST_KAFKA_BOOTSTRAP_SERVERS", "") if kafka else ""
    start_postgres, start_kafka = postgres and not database_url, kafka and not kafka_bootstrap
    if not start_postgres and not start_kafka:
        yield Services(database_url, kafka_bootstrap, "environment")
        return
    with ExitStack() as stack:
        if _use_docker():
            if start_postgres:
                database_url = stack.enter_context(_docker_postgres(postgres_settings))
            if start_kafka:
                kafka_bootstrap = stack.enter_context(_docker_kafka(kafka_properties))
            yield Services(database_url, kafka_bootstrap, "docker")
            return
        temporary = folder is None
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="reporting-rollup-"))
            folder.chmod(0o711)  # as root, PostgreSQL runs as somebody else, who must get through
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = Postgres(folder / "postgres", settings=postgres_settings) if start_postgres else None
        broker = Kafka(folder / "kafka", properties=kafka_properties) if start_kafka else None
        with ThreadPoolExecutor() as pool:
            started = []
            for each in (server, broker):
                if each:
                    stack.callback(each.remove if temporary else each.stop)
                    started.append(pool.submit(each.start))
        for future in started:
            future.result()
        yield Services(
            server.url() if server else database_url,
            broker.bootstrap if broker else kafka_bootstrap,
            "packages",
            server,
            broker,
        )


def _use_docker() -> bool:
    wish = os.environ.get("TEST_SERVICES", "")
    if wish not in ("", "docker", "packages"):
        raise LocalError(f"TEST_SERVICES is {wish!r}: it may be docker or packages, or not be set")
    if wish == "packages":
        return False
    if _docker_answers():
        return True
    if wish == "docker":
        raise LocalError("TEST_SERVICES is docker, but no Docker engine answers: start it, or unset TEST_SERVICES")
    return False


def _docker_answers() -> bool:
    """Whether a Docker engine answers within a second. Says nothing when there is none."""
    sockets = [Path("/var/run/docker.sock"), Path.home() / ".docker/run/docker.sock"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        sockets.append(Path(runtime) / "docker.sock")
    if not os.environ.get("DOCKER_HOST") and not any(path.exists() for path in sockets):
        return False  # the usual case, without loading the client
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415 - comes with testcontainers
    from testcontainers.core.docker_client import get_docker_host  # noqa: PLC0415

    environment = dict(os.environ)
    if host := get_docker_host():
        environment["DOCKER_HOST"] = host
    try:
        client = docker.from_env(timeout=1, environment=environment)
    except (docker.errors.DockerException, OSError):
        return False
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()


@contextmanager
def _docker_postgres(settings: Mapping[str, str]) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415

    own = {k: v for k, v in SETTINGS.items() if k not in ("listen_addresses", "unix_socket_directories")}
    words = [word for k, v in {**own, **settings}.items() for word in ("-c", f"{k}={v}")]
    everything = "postgres"  # user, password and database: it lives as long as the tests
    container = PostgresContainer(POSTGRES_IMAGE, 5432, everything, everything, everything, driver=None)
    with container.with_command(words) as running:
        yield running.get_connection_url()


@contextmanager
def _docker_kafka(properties: Mapping[str, str]) -> Iterator[str]:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415

    # The broker tells clients its address, so that the port must be known before it starts.
    container = DockerContainer(KAFKA_IMAGE)
    host, port = container.get_container_host_ip(), free_port()
    advertised = {
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://{host}:{port}",
        "controller.quorum.voters": "1@localhost:9093",
    }
    for name, value in {**PROPERTIES, **properties, **advertised}.items():
        container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
    container.with_bind_ports(9092, port)
    container.waiting_for(LogMessageWaitStrategy("Kafka Server started"))
    with container:
        yield f"{host}:{port}"


def main() -> int:
    """The command: start both, print their addresses as export lines, run until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.services", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path(".local/services"), help="where data is kept (default: %(default)s)"
    )
    arguments = parser.parse_args()
    ended = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: ended.set())
    try:
        with services(arguments.folder) as running:
            print(f"export DATABASE_URL={running.database_url}")
            print(f"export KAFKA_BOOTSTRAP_SERVERS={running.kafka_bootstrap}", flush=True)
            print(f"Running (from {running.origin}) until Ctrl-C.", file=sys.stderr, flush=True)
            ended.wait()
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
