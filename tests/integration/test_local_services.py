"""The local stack: servers side by side, restarts, nothing left behind, topics."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from local.kafka import Kafka
from local.postgres import Postgres
from local.processes import LocalError, Process, free_port, port_is_free
from local.services import services
from tests.fixtures.services import MakeTopic

ROOT = Path(__file__).parents[2]
FAST = {"fsync": "off"}
END_SECONDS = 20.0
pytestmark = pytest.mark.services


# -- processes ---------------------------------------------------------------------------------------------------


def alive(process: psutil.Process) -> bool:
    """A zombie is not: it has ended, and nobody has asked for its exit code."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def still_alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of `processes` that have not ended after `END_SECONDS`; returns as soon as all have."""
    deadline = time.monotonic() + END_SECONDS
    while (left := [p for p in processes if alive(p)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def run_stack(folder: Path, **variables: str) -> tuple["subprocess.Popen[str]", dict[str, str]]:
    """`python -m local.services` on packages in `folder`, once it runs, and the variables that it exports."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TEST_")}
    stack = subprocess.Popen(
        [sys.executable, "-m", "local.services", "--folder", str(folder)],
        cwd=ROOT,
        env=environment | {"TEST_SERVICES": "packages"} | variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert stack.stdout
    lines = [stack.stdout.readline().strip() for _ in range(2)]
    assert all(line.startswith("export ") for line in lines), lines
    return stack, dict(line.removeprefix("export ").split("=", 1) for line in lines)


def test_the_stack_dies_with_its_python_and_its_data_stays(service_folder: Path, kafka_bootstrap: str) -> None:
    stack, exported = run_stack(service_folder)
    with stack:
        with psycopg.connect(exported["DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        assert exported["KAFKA_BOOTSTRAP_SERVERS"] != kafka_bootstrap  # two brokers side by side
        deliver(exported["KAFKA_BOOTSTRAP_SERVERS"], "kept")
        processes = psutil.Process(stack.pid).children(recursive=True)
        assert {"java", "postgres"} <= {p.name() for p in processes}
        stack.kill()
    assert still_alive(processes) == []

    with Postgres(service_folder / "postgres") as server, psycopg.connect(server.url()) as connection:
        assert connection.execute("TABLE kept").fetchone() == (42,)
    with Kafka(service_folder / "kafka") as broker:
        address = broker.bootstrap
        deliver(address, "kept")
        broker.kill()
        broker.start()
        assert broker.bootstrap == address
        assert len(read(address, "kept", 2)) == 2


def test_the_stack_ends_well_on_ctrl_c(service_folder: Path) -> None:
    stack, exported = run_stack(
        service_folder, TEST_DATABASE_URL="postgresql://db.example/x", TEST_KAFKA_BOOTSTRAP_SERVERS="kafka.example:9092"
    )
    with stack:
        assert exported == {
            "DATABASE_URL": "postgresql://db.example/x",
            "KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092",
        }
        stack.send_signal(signal.SIGINT)
        assert stack.wait(END_SECONDS) == 0


def test_a_program_outlives_the_thread_that_started_it_but_not_its_watcher(tmp_path: Path) -> None:
    started: list[Process] = []
    thread = threading.Thread(
        target=lambda: started.append(Process(["sleep", "600"], folder=tmp_path, log=tmp_path / "log"))
    )
    thread.start()
    thread.join()
    process = started[0]
    assert not process.wait(0.2)
    program = psutil.Process(process.pid)
    watcher = program.parent()
    assert watcher is not None
    watcher.kill()
    assert still_alive([program]) == []
    assert process.wait(END_SECONDS)


def test_a_program_that_cannot_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"cannot start /no/such/program: .*No such file"):
        Process(["/no/such/program"], folder=tmp_path, log=tmp_path / "log")


def test_free_ports_are_not_those_of_outgoing_connections() -> None:
    ports = {free_port() for _ in range(20)}
    assert len(ports) > 10
    assert all(port_is_free(port) for port in ports)
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if limits.exists():
        assert max(ports) < int(limits.read_text().split()[0])


# -- servers -----------------------------------------------------------------------------------------------------


def test_postgres_side_by_side_keeps_data_and_port(service_folder: Path) -> None:
    one, other = (Postgres(service_folder / name, settings=FAST) for name in ("one", "other"))
    with one, other:
        url = one.url()
        assert url != other.url()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS run")
        with psycopg.connect(other.url()) as connection:
            assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)
        one.stop()
        assert one.pid is None
        one.start()
        one.kill()
        one.start()
        assert one.url() == url
        with psycopg.connect(url) as connection:
            assert connection.execute("TABLE kept").fetchone() == (1,)
            assert connection.execute("SHOW fsync").fetchone() == ("off",)
    one.remove()
    assert not one.folder.exists()


def test_postgres_says_why_it_does_not_start(service_folder: Path, postgres_server: Postgres | None) -> None:
    if postgres_server is None:
        pytest.skip("the port of a server that is not ours may be on another machine")
    taken = Postgres(service_folder / "taken", port=postgres_server.port, settings=FAST)
    with pytest.raises(LocalError, match=rf"did not start on port {taken.port}(.|\n)*Address already in use"):
        taken.start()
    wrong = Postgres(service_folder / "wrong", settings={"no_such_setting": "1"})
    with pytest.raises(LocalError, match="unrecognized configuration parameter"):
        wrong.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as somebody else")
def test_postgres_of_root_starts_in_a_closed_folder(service_folder: Path) -> None:
    closed = service_folder / "closed"
    closed.mkdir(mode=0o700)
    server = Postgres(closed / "postgres", settings=FAST)
    with server:
        data = (closed / "postgres/data").resolve()
        assert psutil.Process(server.pid).uids().real != 0
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept ()")
    assert closed.stat().st_mode & 0o777 == 0o700
    with Postgres(closed / "postgres", settings=FAST) as again, psycopg.connect(again.url()) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == ("kept",)
    server.remove()
    assert not data.exists()


def test_services_named_in_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", "postgresql://db.example/x")
    monkeypatch.setenv("TEST_KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092")
    with services() as running:
        assert (running.database_url, running.kafka_bootstrap) == ("postgresql://db.example/x", "kafka.example:9092")
        assert (running.origin, running.postgres, running.kafka) == ("environment", None, None)
    monkeypatch.delenv("TEST_DATABASE_URL")
    monkeypatch.setenv("TEST_SERVICES", "cloud")
    with pytest.raises(LocalError, match="TEST_SERVICES is 'cloud'"), services():
        pass


# -- topics ------------------------------------------------------------------------------------------------------


def deliver(bootstrap: str, topic: str, count: int = 1) -> None:
    """Make `topic` unless it is there, and produce "0", "1", ... to it."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    if topic not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    failed: list[object] = []
    for i in range(count):
        producer.produce(topic, str(i), on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(30) == 0
    assert failed == []


def member(bootstrap: str, protocol: str = "classic") -> Consumer:
    """A consumer in a new group."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"group_{uuid.uuid4().hex}",
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )


def poll(consumer: Consumer, count: int) -> list[bytes]:
    """The values of the next `count` messages, or of those that came within 30 s."""
    values: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(values) < count and time.monotonic() < deadline:
        if (message := consumer.poll(0.1)) is not None:
            assert message.error() is None
            values.append(message.value() or b"")
    return values


def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """Up to `count` messages of the topic's partition 0, without a group."""
    with closing(member(bootstrap)) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return poll(consumer, count)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_topics_work_with_both_rebalance_protocols(kafka_bootstrap: str, make_topic: MakeTopic, protocol: str) -> None:
    topic = make_topic(partitions=3, retention_ms=-1)
    assert topic != make_topic()
    deliver(kafka_bootstrap, topic, 50)
    with closing(member(kafka_bootstrap, protocol)) as consumer:
        consumer.subscribe([topic])
        assert sorted(map(int, poll(consumer, 50))) == list(range(50))


def test_an_error_in_a_callback_reaches_the_test(kafka_bootstrap: str, make_topic: MakeTopic) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("in a callback")

    with closing(member(kafka_bootstrap)) as consumer:
        consumer.subscribe([make_topic()], on_assign=fail)
        with pytest.raises(RuntimeError, match="in a callback"):
            poll(consumer, 1)
