"""`python -m backfill --stale --watch`: rollups stay right by themselves, and whoever looks after it can see that."""

import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumer.metric_catalogue import BACKFILL_CATALOGUE, PREFIX
from local.events import generate, write_raw
from local.migrate import migrate
from local.postgres import Postgres
from tests.fixtures.events import (
    Trickle,
    assert_exact,
    load,
    mixed_load,
    prepare,
    rollup_of_model,
    rollup_of_table,
    total,
    wait_until_read,
)
from tests.fixtures.processes import Program, RunProgram, StartConsumer, wait_for
from tests.fixtures.services import POSTGRES_SETTINGS, MakeTopic

Connection = psycopg.Connection[Any]

OFTEN = "0.1"
"""Seconds between looks."""
OLD_US = 10 * 86_400_000_000


class Watcher(Program):
    """A watcher, seen through its probes and its metrics."""

    @property
    def port(self) -> int:
        """Where it answers."""
        return int(
            wait_for(lambda: re.findall(r"metrics and probes on port (\d+)\n", self.out.read_text()), "port", self)[0]
        )

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def wait_for_status(self, path: str, status: int) -> str:
        """Wait until a page answers with `status`; returns its body."""
        wait_for(lambda: self.get(path)[0] == status, f"status {status} of {path}", self)
        return self.get(path)[1]

    def metric(self, name: str, **labels: str) -> float:
        """One sample of a metric, by its name without the prefix."""
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == PREFIX + name and sample.labels == labels:
                    return sample.value
        raise AssertionError(f"no metric {name} with {labels}")

    def wait_for_looks(self, count: int = 1) -> None:
        """Wait until it has ended so many more looks."""
        for _ in range(count):
            before = self.metric("backfill_last_look_timestamp_seconds")
            wait_for(lambda b=before: self.metric("backfill_last_look_timestamp_seconds") > b, "a look", self)  # type: ignore[misc]

    def terminate(self) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        self.send(signal.SIGTERM)
        return self.wait(10)


StartWatcher = Callable[..., Watcher]


@pytest.fixture
def start_watcher(database_url: str, tmp_path: Path) -> Iterator[StartWatcher]:
    """`start_watcher(OPEN_DAYS=1)`: a watcher that looks often."""
    started: list[Watcher] = []

    def start(**variables: str | int) -> Watcher:
        own = {"DATABASE_URL": database_url, "METRICS_ADDRESS": "127.0.0.1", "METRICS_PORT": 0, **variables}
        environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
        folder = tmp_path / f"watcher-{len(started)}"
        started.append(Watcher(folder, ["backfill", "--stale", "--watch", OFTEN], environment))
        return started[-1]

    yield start
    for watcher in started:
        watcher.kill()


def stale_days(conn: Connection) -> list[tuple[int, date]]:
    """The days that wait for a rebuild."""
    return conn.execute(
        "SELECT account_id, date FROM rollup_days WHERE stale_since IS NOT NULL ORDER BY account_id, date"
    ).fetchall()


def number(conn: Connection, statement: str) -> int:
    """The one number that a statement finds; `{week}` in it is the date a week ago."""
    ((found,),) = conn.execute(statement.replace("{week}", "now()::date - 7")).fetchall()
    return int(found)


def test_two_watchers_keep_rollups_right_while_consumers_count(
    conn: Connection,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    start_watcher: StartWatcher,
) -> None:
    topic = make_topic(3)
    sample = mixed_load(5_000)
    prepare(conn, sample)
    conn.execute("UPDATE rollup_control SET settle_seconds = 1")
    watchers = [start_watcher() for _ in range(2)]
    change = "UPDATE account_settings SET reporting_timezone = %s WHERE account_id %% 3 = %s"

    def done(result: str) -> float:
        return sum(watcher.metric("backfill_days_total", result=result) for watcher in watchers)

    with Trickle(kafka_bootstrap, topic, sample, per_second=2_000):
        consumers = [start_consumer(topic) for _ in range(2)]
        wait_for(lambda: done("rebuilt") > 10, "late events rebuilt", *watchers, *consumers)
        for remainder, name in enumerate(("Asia/Kathmandu", "America/St_Johns", None)):
            before = done("rebuilt")
            conn.execute(change, (name, remainder))
            if name:
                wait_for(lambda b=before: done("rebuilt") > b + 8, f"days in {name}", *watchers, *consumers)  # type: ignore[misc]
        conn.execute(change, ("Australia/Lord_Howe", 2))  # switched on again
    wait_until_read(conn, kafka_bootstrap, topic, *consumers)
    wait_for(lambda: not stale_days(conn), "end of all stale days", *watchers)
    assert total(conn).messages == sample.expected.messages
    assert total(conn).late > 0
    assert_exact(conn)
    assert rollup_of_table(conn) == rollup_of_model(conn)
    for watcher in watchers:
        watcher.wait_for_looks()
        assert watcher.metric("backfill_stale_days") == 0
        assert watcher.metric("backfill_oldest_stale_seconds") == 0
        assert watcher.metric("backfill_drift_rows_total") == 0
    assert done("failed") == 0
    assert conn.execute("SELECT max(drift) FROM rollup_days").fetchone() == (0,)
    assert [watcher.terminate() for watcher in watchers] == [0, 0]
    assert [consumer.terminate() for consumer in consumers] == [0, 0]
    for watcher in watchers:
        assert watcher.err.read_text() == "stopping after the days in hand\n"


def test_days_close_and_are_audited_and_the_metrics_tell(
    conn: Connection, run_program: RunProgram, start_watcher: StartWatcher
) -> None:
    recent = load(600)
    old = generate(replace(recent.workload, end_us=recent.workload.end_us - OLD_US, first_id=10_000))
    prepare(conn, recent, old)
    words = ("backfill", "--all-accounts", "--all-dates", "--quiet")
    assert run_program(*words, "--jobs", "2", OPEN_DAYS=30) == (0, "", "")
    assert conn.execute("SELECT count(*) FROM rollup_days WHERE closed").fetchone() == (0,)
    bits = number(conn, "SELECT count(*) FROM counted_events WHERE last_day < {week}")
    one = "account_id = 1 AND dimension_type = 'account' AND metric = 'reply_time' AND date < {week}"
    wrong = number(
        conn,
        f"WITH wrong AS (UPDATE reporting_events_rollups SET count = count + 1 WHERE {one} RETURNING date)"
        " SELECT count(*) FROM wrong",
    )
    conn.execute("DELETE FROM reporting_events WHERE account_id = 2 AND created_at < now() - interval '7 days'")
    lost = [
        day
        for (day,) in conn.execute(
            "SELECT date FROM rollup_days WHERE account_id = 2 AND date < now() - interval '7 days' AND events > 0"
            " ORDER BY date"
        )
    ]
    assert bits
    assert wrong
    assert lost

    watcher = start_watcher(OPEN_DAYS=2)
    watcher.wait_for_status("/readyz", 200)
    watcher.wait_for_looks(2)
    kept = conn.execute(
        "SELECT account_id, date, stale_since IS NOT NULL FROM rollup_days"
        " WHERE NOT closed AND date < now() - interval '7 days' ORDER BY date"
    ).fetchall()
    assert kept == [(2, day, True) for day in lost]
    closed = number(conn, "SELECT count(*) FROM rollup_days WHERE closed AND audited_at IS NOT NULL")
    assert watcher.metric("backfill_days_closed_total") == closed > 12
    assert watcher.metric("backfill_drift_rows_total") == wrong
    assert conn.execute("SELECT sum(drift)::int FROM rollup_days WHERE account_id = 1").fetchone() == (wrong,)
    assert watcher.metric("backfill_days_total", result="rebuilt") == closed
    # However often it looks: such days are tried later and later.
    assert watcher.metric("backfill_days_total", result="missing") == len(lost)
    assert watcher.metric("backfill_stale_days") == len(lost)
    assert watcher.metric("backfill_oldest_stale_seconds") > 0
    assert watcher.metric("backfill_rows_changed_total") == wrong
    assert watcher.metric("backfill_raw_events_total") > 0
    assert watcher.metric("backfill_bitmap_rows_pruned_total") == 0  # those days keep their bits

    said = watcher.out.read_text()
    assert said.count("1 rows were wrong") == wrong
    assert watcher.err.read_text().count("account 2, ") == len(lost)  # told once
    shown = watcher.get("/metrics")[1]
    assert [row.name for row in BACKFILL_CATALOGUE if f"# HELP {PREFIX}{row.name}" not in shown] == []
    assert watcher.terminate() == 0

    forced = [word for day in lost for word in ("--date", str(day))]
    assert run_program("backfill", "--account", "2", *forced, "--force", OPEN_DAYS=2)[0] == 0
    watcher = start_watcher(OPEN_DAYS=2)
    wait_for(lambda: watcher.metric("backfill_bitmap_rows_pruned_total") == bits, "bits to go", watcher)
    assert watcher.metric("backfill_days_closed_total") == len(lost)
    assert watcher.metric("backfill_stale_days") == 0
    days = {(account, day) for account, day in conn.execute("SELECT account_id, date FROM rollup_days WHERE closed")}
    exact = {key: numbers for key, numbers in rollup_of_model(conn).items() if key[:2] in days}
    assert {key: numbers for key, numbers in rollup_of_table(conn).items() if key[:2] in days} == exact
    assert watcher.terminate() == 0


def test_the_probes_of_a_watcher(start_watcher: StartWatcher) -> None:
    watcher = start_watcher()
    assert json.loads(watcher.wait_for_status("/readyz", 200)) == {"ok": True, "reasons": []}
    for path in ("/livez", "/startupz", "/metrics", "/status"):
        assert watcher.get(path)[0] == 200
    assert watcher.get("/")[0] == 404
    other = start_watcher(METRICS_PORT=watcher.port)
    assert other.wait() == 2
    (line,) = other.err.read_text().splitlines()
    assert line.startswith(f"METRICS_PORT={watcher.port} cannot be listened on")
    assert watcher.terminate() == 0
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", watcher.port), 5):
        pass


def test_a_database_that_goes_away_is_waited_for(service_folder: Path, start_watcher: StartWatcher) -> None:
    with Postgres(service_folder / "postgres", settings=POSTGRES_SETTINGS) as server:
        url = server.url("rollup")
        migrate(url)
        sample = load(200)
        with psycopg.connect(url, autocommit=True) as conn:
            prepare(conn, sample)
        server.stop("fast")
        watcher = start_watcher(DATABASE_URL=url)
        assert watcher.wait_for_status("/livez", 200)
        assert json.loads(watcher.wait_for_status("/readyz", 503))["ok"] is False
        assert watcher.get("/startupz")[0] == 503
        server.start()
        watcher.wait_for_status("/readyz", 200)

        def rebuild() -> None:
            """Make every day stale, and wait for its end."""
            with psycopg.connect(url, autocommit=True) as conn:
                assert conn.execute("UPDATE rollup_days SET stale_since = now()").rowcount
                wait_for(lambda: not stale_days(conn), "end of all stale days", watcher)

        rebuild()
        server.stop("immediate")
        server.start()
        rebuild()
        with psycopg.connect(url, autocommit=True) as conn:
            assert_exact(conn)
        server.stop("immediate")
        reasons = json.loads(watcher.wait_for_status("/readyz", 503))["reasons"]
        assert reasons[0].startswith("database: ")
        assert watcher.get("/livez")[0] == 200
        assert "trying again in 0.1 s" in watcher.err.read_text()
        assert watcher.terminate() == 0
        assert "Traceback" not in watcher.err.read_text()
        server.start()  # so that it can be stopped as usual


def test_it_stops_after_the_days_in_hand(
    conn: Connection, database_url: str, run_program: RunProgram, start_watcher: StartWatcher
) -> None:
    sample = load(300)
    prepare(conn, sample)
    with conn.transaction():
        write_raw(conn, load(300, 2, first_id=1_000))
    watcher = start_watcher(DB_STATEMENT_TIMEOUT_SECONDS=20)
    watcher.wait_for_looks()
    with psycopg.connect(database_url) as keeper:
        # Nobody passes over this lock: it is what rebuilds of open days take one after the other.
        keeper.execute("SELECT pg_advisory_xact_lock(hashtextextended('reporting-rollup rebuild bits', 0))")
        conn.execute("UPDATE rollup_days SET stale_since = now()")
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        wait_for(lambda: conn.execute(waiting).fetchone() == (1,), "a watcher in the midst of its work", watcher)
        before = stale_days(conn)
        watcher.send(signal.SIGTERM)
        wait_for(lambda: "stopping" in watcher.err.read_text(), "an answer", watcher)
    assert watcher.wait(10) == 0
    left = stale_days(conn)
    assert 0 < len(before) - len(left) <= 12  # one date of the accounts
    assert left
    assert run_program("backfill", "--stale", "--quiet") == (0, "", "")
    assert_exact(conn)
