"""`make demo`: the whole thing once, on a real Kafka and a real PostgreSQL, told a line at a time.

Two days of a help desk's events in five time zones, with duplicates, late, unknown and broken messages, go through two
consumers, one of which is killed half-way. Then days are rebuilt, and the rollup is compared with the raw events.
SIZE=50000 makes fewer events, KEEP=1 leaves everything running until Ctrl-C.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import psycopg

from local.demo_report import look_at_live_days, prove, show
from local.demo_screen import Screen
from local.demo_stage import (
    PARTITIONS,
    SESSION_TIMEOUT_MS,
    ConsumerProcess,
    Stage,
    backfill,
    psql,
    show_backfill,
    stage,
    wait_until,
)
from local.demo_traffic import follow, paced
from local.events import Sample, Workload, generate, produce, write_raw, write_settings
from local.kafka_jars import VERSION
from local.processes import LocalError
from local.services import services

SIZE = 200_000
ZONES = ("America/Los_Angeles", "America/Sao_Paulo", "Europe/Berlin", "Asia/Kolkata", "Pacific/Auckland")
ACCOUNTS = 25
SETTLE_SECONDS = 5
INTERRUPTED = 130

Connection = psycopg.Connection[Any]


def main() -> int:
    """The command. Exit codes: 0 the rollup is exact, 1 it is not or something failed, 2 a wrong SIZE, 130 Ctrl-C."""
    screen = Screen()
    size = os.environ.get("SIZE", str(SIZE))
    if not size.isdigit() or not 1000 <= int(size) <= 5_000_000:
        screen.bad(f"SIZE={size}: it must be a number of events from 1000 to 5000000")
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell ignores it for what it starts with "&"
        signal.signal(number, _interrupt)
    try:
        return 0 if _play(screen, int(size), keep=os.environ.get("KEEP", "") not in ("", "0")) else 1
    except KeyboardInterrupt:
        screen.say("Interrupted; everything that was started has been stopped.")
        return INTERRUPTED
    except LocalError as error:
        screen.bad(str(error))
        return 1


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _play(screen: Screen, size: int, *, keep: bool) -> bool:
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="reporting-rollup-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        screen.step(
            f"Starting a real Kafka {VERSION} and a real PostgreSQL 18.",
            "The very first time, Kafka's jars are downloaded (once, about 25 s).",
        )
        running = stack.enter_context(services())
        on = stack.enter_context(stage(running, folder))
        screen.say(f"Running, from {running.origin}; the schema is migrated, the topic has {PARTITIONS} partitions.")
        conn = stack.enter_context(psycopg.connect(on.database_url, autocommit=True))
        sample = _prepare(screen, conn, size)
        members: list[ConsumerProcess] = []
        stack.callback(_stop, members)
        _count(screen, conn, on, sample, members)
        look_at_live_days(screen, conn)
        _rebuild(screen, conn, on)
        show(screen, conn, members[0])
        good = prove(screen, conn, sample.expected)
        screen.say(f"All this took {time.monotonic() - began:.0f} s.")
        if keep:
            _keep(screen, on, members)
    return good


def _stop(members: list[ConsumerProcess]) -> None:
    for member in members:
        member.stop()


def _prepare(screen: Screen, conn: Connection, size: int) -> Sample:
    """Accounts and raw rows: what the application has in its database before any message is read."""
    screen.step(f"{ACCOUNTS} accounts in five time zones switch their rollup on:", ", ".join(ZONES) + ".")
    workload = Workload(
        end_us=time.time_ns() // 1000,
        events=size,
        hours=48,
        accounts=ACCOUNTS,
        zones=ZONES,
        duplicates=0.02,
        late=0.005,
        bad=0.0005,
        unknown=0.01,
    )
    conn.execute("UPDATE rollup_control SET settle_seconds = %s", (SETTLE_SECONDS,))
    with conn.transaction():
        write_settings(conn, workload)
    screen.say(
        "Their days are stale at first, since events may have come before that. A rebuild is to look, as soon as such",
        f"events are sure to be in: {SETTLE_SECONDS} s later here, by default 60 s (rollup_control.settle_seconds).",
    )
    sample = generate(workload)
    with conn.transaction():
        rows = write_raw(conn, sample)
    conn.execute("ANALYZE reporting_events")
    sent = sample.expected
    screen.step(
        f"The application writes {rows:,} events of two days into its table reporting_events, and will send",
        f"{sent.messages:,} messages: {sent.duplicates:,} are repetitions, {sent.late:,} come 1 to 6 days late,",
        f"{sent.skipped:,} are of a kind that no metric reads, and {sent.dead:,} are broken.",
    )
    return sample


def _count(screen: Screen, conn: Connection, on: Stage, sample: Sample, members: list[ConsumerProcess]) -> None:
    """Everything goes through the consumers; the second is killed half-way, and a third takes its place."""
    screen.step("Two consumers share the topic as one group: python -m consumer, twice.")
    for name in ("consumer 1", "consumer 2"):
        members.append(ConsumerProcess(on, name))  # one by one: whatever fails, those that run are known  # noqa: PERF401
    wait_until(lambda: all(m.partitions for m in members), "both consumers own partitions", members)
    screen.say(", ".join(f"{m.name} (process {m.pid}) owns {m.partitions} partitions" for m in members))
    screen.step("Events arrive; each batch is one transaction: rows, event ids and offsets together, or nothing.")
    total = sample.expected.messages
    killed, ended = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool, screen.progress("messages counted", total) as advance:
        try:
            messages = paced(sample.messages(), total * 6 // 10, killed, ended)
            sending = pool.submit(produce, on.bootstrap, on.topic, messages)
            follow(conn, advance, total // 2, members, sending)
            victim = members.pop()
            victim.kill()
            killed.set()
            screen.say(
                f"{victim.name} is killed with SIGKILL in the middle of its work. What it had in hand is rolled back;",
                f"after {SESSION_TIMEOUT_MS // 1000} s the group gives its partitions to others, who go on where the "
                "database says. Consumer 3 joins.",
            )
            members.append(ConsumerProcess(on, "consumer 3"))
            follow(conn, advance, total, members, sending)
        finally:
            ended.set()
            killed.set()  # whoever waits for it must end too
    screen.say(f"All {total:,} messages are through.")


def _rebuild(screen: Screen, conn: Connection, on: Stage) -> None:
    row = conn.execute(
        "SELECT account_id, date FROM late_events GROUP BY 1, 2 ORDER BY count(*) DESC, 1, 2 LIMIT 1"
    ).fetchone()
    account, day = row or (1, date.today())  # noqa: DTZ011 - a sample too small for late events: any day will do
    words = ("--account", str(account), "--date", str(day))
    screen.step(
        "One of them is rebuilt from its raw events, while the consumers run:",
        f"python -m backfill {' '.join(words)}",
    )
    screen.copy(backfill(on, *words))
    wait_until(lambda: not _settling(conn), "days settle", [])
    screen.step("And all others that are known to be behind: python -m backfill --stale")
    began = time.monotonic()
    days = [json.loads(line) for line in backfill(on, "--stale", "--json")]
    unchanged = sum(day["changed"] == 0 for day in days)
    screen.say(
        f"{len(days)} days rebuilt in {time.monotonic() - began:.1f} s; in {unchanged} of them nothing differed."
    )
    today = datetime.now(UTC).date()
    week = ("--all-accounts", "--date", f"{today - timedelta(days=7)}..yesterday")
    screen.step(
        "A whole week of all accounts is rebuilt, as one would after loading old events:",
        f"python -m backfill {' '.join(week)} --jobs 2",
    )
    show_backfill(on, *week, "--jobs", "2")
    verify = ("verify", "--all-accounts", "--date", f"{today - timedelta(days=7)}..today")
    screen.step(
        "And every day is compared with its raw events, row by row, by other queries than those that wrote it:",
        f"python -m backfill {' '.join(verify)}",
    )
    show_backfill(on, *verify)


def _settling(conn: Connection) -> bool:
    row = conn.execute("SELECT EXISTS (SELECT FROM rollup_days WHERE settles_at > now())").fetchone()
    return row == (True,)


def _keep(screen: Screen, on: Stage, members: list[ConsumerProcess]) -> None:
    """Leave everything running until Ctrl-C."""
    screen.step("KEEP=1: everything goes on running. To look around from another terminal, in this folder:")
    screen.copy([f"export {name}={value}" for name, value in on.variables.items()])
    screen.copy(
        [
            *(f"curl -s {member.metrics_url}" for member in members),
            ".venv/bin/python -m consumer check",
            ".venv/bin/python -m backfill --stale",
            ".venv/bin/python -m backfill --help",
            f'{psql()} "$DATABASE_URL" -c "TABLE rollup_coverage"',
            f'{psql()} "$DATABASE_URL" -c "TABLE consumer_offsets"',
        ]
    )
    screen.say("Press Ctrl-C to stop everything.")
    try:
        while True:
            for member in members:
                member.check()
            time.sleep(1)
    except KeyboardInterrupt:
        screen.say("Stopping.")


if __name__ == "__main__":
    sys.exit(main())
