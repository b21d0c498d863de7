"""Where the backfill's benchmark takes place: a database with raw events of whole local days, and the usual indexes.

Nothing here reads Kafka. The events are those of `local.events`, moved so that each account has exactly its own local
days, and put down in the order of their creation, as an application writes them: the events of one account-day lie
all over the table.
"""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import psycopg
from psycopg import sql

from bench.workload import Ground
from consumer.rollup.days import day_number, day_start_us
from local.events import HOUR_US, Sample, Workload, generate, write_raw, write_settings
from local.migrate import migrate
from local.services import Services

DAYS = 2
AGO = 5
"""The first day lies so many days before today: outside the window of OPEN_DAYS=3, and inside that of 10."""

LARGE_ACCOUNT = 1_000_000
"""The account that has only one day, and all its events on it."""

INDEXES = (
    ("reporting_events_account_id_name_created_at", "account_id, name, created_at"),
    ("reporting_events_created_at", "created_at"),
    ("reporting_events_account_id", "account_id"),
    ("reporting_events_inbox_id", "inbox_id"),
    ("reporting_events_user_id", "user_id"),
    ("reporting_events_conversation_id", "conversation_id"),
    ("reporting_events_name", "name"),
)
"""What the application has on its raw events besides the primary key."""


@dataclass(frozen=True)
class Field:
    """A database with raw events.

    Attributes:
        ground: where it is.
        days: the local dates that have events.
        events: how many there are, the large account's not included.
        load_seconds: what loading, indexes and statistics took.
    """

    ground: Ground
    days: tuple[date, ...]
    events: int
    load_seconds: float

    @property
    def accounts(self) -> int:
        """Accounts are numbered from 1; the large one is not among them."""
        return self.ground.workload.accounts


def days_of(now: datetime) -> tuple[date, ...]:
    """The local dates to put events on."""
    return tuple(now.date() - timedelta(days=AGO - n) for n in range(DAYS))


@contextmanager
def field(services: Services, events: int, accounts: int) -> Iterator[Field]:
    """A database of the run's own with `events` raw events, gone afterwards."""
    name = f"bench_backfill_{uuid.uuid4().hex[:12]}"
    database_url = urlunsplit(urlsplit(services.database_url)._replace(path=f"/{name}"))
    now = datetime.now(UTC)
    days = days_of(now)
    workload = Workload(end_us=int(now.timestamp()) * 1_000_000, events=events, accounts=accounts, hours=24.0 * DAYS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reporting-rollup-bench-")))
        stack.callback(_drop, services.database_url, name)
        migrate(database_url)
        conn = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        write_settings(conn, workload)
        conn.execute(
            "INSERT INTO account_settings (account_id, reporting_timezone) VALUES (%s, 'Europe/Berlin')",
            (LARGE_ACCOUNT,),
        )
        # Days count as ordinary ones only when the rollup was switched on before they began.
        conn.execute("UPDATE account_settings SET rollup_since = now() - interval '40 days'")
        began = datetime.now(UTC)
        _load(conn, on_local_days(generate(workload), days))
        seconds = (datetime.now(UTC) - began).total_seconds()
        made = Ground(services, database_url, conn, folder, workload, topic="", steady_topic="")
        made.clear()
        yield Field(made, days, events, seconds)


def on_local_days(sample: Sample, days: tuple[date, ...]) -> Sample:
    """The sample with its time stretched over each account's own days, sorted by creation."""
    w = sample.workload
    share = (sample.created_us - (w.end_us - int(w.hours * HOUR_US))) / (w.hours * HOUR_US)
    first, last = day_number(days[0]), day_number(days[-1]) + 1
    zones = list(w.timezones.values())
    starts = np.array([day_start_us(zone, first) for zone in zones], np.int64)
    ends = np.array([day_start_us(zone, last) for zone in zones], np.int64)
    begin, end = starts[sample.account_id - 1], ends[sample.account_id - 1]
    created = np.minimum(begin + (share * (end - begin)).astype(np.int64), end - 1)
    order = np.argsort(created, kind="stable")
    # Ids stay where they are: they rise with the position, but for a little disorder.
    moved: dict[str, Any] = {
        name: getattr(sample, name)[order]
        for name in (
            "name", "value_us", "business_us", "business_null", "account_id", "inbox_id", "user_id", "user_null",
            "conversation_id", "late",
        )
    }  # fmt: skip
    return replace(sample, created_us=created[order], **moved)


def large_first_id(field: Field) -> int:
    """The lowest id of the large account's events."""
    return field.events + 10_000


def add_large_day(field: Field, events: int) -> date:
    """Give the large account `events` raw events on one day; which day that is."""
    conn, day = field.ground.conn, field.days[-1]
    w = replace(field.ground.workload, events=events, accounts=1, first_id=large_first_id(field), seed=2)
    sample = generate(replace(w, zones=("Europe/Berlin",)))
    moved = on_local_days(sample, (day,))
    write_raw(conn, replace(moved, account_id=np.full(events, LARGE_ACCOUNT, np.int64)))
    conn.execute("VACUUM (ANALYZE) reporting_events")
    return day


def _load(conn: psycopg.Connection[Any], sample: Sample) -> None:
    """COPY, then the indexes, then statistics: quicker than row by row, and the same tables in the end."""
    for name, _ in INDEXES:
        conn.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(name)))
    write_raw(conn, sample)
    with conn.transaction():
        conn.execute("SET LOCAL maintenance_work_mem = '256MB'")
        for name, columns in INDEXES:
            names = sql.SQL(", ").join(map(sql.Identifier, columns.split(", ")))
            conn.execute(sql.SQL("CREATE INDEX {} ON reporting_events ({})").format(sql.Identifier(name), names))
    # As autovacuum leaves a table: rows known to be visible, so that no measured query pays for finding out.
    conn.execute("VACUUM (ANALYZE) reporting_events")


def _drop(database_url: str, name: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
