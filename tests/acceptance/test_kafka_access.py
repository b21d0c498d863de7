"""TLS and authentication to Kafka, by configuration alone: a real broker, certificates made here, and what it says when
it is not let in. Refused is not away: the program ends, and neither broker nor log is flooded."""

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from local.events import produce
from local.kafka import Kafka
from tests.fixtures.certificates import Authority, Pair
from tests.fixtures.events import assert_exact, load, prepare, total, wait_until_read
from tests.fixtures.processes import RunProgram, StartConsumer, wait_for
from tests.fixtures.services import KAFKA_PROPERTIES

pytestmark = pytest.mark.timeout(300)  # up to three brokers start

Connection = psycopg.Connection[Any]
Variables = dict[str, str | int]

TOPIC, GROUP = "reporting_events", "rollup"
PASSWORD = "a marked secret"
MOST_LINES = 12
"""Lines of librdkafka's in a log of seconds; without a limit there are twenty a second."""


class Guarded:
    """A broker that lets in whom it knows, with a topic that `rollup` alone may read, in group `rollup`."""

    def __init__(self, folder: Path, protocol: str, properties: dict[str, str]) -> None:
        self.authority = Authority(folder / "ours")
        self.stranger = Authority(folder / "stranger", "Nobody knows them")
        self.folder = folder
        server = self.authority.issue("broker", "127.0.0.1")
        stores = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(server.both),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # the plain listener, which is ours
        }
        users = {"rollup": PASSWORD, "stranger": PASSWORD} if protocol.startswith("SASL") else {}
        self.kafka = Kafka(
            folder / "kafka", properties={**KAFKA_PROPERTIES, **stores, **properties}, secure=protocol, scram=users
        )

    def prepare(self, principal: str) -> None:
        """Make the topic, and grant `principal` what a consumer needs."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap, "log_level": 0})
        admin.create_topics([NewTopic(TOPIC, 2, 1)])[TOPIC].result(30)
        grants = [
            AclBinding(kind, name, ResourcePatternType.LITERAL, principal, "*", operation, AclPermissionType.ALLOW)
            for kind, name, operation in (
                (ResourceType.TOPIC, TOPIC, AclOperation.DESCRIBE),
                (ResourceType.TOPIC, TOPIC, AclOperation.READ),
                (ResourceType.GROUP, GROUP, AclOperation.READ),
            )
        ]
        for granted in admin.create_acls(grants).values():
            granted.result(30)

    def secret(self, text: str) -> Path:
        """A file that holds a secret, and ends as editors end files."""
        path = self.folder / f"secret-{abs(hash(text))}"
        path.write_text(text + "\n")
        return path


@contextmanager
def guarded(protocol: str, principal: str, **properties: str) -> Iterator[Guarded]:
    folder = Path(tempfile.mkdtemp(prefix="reporting-rollup-test-"))
    broker = Guarded(folder, protocol, {name.replace("_", "."): value for name, value in properties.items()})
    try:
        broker.kafka.start()
        broker.prepare(principal)
        yield broker
    finally:
        broker.kafka.remove()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def with_passwords() -> Iterator[Guarded]:
    """A broker that wants a name and a password, over TLS."""
    with guarded("SASL_SSL", "User:rollup") as broker:
        yield broker


@pytest.fixture(scope="module")
def with_certificates() -> Iterator[Guarded]:
    """A broker that wants a certificate."""
    with guarded("SSL", "User:CN=rollup", ssl_client_auth="required") as broker:
        yield broker


def scram(broker: Guarded, user: str = "rollup", password: str = PASSWORD) -> Variables:
    """Settings for a name and a password in a file."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": broker.kafka.secure_bootstrap,
        "KAFKA_GROUP_ID": GROUP,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": user,
        "KAFKA_SASL_PASSWORD_FILE": str(broker.secret(password)),
        "KAFKA_SSL_CA_LOCATION": str(broker.authority.certificate),
    }


def mutual(broker: Guarded, pair: Pair | None) -> Variables:
    """Settings for a certificate of ours."""
    ours: Variables = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.kafka.secure_bootstrap,
        "KAFKA_GROUP_ID": GROUP,
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CA_LOCATION": str(broker.authority.certificate),
    }
    if pair:
        ours |= {"KAFKA_SSL_CERTIFICATE_LOCATION": str(pair.certificate), "KAFKA_SSL_KEY_LOCATION": str(pair.key)}
    return ours


def assert_counts(
    conn: Connection, broker: Guarded, settings: Variables, start: StartConsumer, run: RunProgram
) -> None:
    """A consumer with these settings checks, counts everything, and ends in order."""
    code, out, _ = run("consumer", "check", KAFKA_TOPICS=TOPIC, **settings)
    assert code == 0, out
    sample = load(500)
    prepare(conn, sample)
    produce(broker.kafka.bootstrap, TOPIC, sample.messages())
    consumer = start(TOPIC, **settings)
    wait_until_read(conn, broker.kafka.bootstrap, TOPIC, consumer)
    assert consumer.terminate() == 0
    assert total(conn).counted == sample.expected.events
    assert_exact(conn)
    assert PASSWORD not in out + consumer.out.read_text()


def test_a_password_over_tls(
    conn: Connection, with_passwords: Guarded, start_consumer: StartConsumer, run_program: RunProgram
) -> None:
    assert_counts(conn, with_passwords, scram(with_passwords), start_consumer, run_program)


def test_a_certificate_on_both_sides(
    conn: Connection, with_certificates: Guarded, start_consumer: StartConsumer, run_program: RunProgram
) -> None:
    pair = with_certificates.authority.issue("rollup")
    assert_counts(conn, with_certificates, mutual(with_certificates, pair), start_consumer, run_program)


def assert_refused(settings: Variables, words: str, start: StartConsumer) -> None:
    """A consumer ends soon with exit code 8 and one line that has these words, without flooding anybody."""
    consumer = start(TOPIC, **settings)
    assert consumer.wait() == 8
    [failed] = consumer.logged("failed")
    assert failed["message"].startswith("Kafka refuses us: ")
    for word in words.split("|"):
        assert word in failed["message"]
    assert "\n" not in failed["message"]
    assert "exception" not in failed
    assert len(consumer.logged("kafka_client")) <= MOST_LINES
    assert consumer.err.read_text() == ""
    assert PASSWORD not in consumer.out.read_text()


REFUSED_PASSWORDS = {
    "wrong password": ("rollup", "another", "authentication|KAFKA_SASL_PASSWORD"),
    "unknown user": ("nobody", PASSWORD, "authentication|KAFKA_SASL_USERNAME"),
    "no rights": ("stranger", PASSWORD, "topic 'reporting_events'|grant"),
}


@pytest.mark.parametrize("case", REFUSED_PASSWORDS)
def test_whom_the_broker_does_not_know(case: str, with_passwords: Guarded, start_consumer: StartConsumer) -> None:
    user, password, words = REFUSED_PASSWORDS[case]
    assert_refused(scram(with_passwords, user, password), words, start_consumer)


def test_no_right_to_the_group(with_passwords: Guarded, start_consumer: StartConsumer) -> None:
    assert_refused(
        {**scram(with_passwords), "KAFKA_GROUP_ID": "somebody-elses"}, "group|KAFKA_GROUP_ID", start_consumer
    )


def test_a_broker_that_the_consumer_does_not_trust(with_passwords: Guarded, start_consumer: StartConsumer) -> None:
    trusting = {"KAFKA_SSL_CA_LOCATION": str(with_passwords.stranger.certificate)}
    words = "certificate verify failed|KAFKA_SSL_CA_LOCATION"
    assert_refused({**scram(with_passwords), **trusting}, words, start_consumer)


@pytest.mark.parametrize("case", ["none", "expired", "of another authority"])
def test_certificates_that_the_broker_does_not_take(
    case: str, with_certificates: Guarded, start_consumer: StartConsumer
) -> None:
    pair = None
    if case == "expired":
        pair = with_certificates.authority.issue("rollup", lifetime=timedelta(hours=-1))
    elif case == "of another authority":
        pair = with_certificates.stranger.issue("rollup")
    assert_refused(mutual(with_certificates, pair), "KAFKA_SSL_CERTIFICATE_LOCATION", start_consumer)


def test_check_says_the_same_without_starting(with_passwords: Guarded, run_program: RunProgram) -> None:
    code, out, err = run_program(
        "consumer", "check", "--timeout=5", KAFKA_TOPICS=TOPIC, **scram(with_passwords, password="another")
    )
    assert code == 1
    [line] = [line for line in out.splitlines() if "broker" in line]
    assert line.startswith("FAIL broker")
    assert "KAFKA_SASL_PASSWORD" in line
    assert err == ""


@pytest.mark.parametrize("variable", ["KAFKA_SSL_CA_LOCATION", "KAFKA_SSL_KEY_LOCATION"])
def test_a_file_that_is_not_there_is_a_wrong_setting(
    variable: str, with_certificates: Guarded, start_consumer: StartConsumer
) -> None:
    settings = mutual(with_certificates, with_certificates.authority.issue("rollup"))
    consumer = start_consumer(TOPIC, **{**settings, variable: "/no/such/file"})
    assert consumer.wait() == 2
    [line] = consumer.err.read_text().splitlines()
    assert line.startswith(f"{variable} is wrong: found '/no/such/file'")
    assert "No such file or directory" in line


def test_a_server_that_hangs_up_is_not_hammered(start_consumer: StartConsumer) -> None:
    """What listens may be anything; it is waited for, and asked a few times a second."""
    times: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                times.append(time.monotonic())
                client.close()

        threading.Thread(target=hang_up, daemon=True).start()
        consumer = start_consumer(
            TOPIC,
            KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{listener.getsockname()[1]}",
            KAFKA_SECURITY_PROTOCOL="SSL",
        )
        wait_for(lambda: len(times) >= 30, "connections", consumer)
        listener.shutdown(socket.SHUT_RDWR)
    assert times[29] - times[0] > 2.5  # two clients; at librdkafka's default, more than twenty a second
    assert len(consumer.logged("kafka_client")) <= MOST_LINES
    assert consumer.get("/readyz")[0] == 503
    assert consumer.terminate() == 0
