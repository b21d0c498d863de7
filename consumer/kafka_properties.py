"""Which librdkafka properties we set, which the operator may set, and which would break the promise.

Properties come from the environment: `KAFKA_FETCH_WAIT_MAX_MS=20` is `fetch.wait.max.ms=20`. Names and values that
are not in the tables below are librdkafka's business: it refuses what it does not know. Pure but for looking at
files that are named; it knows nothing of consumers or topics.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from consumer.errors import ConfigurationError

PREFIX = "KAFKA_"
FILE_SUFFIX = "_FILE"

MOST_SECRET_BYTES = 65_536
"""Far above any password, key or URL; a file that never ends is not read for ever."""

OURS = frozenset({"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_TOPICS", "KAFKA_GROUP_ID"})
"""Settings with a row of their own in `consumer.settings`."""

_SECRET = re.compile(r"password|secret|passphrase|key\.pem$|^sasl\.oauthbearer\.config$")

_NOT_MEANT_FOR_US = re.compile(
    # What Kubernetes puts into every pod beside a service called kafka or kafka-something.
    r"KAFKA(_\w+)?_SERVICE_(HOST|PORT(_\w+)?)|KAFKA(_\w+)?_PORT(_\d+_(TCP|UDP)(_(ADDR|PORT|PROTO))?)?"
    # What Kafka's own scripts read.
    r"|KAFKA_(HOME|OPTS|HEAP_OPTS|JMX_OPTS|JMX_PORT|LOG4J_OPTS|GC_LOG_OPTS|JVM_PERFORMANCE_OPTS)"
)


@dataclass(frozen=True, slots=True)
class Property:
    """A librdkafka property, its value, and why it has it."""

    name: str
    value: str | int
    why: str


DEFAULTS = (
    Property(
        "fetch.queue.backoff.ms",
        5,
        "At the default of 1000 a full queue runs empty before fetching goes on: 150,000 messages/s, not 540,000.",
    ),
    Property(
        "queued.max.messages.kbytes",
        65_536,
        "Bounds what is fetched ahead: memory depends on this, not on the lag.",
    ),
    Property(
        "fetch.max.bytes",
        8_388_608,
        "That bound is looked at before a fetch, and this is how much comes then, as compressed as it was sent. At the "
        "default of 52428800, 40 partitions of zstd took 780 MB, now 550 MB. Left out with a `message.max.bytes` or "
        "`queued.max.messages.kbytes` of yours, which it must fit.",
    ),
    Property("queued.min.messages", 100_000, "Several chunks ahead, so that decoding never waits for the network."),
    Property(
        "fetch.wait.max.ms", 50, "How long a broker may wait for more; bounds what it adds to freshness when caught up."
    ),
    Property(
        "partition.assignment.strategy",
        "cooperative-sticky",
        "A rebalance stops only the partitions that move. Left out with `group.protocol=consumer`.",
    ),
    Property(
        "reconnect.backoff.ms",
        500,
        "While no broker lets us in, the client connects twice as often as this says, and waits no longer with each "
        "failure: at the default of 100 twenty times a second.",
    ),
    Property("allow.auto.create.topics", "false", "A misspelt topic is an error, not a new empty topic."),
    Property("client.id", "reporting-rollup", "What broker logs and quotas call this program."),
)
"""Ours, tuned on the benchmark; each may be overridden."""

FIXED = (
    Property(
        "enable.auto.commit",
        "false",
        "Offsets live in PostgreSQL, in the transaction that counts their events; Kafka's copy follows afterwards.",
    ),
    Property(
        "enable.auto.offset.store", "false", "An offset counts as read when its transaction committed, not before."
    ),
    Property("isolation.level", "read_committed", "Events of an aborted producer transaction never happened."),
    Property(
        "auto.offset.reset",
        "error",
        "An offset that is gone must never be skipped in silence; ON_OFFSET_GAP says what to do then.",
    ),
    Property(
        "check.crcs",
        "true",
        "Else damaged bytes in a broker's log are counted as they are, or stop a partition without a word.",
    ),
    Property(
        "enable.partition.eof",
        "true",
        "Tells where a log ends, so that stored offsets pass what is no message there: transaction markers, aborted "
        "messages. Else they would count as lag for ever, and as lost once retention deletes them.",
    ),
)
"""Without these the counts are not exact. Another value is refused."""

CLASSIC_ONLY = (
    "partition.assignment.strategy",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "group.protocol.type",
)
"""With `group.protocol=consumer` the broker decides these."""

FETCH_FOLLOWS = frozenset({"message.max.bytes", "queued.max.messages.kbytes"})
"""librdkafka fits `fetch.max.bytes` to these if nobody sets it, and refuses one that does not fit: with any of them,
ours is left out."""

FILES = frozenset(
    {"ssl.ca.location", "ssl.certificate.location", "ssl.crl.location", "ssl.key.location", "ssl.keystore.location"}
)
"""Looked at before librdkafka does: what it says of a file that is not there names neither the file nor the cause."""

_COOPERATIVE = "cooperative-sticky"
_WORDS = {"false": {"false", "f", "0"}, "true": {"true", "t", "1"}}  # librdkafka's

MAX_POLL_INTERVAL_MS = 300_000
"""librdkafka's default."""


def variable_of(name: str) -> str:
    """The environment variable of a property: `fetch.wait.max.ms` -> `KAFKA_FETCH_WAIT_MAX_MS`."""
    return PREFIX + name.upper().replace(".", "_")


def is_secret(name: str) -> bool:
    """Whether the value of a property must never be shown; such a property can also be read from a file."""
    return _SECRET.search(name) is not None


def is_foreign(variable: str) -> bool:
    """Whether a KAFKA_ variable is somebody else's: Kubernetes' service links and Kafka's own scripts."""
    return _NOT_MEANT_FOR_US.fullmatch(variable) is not None


def read_secret_file(variable: str, path: str) -> str:
    """The text of a file that holds a secret, without the line ends that editors add.

    Raises:
        ConfigurationError: it cannot be read, is empty, larger than `MOST_SECRET_BYTES`, or no text. The message has
            nothing of the file, and names it only if `path` looks like a path: it may be the secret itself.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_SECRET_BYTES + 1)
        if len(content) > MOST_SECRET_BYTES:
            cause = f"it has more than {MOST_SECRET_BYTES} bytes"
        elif not (text := content.decode().rstrip("\r\n")):
            cause = "it is empty"
        elif "\0" in text:
            cause = "it is not text"
        else:
            return text
    except (OSError, ValueError) as error:  # of which UnicodeError is one, and a path with a NUL
        cause = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
    shown = repr(path) if Path(path).is_absolute() else "a file whose name is not shown, since it is no absolute path"
    # Without the cause: a UnicodeError holds what it could not decode.
    raise ConfigurationError(
        f"{variable} is wrong: cannot read {shown} ({cause}); allowed: the path of a readable text file"
    ) from None


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The properties that the environment sets, ours (`OURS`) left out. Raises `ConfigurationError` for a secret
    given twice or in a file that cannot be read."""
    found: dict[str, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in OURS or is_foreign(variable):
            continue
        name = variable.removeprefix(PREFIX).lower().replace("_", ".")
        plain = variable.removesuffix(FILE_SUFFIX)
        secret = name.removesuffix(".file")
        # Some properties that are no secrets end in .file themselves (sasl.oauthbearer.assertion.private.key.file).
        if plain == variable or not is_secret(secret):
            found[name] = environ[variable]
        elif plain in environ:
            raise ConfigurationError(f"{plain} and {variable} are both set; keep one of them")
        else:
            found[secret] = read_secret_file(variable, environ[variable])
    return found


def problems(overrides: Mapping[str, str]) -> Iterator[str]:
    """One line for each override that would break exactness, that the group protocol rules out, or that names a file
    which cannot be read."""
    for fixed in FIXED:
        found = overrides.get(fixed.name, str(fixed.value)).strip().lower()
        if found not in _WORDS.get(str(fixed.value), {fixed.value}):
            yield _wrong(overrides, fixed.name, f"only {fixed.value}. {fixed.why}")
    if "metadata.broker.list" in overrides:
        yield _wrong(overrides, "metadata.broker.list", "nothing; set KAFKA_BOOTSTRAP_SERVERS, its other name")
    if "max.poll.interval.ms" in overrides and not overrides["max.poll.interval.ms"].strip().isdecimal():
        yield _wrong(overrides, "max.poll.interval.ms", "a whole number of milliseconds from 1 to 86400000")
    for name in sorted(FILES & overrides.keys()):
        if overrides[name] != "probe" and (cause := _unreadable(Path(overrides[name]))):
            yield _wrong(overrides, name, f"the path of a file that this program can read ({cause})")
    if overrides.get("security.protocol", "").strip().lower().startswith("sasl") and not (
        overrides.keys() & {"sasl.mechanism", "sasl.mechanisms"}
    ):
        yield (
            "KAFKA_SASL_MECHANISM is not set; with KAFKA_SECURITY_PROTOCOL=SASL_… it has to be PLAIN, SCRAM-SHA-256, "
            "SCRAM-SHA-512 or OAUTHBEARER"
        )
    protocol = overrides.get("group.protocol", "classic").strip().lower()
    if protocol not in {"classic", "consumer"}:
        yield _wrong(overrides, "group.protocol", "one of classic, consumer")
    elif protocol == "consumer":
        for name in CLASSIC_ONLY:
            if name in overrides:
                yield _wrong(overrides, name, "nothing with KAFKA_GROUP_PROTOCOL=consumer: the broker decides it")
    elif overrides.get("partition.assignment.strategy", _COOPERATIVE).strip().lower() != _COOPERATIVE:
        allowed = f"{_COOPERATIVE}: the eager strategies stop every member at each rebalance, and are not supported"
        yield _wrong(overrides, "partition.assignment.strategy", allowed)


def _unreadable(path: Path) -> str | None:
    """Why a file (or a folder of files) cannot be read; None if it can."""
    if path.is_dir():
        return None
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return error.strerror


def _wrong(overrides: Mapping[str, str], name: str, allowed: str) -> str:
    return f"{variable_of(name)} is wrong: found {overrides[name]!r}; allowed: {allowed}"


def merged(overrides: Mapping[str, str]) -> dict[str, str | int]:
    """Our defaults and fixed values under the operator's, ready for librdkafka but for servers and group."""
    properties: dict[str, str | int] = {p.name: p.value for p in DEFAULTS + FIXED}
    if overrides.get("group.protocol", "").strip().lower() == "consumer":
        for name in CLASSIC_ONLY:
            properties.pop(name, None)
    if not FETCH_FOLLOWS.isdisjoint(overrides):
        del properties["fetch.max.bytes"]
    properties.update(overrides)
    return properties
