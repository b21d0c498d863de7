"""Connections to PostgreSQL, and what its errors mean: which pass by themselves, and how long to wait for that."""

import os
import time
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from consumer.logs import redact

T = TypeVar("T")

ANSWER_GRACE_SECONDS = 5.0
"""The most that an answer may come after its statement timeout, and never more than that timeout again. Servers cancel
by themselves; one that does not hangs (a stopped process, a dead disk, a proxy that has lost the other side) while a
kernel goes on saying that it is there, so that no keepalive notices."""

CONNECT_SECONDS = 10
"""The most that connecting may take; less for those with a shorter statement timeout, whose owners cannot wait."""

# Classes and codes that go away without a change of ours: https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT_CLASSES = ("08", "40", "53", "57", "58")
# Lock timeout; read-only: a failover that is not over; we were frozen, or waited longer than a transaction may take.
_TRANSIENT_CODES = ("55P03", "25006", "25P03", "25P04")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait before the next attempt: doubling from `first` up to `most`."""

    first: float = 0.05
    most: float = 5.0

    def delay(self, failures: int) -> float:
        """The wait after `failures` failed attempts in a row (1 or more)."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30))


class PatientConnection(psycopg.Connection[TupleRow]):
    """A connection that does not wait for ever: without an answer within `answer_seconds` it breaks."""

    answer_seconds: float | None = None

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """As psycopg's, through which everything goes that waits for the server once we are connected."""
        if timeout is not None or self.answer_seconds is None:
            return super().wait(gen, interval, timeout)
        deadline = time.monotonic() + self.answer_seconds
        try:
            return super().wait(gen, interval, self.answer_seconds)
        except psycopg.OperationalError as error:
            if error.sqlstate is not None or self.closed or time.monotonic() < deadline:
                raise  # the server's own word, or the connection's end
            # Nobody listens to what it may still say: the next statement needs another connection.
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"no answer for {self.answer_seconds:.0f} s, longer than the server's own statement timeout: it hangs, "
                "or something on the way swallows what it says. Trying again on a new connection"
            ) from error


def connect(dsn: str, *, statement_timeout: int, application: str) -> PatientConnection:
    """An autocommit connection that notices a dead server within about 15 seconds, and one that hangs soon after its
    statement timeout.

    Args:
        dsn: a connection URI or key=value string.
        statement_timeout: seconds until PostgreSQL cancels a statement, or a transaction that we do not go on with.
        application: the connection's name in pg_stat_activity.

    Raises:
        psycopg.OperationalError: the server is away or refuses us.
    """
    milliseconds = statement_timeout * 1000
    settings = {
        "statement_timeout": milliseconds,
        # A process that is frozen in a transaction must not keep others from the partitions it has lost.
        "idle_in_transaction_session_timeout": milliseconds,
        # Nor a host that died in one; PostgreSQL waits two hours by default.
        "tcp_keepalives_idle": 10,
        "tcp_keepalives_interval": 5,
        "tcp_keepalives_count": 3,
        # Nor one that is frozen while it should read an answer: no other timeout counts while the server sends.
        "tcp_user_timeout": milliseconds,
        # Commits need not wait for the disk: offsets are lost together with the rows, and Kafka still has the events.
        "synchronous_commit": "off",
        "timezone": "UTC",
        # What the driver can read, whatever the database or the role prefers; and what it writes is to be read so: with
        # backslashes as escapes, an array of bytes would become other bytes.
        "datestyle": "ISO",
        "intervalstyle": "postgres",
        "standard_conforming_strings": "on",
        "array_nulls": "on",
        # Policies that hide rows from us would make totals wrong, and nobody would see it: an error instead.
        "row_security": "off",
        # Each statement must see what was committed while it waited for a lock.
        "default_transaction_isolation": r"read\ committed",
    }
    patience = min(CONNECT_SECONDS, max(2, statement_timeout))  # libpq knows nothing shorter than 2
    # At the start of the session, not by statements after it: poolers that share sessions between transactions refuse
    # that, and would have ours make settings for others.
    options = [_options(dsn, patience), *(f"-c {name}={value}" for name, value in settings.items())]
    conn = PatientConnection.connect(
        dsn,
        autocommit=True,
        connect_timeout=patience,
        application_name=application,
        client_encoding="UTF8",
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=15_000,
        options=" ".join(options),
    )
    conn.answer_seconds = statement_timeout + min(ANSWER_GRACE_SECONDS, statement_timeout)
    return conn


def _options(dsn: str, patience: int) -> str:
    """The operator's own `options`, which ours would take the place of."""
    given = conninfo_to_dict(dsn)
    if "options" not in given and ("service" in given or "PGSERVICE" in os.environ):
        with psycopg.connect(dsn, connect_timeout=patience) as conn:  # libpq alone knows what is said of a service
            return conn.info.options
    return str(given.get("options") or os.environ.get("PGOPTIONS", ""))


def end_silent_sessions(conn: psycopg.Connection) -> list[int]:
    """End sessions like ours that stopped in the midst of talking to the server, and return their process ids.

    A process that is frozen while it sends rows or a pipeline of statements keeps its locks: no `statement_timeout` and
    no `idle_in_transaction_session_timeout` applies while PostgreSQL waits for the rest. So whoever waited in vain for
    those locks ends it. One that reads no answers is no better; over TCP the server notices by itself. Like ours means:
    any of our programs, in our database and with our login (PostgreSQL allows no other), that has written something and
    is silent for longer than our own `statement_timeout`.

    Args:
        conn: in autocommit, outside of a transaction.

    Raises:
        psycopg.Error
    """
    return [pid for (pid,) in conn.execute(_END_SILENT_SESSIONS)]


# OFFSET keeps the order: first who is silent, then the end of it.
_END_SILENT_SESSIONS = """
    SELECT pid FROM (
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
            AND application_name LIKE 'reporting-rollup %' AND backend_xid IS NOT NULL
            AND wait_event_type = 'Client' AND wait_event IN ('ClientRead', 'ClientWrite')
            AND clock_timestamp() - greatest(query_start, state_change) > current_setting('statement_timeout')::interval
        OFFSET 0
    ) AS silent
    WHERE pg_terminate_backend(pid)
"""


def is_usable(conn: psycopg.Connection) -> bool:
    """Whether a connection can begin something. One that broke cannot, nor one that an error left in the midst of a
    COPY or a pipeline: it would answer for ever that another command is in progress."""
    return not conn.closed and conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def is_read_only(conn: psycopg.Connection) -> bool:
    """Whether this session can only read: of a standby, or of a primary that is to be written no more. It stays so when
    the server changes its mind, or another one takes over: connect again. Asks nobody."""
    known = conn.info.parameter_status
    return known("default_transaction_read_only") == "on" or known("in_hot_standby") == "on"


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same statements can succeed later without anybody changing them."""
    code = error.sqlstate
    if code is None:  # the connection broke, or was never made
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return code.startswith(_TRANSIENT_CLASSES) or code in _TRANSIENT_CODES


def one_line(error: psycopg.Error) -> str:
    """What PostgreSQL or its client said, without passwords or the rows that it quotes."""
    return " ".join(redact(str(error)).split())
