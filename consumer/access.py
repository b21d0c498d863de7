"""Refusals: Kafka or PostgreSQL answers, and does not let us in.

Waiting would not help, unlike with a server that is away: a password, a certificate or a right has to change, and the
programs read theirs when they start. So whoever is refused ends, with one line that says by whom, why and what to look
at (`AccessError`). What only looks like a refusal, and passes by itself, is left to those who wait.
"""

import re

import psycopg
from confluent_kafka import KafkaError

from consumer.database import one_line
from consumer.errors import AccessError, ConfigurationError

_KAFKA_ADVICE = {
    KafkaError._AUTHENTICATION: "check KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD (or _FILE)",
    KafkaError._SSL: "check KAFKA_SSL_CA_LOCATION, the broker's certificate and the names in it, and, if the broker "
    "wants a certificate of ours, KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION",
}
_WITHOUT_ANSWER = "Failed to acquire SASL OAUTHBEARER token"
"""An identity provider that is away is reported as a failed authentication, too."""

_TLS_ALERT = re.compile(r"SSL routines.* alert (bad certificate|certificate|unknown ca|access denied)")
"""With TLS 1.3 a broker tells what it thinks of our certificate when we believe to be connected, so that librdkafka
speaks of a connection that was lost."""

_TIME_SPENT = re.compile(r" \(after \d+ms in state \w+[^)]*\)$")

_POSTGRESQL_REFUSALS = re.compile(
    # The server's, of its authentication and of its pg_hba.conf. In other languages than English they are waited for.
    r"authentication failed for user|no pg_hba\.conf entry|pg_hba\.conf rejects|is not permitted to log in"
    r"|FATAL: +role \"[^\"]*\" does not exist|permission denied for database|requires a valid client certificate"
    # libpq's, before it sends anything: what it was given does not do.
    r"|no password supplied|server does not support SSL, but SSL was required|certificate verify failed"
    r"|server certificate for \"[^\"]*\".* does not match host name|root certificate file .* does not exist"
    r"|(could not (read|load) |)(certificate|private key) file .*"
    r"|alert (unknown ca|certificate required|certificate expired|bad certificate|certificate unknown)"
)
_POSTGRESQL_CLASSES = ("28", "42501")
"""Wrong credentials, or a right that is missing: https://www.postgresql.org/docs/current/errcodes-appendix.html"""


_POSTGRESQL_MISTAKES = re.compile(
    # libpq's, of the connection string, before it looks for a server.
    r"bad value for |invalid \S+ value: |invalid port number: |invalid integer value |could not match \d+ "
    r"|could not parse network address|definition of service .* not found"
    r"|service file .* not found|syntax error in service file"
    r"|Unix-domain socket path .* is too long|weak sslmode .* may not be used|invalid when SSL support was not compiled"
)


class Refusals:
    """Why the Kafka client cannot connect, as it tells in its error callback; a broker that is away is no refusal.

    To be used as `error_cb`, in one thread.
    """

    def __init__(self) -> None:
        self._code: int | None = None
        self._text = ""

    def __call__(self, error: KafkaError) -> None:
        """Take note of an error of the client."""
        text = error.str()
        code = KafkaError._SSL if _TLS_ALERT.search(text) else error.code()
        if code in _KAFKA_ADVICE and _WITHOUT_ANSWER not in text:
            self._code, self._text = code, _TIME_SPENT.sub("", text)

    def clear(self) -> None:
        """Forget what was: only what happens from now on counts."""
        self._code = None

    def error(self) -> AccessError | None:
        """What to end with if nobody answered; None if nobody refused us."""
        if self._code is None:
            return None
        return AccessError(f"Kafka refuses us: {self._text}; {_KAFKA_ADVICE[self._code]}")


def refused_topic(subject: str, error: KafkaError) -> AccessError | None:
    """What to end with if the cluster knows us, and does not let us read; None if it is about something else."""
    match error.code():
        case KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return AccessError(
                f"Kafka refuses us: {subject} may not be read by this user: grant DESCRIBE and READ on it"
            )
        case KafkaError.GROUP_AUTHORIZATION_FAILED:
            return AccessError(
                "Kafka refuses us: this user may not join the group: grant READ on the group, or set KAFKA_GROUP_ID to "
                "one that it may join"
            )
    return None


def refused_by_database(error: psycopg.Error) -> AccessError | ConfigurationError | None:
    """What to end with if PostgreSQL does not let us in, or not do what we must, or if nobody could be asked; None if
    it is about something else."""
    text = one_line(error)
    if error.sqlstate is None:
        if isinstance(error, psycopg.OperationalError | psycopg.ProgrammingError) and _POSTGRESQL_MISTAKES.search(text):
            return ConfigurationError(f"DATABASE_URL is wrong: {text}")
        if isinstance(error, psycopg.OperationalError) and _POSTGRESQL_REFUSALS.search(text):
            return AccessError(
                f"PostgreSQL refuses us: {text}; check the user, password, sslmode and certificates in DATABASE_URL"
            )
    elif error.sqlstate.startswith(_POSTGRESQL_CLASSES):
        return AccessError(f"PostgreSQL refuses us: {text}; docs/security.md says which rights each program needs")
    return None
