"""`python -m bench` itself: one small run says everything and is right; an interrupted one leaves nothing running."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import consume_only
from consumer.metric_catalogue import STAGES
from local.events import produce
from tests.fixtures.services import MakeTopic

ROOT = Path(__file__).parents[2]
EVENTS = 5_000
END_SECONDS = 30.0


def start(*words: str, output: Path) -> subprocess.Popen[bytes]:
    """The benchmark in a session of its own: a Ctrl-C for it is not one for us, nor the other way round."""
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "bench", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def test_a_small_run_is_complete_and_right(tmp_path: Path) -> None:
    file, output = tmp_path / "new folder" / "result.json", tmp_path / "output"
    words = (
        f"--events {EVENTS} --rounds 2 --rotate --verify --rate 200 --warm-up 1 --seconds 2 --idle-seconds 1".split()
    )
    with start(*words, "--json", str(file), output=output) as running:
        code = running.wait(100)
    text = output.read_text()
    assert code == 0, text
    found: dict[str, Any] = json.loads(file.read_text())

    assert found["correctness"]["differences"] == []
    assert found["correctness"]["balanced"]
    assert found["correctness"]["counted"] == EVENTS
    assert found["correctness"]["rows"] > 100
    assert found["workload"]["events"] == EVENTS
    assert 250 < found["workload"]["message_bytes"] < 400
    assert all(found["machine"].values())

    assert len(found["rounds"]) == 2
    for each in found["rounds"]:
        whole, alone = each["end_to_end"], each["consume_only"]
        assert alone["messages"] == whole["events"] == EVENTS
        assert alone["per_second"] > 0
        assert whole["per_second"] * whole["seconds"] == pytest.approx(EVENTS)
        assert 0 < whole["seconds"] < whole["seconds_with_start"]
        assert each["ratio"] == whole["per_second"] / alone["per_second"]
        assert {thread: set(stages) for thread, stages in whole["stages"].items()} == {
            thread: set(stages) for thread, stages in STAGES.items()
        }
        assert whole["stages"]["reader"]["decode"] > 0
        assert whole["stages"]["writer"]["upsert"] > 0
        # Of one process from its start: neither thread can have spent more time than there was.
        assert all(sum(stages.values()) < whole["seconds_with_start"] + 5 for stages in whole["stages"].values())
        assert whole["transactions"] >= 1
        assert 0 < whole["rows_per_event"] < 4
        assert whole["start_cpu_seconds"] > 0
        if found["machine"]["services"] == "packages":
            assert all(used > 0 for used in whole["cpu_seconds_per_million"].values())
        if sys.platform.startswith("linux"):
            assert 50e6 < whole["peak_memory_bytes"] < 1e9
    assert "rollup equals raw" in text

    steady = found["steady"]
    # A producer that was held up catches up: what is measured, and how fast it came, is only bounded by what was sent.
    assert 0 < steady["messages"] <= 200 * (1 + 2)
    assert 0 < steady["p50_ms"] <= steady["p90_ms"] <= steady["p99_ms"] <= steady["max_ms"]
    assert steady["acknowledged_p50_ms"] < steady["p50_ms"]
    assert steady["per_second"] > 0
    assert steady["consumer_core_percent"] >= 0
    assert found["idle"]["seconds"] >= 1
    assert found["idle"]["consumer_core_percent"] >= 0


def test_the_end_of_a_log_is_no_message(
    kafka_bootstrap: str, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = make_topic(2)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_bootstrap)
    messages = [(b"%d" % number, b"{}") for number in range(10)]
    later = threading.Timer(1.5, lambda: produce(kafka_bootstrap, topic, messages))  # both ends are known by then
    later.start()
    try:
        assert consume_only.read(topic, 2, 10).messages == 10
    finally:
        later.join()


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with start("--events", "300000", output=output) as running:
        try:
            deadline = time.monotonic() + 60
            while b"producing" not in output.read_bytes():
                assert running.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.02)
            started = psutil.Process(running.pid).children(recursive=True)
            running.send_signal(signal.SIGINT)
            assert running.wait(END_SECONDS) == 130, output.read_text()
        finally:
            running.kill()
    if not os.environ.get("TEST_DATABASE_URL"):
        assert started
    _, alive = psutil.wait_procs(started, timeout=END_SECONDS)
    assert alive == []
    assert "interrupted" in output.read_text()
