"""Log lines: a fixed event word and fields, one line each, on standard output. Never payloads, never secrets.

    log = structlog.get_logger()
    log.warning(Event.OFFSET_CONFLICT, topic=topic, partition=partition, offset=offset)

Words are in `Event` and nowhere else, so that alerts and tests can rely on them. What the standard library's loggers
and librdkafka say takes the same way, under the words `library` and `kafka_client`.
"""

import contextlib
import logging
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from enum import StrEnum
from typing import Any, TextIO

import structlog
from structlog.types import EventDict, Processor

HIDDEN = "***"

KAFKA_LOGGER = "librdkafka"
"""Name of the logger to hand to the Kafka client: `Consumer(properties, logger=logging.getLogger(KAFKA_LOGGER))`."""

REPEAT_SECONDS = 60.0
"""How often the same line of librdkafka's is written; `repeated` counts the others."""

_MOST_TEXTS = 1_000
_CHANGING = re.compile(r" \(after \d+ms in state [^)]*\)|^\w+ \[[^\]]*\] \[thrd:[^\]]*\]: ")
"""What differs between two lines that say the same: durations, and who says it."""


class Event(StrEnum):
    """The word of a log line, and what has happened when it is written."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> "Event":
        event = str.__new__(cls, word)
        event._value_ = word
        event.meaning = meaning
        return event

    STARTING = "starting", "The process starts; the settings in force, without secrets."
    STARTED = "started", "Connections and schema are good; the consumer joins its group."
    STOPPING = "stopping", "A signal or an error ends the process; the batch in flight is finished first."
    STOPPED = "stopped", "The end was orderly: everything is committed or given back. `failed` may follow and say why."
    FAILED = "failed", "The process ends with an error; what to do is in `message`."
    SETTING_SUSPECT = "setting_suspect", "A variable looks like a misspelt setting."
    HTTP_LISTENING = "http_listening", "Address and port of metrics and probes."
    HTTP_FAILED = "http_failed", "A metrics or probe request could not be answered."
    PARTITIONS_ASSIGNED = "partitions_assigned", "Partitions came to this member, and the offsets they start from."
    PARTITIONS_REVOKED = "partitions_revoked", "Partitions are given away, after their batch in flight."
    PARTITIONS_LOST = "partitions_lost", "Partitions were taken without asking; their batch in flight will conflict."
    BATCH_COMMITTED = "batch_committed", "A transaction is through (debug level): its size, outcome counts and time."
    BATCH_RETRIED = "batch_retried", "A transaction rolled back and is tried again; `sqlstate` says why."
    BATCH_TOO_LARGE = (
        "batch_too_large",
        "Transactions took longer than a statement may: their messages are read again, `limit` at once.",
    )
    SILENT_SESSIONS_ENDED = (
        "silent_sessions_ended",
        "Sessions of frozen consumers, which kept locks that this one waited for; `pids` of PostgreSQL.",
    )
    OFFSET_CONFLICT = "offset_conflict", "Stored offsets are not the expected ones; they are read again."
    OFFSET_GAP = "offset_gap", "A stored offset does not fit the topic; messages may be missing."
    SETTINGS_RELOADED = "settings_reloaded", "Accounts' settings changed; time zones were read again."
    DAYS_STALE = "days_stale", "Events came for days that are not counted live; these days wait for a rebuild."
    DEAD_LETTERS = "dead_letters", "Messages that cannot be events were set aside; where the first one is."
    TOO_MANY_DEAD_LETTERS = "too_many_dead_letters", "So many recent messages are bad that the consumer stops."
    PAUSED = "paused", "Reading stops while PostgreSQL is away; the partitions are kept."
    RESUMED = "resumed", "Reading goes on."
    DATABASE_LOST = "database_lost", "The connection to PostgreSQL is gone; connecting again goes on by itself."
    DATABASE_BACK = "database_back", "PostgreSQL answers again."
    KAFKA_CLIENT = (
        "kafka_client",
        "A line of librdkafka's own, in `message`; the same one at most once a minute.",
    )
    LIBRARY = "library", "A line of another library; its text is in `message`."


_URI_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s]*(@)", re.IGNORECASE)
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_NAME_OF_HIDDEN = r"(?:password|passwd|passphrase|secret)"
# Connection strings. Up to a space: in a URI that hides the options behind the password as well, where there is no
# telling them apart.
_ASSIGNED_SECRET = re.compile(rf"({_NAME_OF_HIDDEN}\s*=\s*)(?:{_QUOTED})?\S*", re.IGNORECASE | re.DOTALL)
# Dictionaries and JSON.
_MAPPED_SECRET = re.compile(rf"({_NAME_OF_HIDDEN}[\"']?\s*:\s*)(?:{_QUOTED}|\S+)", re.IGNORECASE | re.DOTALL)
# PostgreSQL quotes the row that failed in these lines of an error.
_QUOTED_ROW = re.compile(r"^(DETAIL|CONTEXT):.*$", re.MULTILINE)

_SECRET_FIELD = re.compile(r"password|passwd|passphrase|secret", re.IGNORECASE)
_PAYLOAD_FIELDS = frozenset({"payload", "value", "key", "headers"})


def redact(text: str) -> str:
    """`text` with the passwords of URIs and of `password=...` pairs hidden, and rows that PostgreSQL quotes."""
    text = _URI_PASSWORD.sub(rf"\1{HIDDEN}\2", text)
    text = _ASSIGNED_SECRET.sub(rf"\1{HIDDEN}", text)
    text = _MAPPED_SECRET.sub(rf"\1{HIDDEN}", text)
    return _QUOTED_ROW.sub(rf"\1: {HIDDEN}", text)


def _safe(name: str, value: object) -> object:
    if _SECRET_FIELD.search(name) or name in _PAYLOAD_FIELDS:
        return HIDDEN
    match value:
        case None | bool() | int() | float():
            return value
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case Mapping():
            return {str(k): _safe(str(k), v) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_safe(name, v) for v in value]
        case _:
            return redact(str(value))


def _hide(_: object, __: str, fields: EventDict) -> EventDict:
    for name, value in fields.items():
        if not name.startswith("_"):
            fields[name] = _safe(name, value)
    return fields


def _name_library_line(_: object, __: str, fields: EventDict) -> EventDict:
    record = fields["_record"]
    word = Event.KAFKA_CLIENT if record.name == KAFKA_LOGGER else Event.LIBRARY
    repeated = {"repeated": record.repeated} if "repeated" in record.__dict__ else {}
    return {**fields, "message": fields["event"], "logger": record.name, "event": word, **repeated}


def _lead_with_time_level_event(_: object, __: str, fields: EventDict) -> EventDict:
    first: MutableMapping[str, Any] = {k: fields.pop(k) for k in ("timestamp", "level", "event") if k in fields}
    return {**first, **fields}


class _Lines(logging.StreamHandler[TextIO]):
    """Where nobody takes the lines (a full disk, a reader that went), counting goes on; standard error says so once."""

    _lost = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
        elif not self._lost:
            self._lost = True
            with contextlib.suppress(OSError):
                sys.stderr.write(f"log lines are lost: {sys.exc_info()[1]}\n")


class _Repeats(logging.Filter):
    """Lets a line of librdkafka's through once a minute, and says how often it came meanwhile: while a broker is away,
    or refuses us, the client says so at every attempt to connect."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}  # when it was last let through, how often it came since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != KAFKA_LOGGER:
            return True
        text = _CHANGING.sub("", record.getMessage())
        now = time.monotonic()
        at, count = self._seen.get(text, (now - REPEAT_SECONDS, 0))
        if now - at < REPEAT_SECONDS:
            self._seen[text] = (at, count + 1)
            return False
        if len(self._seen) >= _MOST_TEXTS:
            self._seen.clear()
        self._seen[text] = (now, 0)
        if count:
            record.__dict__["repeated"] = count
        return True


def configure(level: str = "info", style: str = "json") -> None:
    """Send all log lines of this process to standard output, a flushed line each. Call it once, at the start.

    Args:
        level: the least important level written: `debug`, `info`, `warning` or `error`.
        style: `json`, or `console` for people.
    """
    stamp: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: Processor = structlog.processors.JSONRenderer(ensure_ascii=False)
    if style == "console":
        last = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    # Both ways end in one handler: its lock keeps lines whole between threads, and it flushes after each, so that a
    # kill loses none.
    handler = _Lines(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*stamp, structlog.stdlib.PositionalArgumentsFormatter(), _name_library_line],
            processors=[
                structlog.processors.format_exc_info,
                # After the traceback has become text: it may quote a connection string.
                _hide,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _lead_with_time_level_event,
                last,
            ],
        )
    )
    handler.addFilter(_Repeats())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *stamp,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a logger made while a module is imported follows a later configure()
    )
