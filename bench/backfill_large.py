"""The rebuild of one account-day with very many events: its memory and time, and who waits for it meanwhile.

Consumers are played by the product's own transaction (`consumer.rollup.store.write`) on connections made as the
writer's: one brings small batches of another account all the time, one a batch that has an event of that very day. The
first shows that nobody else is held up; the second that waiting is seen where there is some.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import psycopg

from bench.backfill_ground import LARGE_ACCOUNT, Field, large_first_id
from bench.backfill_results import Answer, Large, Waits
from bench.programs import answer_of
from bench.results import percentile
from consumer.database import connect
from consumer.rollup.batch import Batch, Events, Partition, Span
from consumer.rollup.days import day_number, day_start_us
from consumer.rollup.offsets import Stored, adopt_partitions
from consumer.rollup.registry import REGISTRY
from consumer.rollup.store import Rules, account_zones, prepare, write
from local import proof

OTHER_ACCOUNT = LARGE_ACCOUNT + 1
GROUP, TOPIC, TOPIC_ID = "bench-backfill", "bench", "bench-topic"
EVENTS = 200
"""In a batch of the other account: as many as a second brings to a consumer of a busy partition when caught up."""
PAUSE_SECONDS = 0.02
ALONE_SECONDS = 3.0
LOOK_SECONDS = 0.005
LONGEST_SECONDS = 900.0

WAITING = (
    "SELECT extract(epoch FROM clock_timestamp() - waitstart)::float8 FROM pg_locks WHERE pid = %s AND NOT granted"
)
REBUILDING = """
SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE a.application_name LIKE '%backfill' AND l.granted
    AND l.relation = 'rollup_days'::regclass AND l.mode = 'RowExclusiveLock'
"""
"""Whether a rebuild has locked days."""


@dataclass
class Consumer:
    """A connection of a consumer with one partition; `transact` times a batch of it, in seconds."""

    conn: psycopg.Connection
    partition: int
    open_days: int
    next_offset: int = 0

    def __post_init__(self) -> None:
        prepare(self.conn)
        adopt_partitions(self.conn, GROUP, {Partition(TOPIC, self.partition): Stored(TOPIC_ID, 0)})

    def transact(self, account: int, first_id: int, events: int, created_us: int) -> float:
        """Count so many reply times, with ids from `first_id` on, all created at one instant."""

        def column(value: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.full(events, value, np.int64)

        columns = Events(
            id=first_id + np.arange(events),
            account_id=column(account),
            name=np.full(events, REGISTRY.event_code["reply_time"], np.int8),
            created_us=column(created_us),
            value_us=column(1_000_000),
            business_us=column(500_000),
            ids={name: column(1) for name in REGISTRY.id_columns},
            source=np.zeros(events, np.int16),
        )
        end = self.next_offset + events
        span = Span(Partition(TOPIC, self.partition), TOPIC_ID, self.next_offset, end, events, {}, 0, None)
        rules = Rules(GROUP, REGISTRY, self.open_days)
        began = time.monotonic()
        write(self.conn, Batch((span,), columns, ()), account_zones(self.conn), rules, _now_us(), _untimed)
        self.next_offset = end
        return time.monotonic() - began


@contextmanager
def _consumer(field: Field, partition: int, open_days: int) -> Iterator[Consumer]:
    url = field.ground.database_url
    with connect(url, statement_timeout=round(LONGEST_SECONDS), application="bench consumer") as conn:
        yield Consumer(conn, partition, open_days)


def measure(field: Field, day: date, events: int, open_days: int) -> Large:
    """Rebuild the large account's day in a process of its own, from empty tables.

    Args:
        field: with the day in it.
        day, events: the large account's.
        open_days: as OPEN_DAYS; decides whether the day is counted live.

    Raises:
        BenchError: the rebuild failed.
    """
    ground = field.ground
    ground.clear()
    ground.conn.execute(
        "INSERT INTO account_settings (account_id, reporting_timezone) VALUES (%s, 'UTC')", (OTHER_ACCOUNT,)
    )
    is_open = day_number(day) > day_number(datetime.now(UTC).date()) - open_days
    environment = ground.environment("", GROUP) | {"OPEN_DAYS": str(open_days), "DB_STATEMENT_TIMEOUT_SECONDS": "900"}
    log = ground.folder / f"large-{open_days}.log"
    words = ("one_by_one", str(LARGE_ACCOUNT), str(LARGE_ACCOUNT), day.isoformat())

    def rebuild() -> Answer:
        found = answer_of("bench.backfill_variant", *words, log=log, environment=environment, seconds=LONGEST_SECONDS)
        return Answer(**found)

    with ThreadPoolExecutor() as pool, _consumer(field, 0, open_days) as other, _consumer(field, 1, open_days) as same:
        until = time.monotonic() + ALONE_SECONDS
        alone = _watched(field, other, lambda: time.monotonic() > until)
        rebuilding = pool.submit(rebuild)
        waited = pool.submit(_same_day, field, same, day, rebuilding)
        meanwhile = _watched(field, other, rebuilding.done)
        answer = rebuilding.result()
        same_day = waited.result()
    ground.conn.execute("DELETE FROM account_settings WHERE account_id = %s", (OTHER_ACCOUNT,))
    differences = [str(found) for found in proof.differences(ground.conn)]
    return Large(
        raw_events=events,
        open=is_open,
        seconds=answer.seconds,
        client_cpu_seconds=answer.cpu_seconds,
        peak_memory_bytes=answer.peak_memory_bytes,
        alone=alone,
        other_account=meanwhile,
        same_day_seconds=same_day,
        differences=differences,
    )


def _watched(field: Field, consumer: Consumer, ended: Callable[[], bool]) -> Waits:
    """Transactions of the other account until `ended`, while a second connection looks at its locks."""
    over = threading.Event()
    with ThreadPoolExecutor() as pool:
        watching = pool.submit(_watch, field, consumer.conn.info.backend_pid, over)
        try:
            times: list[float] = []
            while not times or not ended():
                # Far above all ids of raw events, and never twice.
                first_id = 2**40 + consumer.next_offset
                times.append(1e3 * consumer.transact(OTHER_ACCOUNT, first_id, EVENTS, _now_us()))
                time.sleep(PAUSE_SECONDS)
        finally:
            over.set()
        longest_wait, pause = watching.result()
    return Waits(
        transactions=len(times),
        median_ms=statistics.median(times),
        p99_ms=percentile(np.array(times), 99),
        longest_ms=max(times),
        longest_lock_wait_ms=1e3 * longest_wait,
        look_ms=1e3 * pause,
    )


def _watch(field: Field, pid: int, over: threading.Event) -> tuple[float, float]:
    """The longest wait for a lock that was seen, and the longest time between two looks; seconds."""
    longest, pause, before = 0.0, 0.0, time.monotonic()
    with psycopg.connect(field.ground.database_url, autocommit=True) as conn:
        while not over.wait(LOOK_SECONDS):
            longest = max([longest, *(waited for (waited,) in conn.execute(WAITING, (pid,)))])
            now = time.monotonic()
            pause, before = max(pause, now - before), now
    return longest, pause


def _same_day(field: Field, consumer: Consumer, day: date, rebuilding: Future[Answer]) -> float | None:
    """One batch with an event of the day, sent once the rebuild has locked the day; None if it was too quick for us."""
    with psycopg.connect(field.ground.database_url, autocommit=True) as conn:
        while conn.execute(REBUILDING).fetchone() is None:
            if rebuilding.done():
                return None
            time.sleep(LOOK_SECONDS)
    # What it says of the event does not matter: raw has it, and the rebuild replaces whatever was counted before.
    return consumer.transact(
        LARGE_ACCOUNT, large_first_id(field), 1, day_start_us("Europe/Berlin", day_number(day)) + 1
    )


def _now_us() -> int:
    return time.time_ns() // 1000


def _untimed(_stage: str, _seconds: float) -> None:
    """A transaction's stages; nobody asks."""
