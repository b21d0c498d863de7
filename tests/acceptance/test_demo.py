"""The demo as somebody would run it, small: it ends with the proof, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from tests.fixtures.services import ServicesSession

PROJECT = Path(__file__).parent.parent.parent
SIZE = 5_000


@pytest.fixture
def environment(services_session: ServicesSession) -> dict[str, str]:
    """The run's services are lent to the demo: it makes a database and a topic of its own there."""
    return {k: v for k, v in os.environ.items() if k not in ("KEEP", "SIZE")} | {
        "TEST_DATABASE_URL": services_session.postgres.database_url,
        "TEST_KAFKA_BOOTSTRAP_SERVERS": services_session.kafka.kafka_bootstrap,
        "SIZE": str(SIZE),
    }


def _leftovers(environment: dict[str, str]) -> list[str]:
    """Databases and topics of a demo."""
    with psycopg.connect(environment["TEST_DATABASE_URL"]) as conn:
        databases = [name for (name,) in conn.execute("SELECT datname FROM pg_database WHERE datname ~ '^rollup_demo'")]
    admin = AdminClient({"bootstrap.servers": environment["TEST_KAFKA_BOOTSTRAP_SERVERS"], "log_level": 0})
    topics = [name for name in admin.list_topics(timeout=10).topics if name.startswith("reporting_events_")]
    return databases + topics


def _wait_until_ended(pids: list[int]) -> list[int]:
    """Those of the processes that have not ended after ten seconds."""
    deadline = time.monotonic() + 10
    while (left := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_it_ends_with_an_exact_rollup_and_leaves_nothing_behind(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local.demo"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert re.search(r"consumer 2 is killed with SIGKILL", said)
    live = re.search(r"rows counted live: ([\d,]+), all equal to the raw events already", said)
    proven = re.search(r"rollup equals raw: ([\d,]+) rows, exact", said)
    assert live, said
    assert proven, said
    # Late days add rows to those counted live; 25 accounts have more than 1,000 of them at any time of day.
    assert 1000 < int(live[1].replace(",", "")) < int(proven[1].replace(",", ""))
    assert "0 days are stale" in said
    assert re.search(r"reporting_rollup_events_total\{outcome=\"counted\"\} [1-9]", said)
    balance = next(line for line in said.splitlines() if re.match(r"│ all +│", line))
    messages, *outcomes = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", balance)]
    assert messages == sum(outcomes) > SIZE
    pids = [int(pid) for pid in re.findall(r"\(process (\d+)\)", said)]
    assert len(pids) == 2
    assert _wait_until_ended(pids) == []
    assert _leftovers(environment) == []


def test_ctrl_c_stops_everything_it_started(environment: dict[str, str]) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "local.demo"], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert demo.stdout
        pids: list[int] = []
        for line in demo.stdout:
            pids = [int(pid) for pid in re.findall(r"\(process (\d+)\)", line)]
            if pids:
                break
        assert len(pids) == 2, "the demo ended before its consumers ran"
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=30)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130, rest
    assert "everything that was started has been stopped" in rest
    assert _wait_until_ended(pids) == []
    assert _leftovers(environment) == []


@pytest.mark.parametrize("size", ["many", "0"])
def test_a_wrong_size_is_told_before_anything_starts(size: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local.demo"],
        cwd=PROJECT,
        env=dict(os.environ) | {"SIZE": size},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert f"SIZE={size}: it must be a number of events" in done.stdout
