"""What is a refusal, to be told and not waited for, and what only looks like one."""

import psycopg
import pytest
from confluent_kafka import KafkaError

from consumer.access import Refusals, refused_by_database, refused_topic
from consumer.errors import AccessError, ConfigurationError

REFUSED = [
    (KafkaError._AUTHENTICATION, "ssl://b:1/bootstrap: SASL authentication error: no (after 316ms in state AUTH_REQ)"),
    (KafkaError._SSL, "b:1: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker"),
    (KafkaError._TRANSPORT, "b:1: Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: x"),
]
AWAY = [
    (KafkaError._TRANSPORT, "b:1: Connect to ipv4#b:1 failed: Connection refused (after 0ms in state CONNECT)"),
    (KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"),
    (KafkaError._AUTHENTICATION, "Failed to acquire SASL OAUTHBEARER token: could not resolve host"),
    (KafkaError._RESOLVE, "b:1: Failed to resolve"),
]


@pytest.mark.parametrize(("code", "text"), REFUSED)
def test_a_broker_that_refuses(code: int, text: str) -> None:
    refusals = Refusals()
    refusals(KafkaError(code, text))
    refusals(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))  # which always follows
    error = refusals.error()
    assert isinstance(error, AccessError)
    assert text.split(" (after", maxsplit=1)[0] in str(error)
    assert "check KAFKA_S" in str(error)
    assert " ms" not in str(error)
    refusals.clear()
    assert refusals.error() is None


@pytest.mark.parametrize(("code", "text"), AWAY)
def test_a_broker_that_is_away(code: int, text: str) -> None:
    refusals = Refusals()
    refusals(KafkaError(code, text))
    assert refusals.error() is None


def test_what_may_not_be_read() -> None:
    topic = refused_topic("topic 't'", KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    group = refused_topic("topic 't'", KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    assert "topic 't' may not be read" in str(topic)
    assert "KAFKA_GROUP_ID" in str(group)
    assert refused_topic("topic 't'", KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)) is None


@pytest.mark.parametrize(
    "text",
    [
        'connection to server at "::1", port 5432 failed: FATAL:  password authentication failed for user "x"',
        'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "x", database "y", no encryption',
        'FATAL:  role "x" does not exist',
        "SSL error: tlsv1 alert unknown ca",
        'private key file "/k" has group or world access; file must have permissions u=rw (0600) or less',
    ],
)
def test_a_database_that_refuses(text: str) -> None:
    error = refused_by_database(psycopg.OperationalError(f"connection failed:\n{text}"))
    assert isinstance(error, AccessError)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "connection refused",
        "FATAL:  the database system is starting up",
        "FATAL:  sorry, too many clients already",
        'FATAL:  database "x" does not exist',  # migrations may make it in a moment
        "server closed the connection unexpectedly",
        "could not translate host name",
        "SSL SYSCALL error: EOF detected",
    ],
)
def test_a_database_that_is_away(text: str) -> None:
    assert refused_by_database(psycopg.OperationalError(f"connection failed: {text}")) is None


@pytest.mark.parametrize(
    ("mistake", "names"),
    [
        ("sslmode=foo", "foo"),
        ("port=99999", "99999"),
        ("port=1,2,3", "3"),
        ("service=nope", "nope"),
        ("target_session_attrs=best", "best"),
        ("hostaddr=nowhere", "nowhere"),
        ("connect_timeout=soon", "soon"),
    ],
)
def test_a_wrong_connection_string(mistake: str, names: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        psycopg.connect(f"host=127.0.0.1 {'' if mistake.startswith('port') else 'port=1'} {mistake}")
    error = refused_by_database(raised.value)
    assert isinstance(error, ConfigurationError)
    assert str(error).startswith("DATABASE_URL is wrong: ")
    assert names in str(error)


def test_what_the_database_quotes_stays_hidden() -> None:
    error = psycopg.errors.InsufficientPrivilege("no\nDETAIL:  Failing row contains (17, lorem).")
    assert "lorem" not in str(refused_by_database(error))


def test_a_missing_right_is_a_refusal_and_a_broken_rule_is_not() -> None:
    assert "docs/security.md" in str(refused_by_database(psycopg.errors.InsufficientPrivilege("permission denied")))
    assert refused_by_database(psycopg.errors.InvalidPassword("no")) is not None
    assert refused_by_database(psycopg.errors.UniqueViolation("twice")) is None
    assert refused_by_database(psycopg.errors.InsufficientResources("full")) is None
