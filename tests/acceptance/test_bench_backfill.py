"""`python -m bench.backfill` itself: one small run says everything and is right. How fast anything is, is no test's
business."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bench.backfill_reference import Reference
from bench.backfill_results import Run, summary
from tests.fixtures.rollup import TODAY, Rollup, make_event

ROOT = Path(__file__).parents[2]
EVENTS, ACCOUNTS, LARGE = 3_000, 6, 2_000
WAYS = ["original", "one_by_one", "together", "two_jobs"]


def test_a_small_run_is_complete_and_right(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "result.json"
    words = f"--events {EVENTS} --accounts {ACCOUNTS} --rounds 2 --large {LARGE}".split()
    ended = subprocess.run(
        [sys.executable, "-m", "bench.backfill", *words, "--json", str(file)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(file.read_text())

    assert found["right"]
    assert found["workload"]["raw_events"] == EVENTS
    assert found["workload"]["accounts"] == ACCOUNTS
    assert all(value for name, value in found["machine"].items() if name != "load")

    assert [[run["way"] for run in each] for each in found["rounds"]] == [WAYS, WAYS]
    runs = [run for each in found["rounds"] for run in each]
    for run in runs:
        assert run["differences"] == []
        assert run["account_days"] == 2 * ACCOUNTS
        assert run["account_days_per_second"] == run["account_days"] / run["seconds"]
        assert run["raw_events_per_second"] == EVENTS / run["seconds"]
        assert run["client_cpu_seconds"] > 0
        if found["machine"]["services"] == "packages":
            assert run["postgres_cpu_seconds"] > 0
        if sys.platform.startswith("linux"):
            assert 30e6 < run["peak_memory_bytes"] < 1e9
    assert len({run["rows"] for run in runs}) == 1
    assert runs[0]["rows"] > 100

    assert [way["way"] for way in found["ways"]] == WAYS
    assert [sorted(way["ratios"]) for way in found["ways"]] == [sorted(set(WAYS) - {way}) for way in WAYS]

    assert [large["open"] for large in found["large"]] == [False, True]
    for large in found["large"]:
        assert large["raw_events"] == LARGE
        assert large["differences"] == []
        assert large["seconds"] > 0
        for waits in (large["alone"], large["other_account"]):
            assert waits["transactions"] > 0
            assert 0 < waits["median_ms"] <= waits["p99_ms"] <= waits["longest_ms"]

    for said in ("times original algorithm", "rows equal raw", "peak memory of the client"):
        assert said in ended.stdout


@pytest.mark.parametrize("words", [["--events", "0"], ["--rounds", "-1"], ["--large", "many"]])
def test_wrong_use(words: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bench.backfill", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert words[0] in ended.stderr


def test_the_original_algorithm_gives_what_the_model_gives(rollup: Rollup) -> None:
    """What everything is compared with must do the whole work: all rows, in all dimensions, and no others."""
    rollup.always_had({42: "Asia/Kathmandu"})
    names = rollup.registry.event_names
    events = [
        make_event(i, names[i % len(names)], user_id=i % 3 or None, inbox_id=i % 2 or None, conversation_id=i % 4)
        for i in range(1, 60)
    ]
    rollup.raw(*events)
    with psycopg.connect(rollup.url, autocommit=True) as conn:
        reference = Reference(conn, {42: "Asia/Kathmandu"})
        written = [reference.rebuild(42, TODAY) for _ in range(2)]
    assert rollup.table() == rollup.model(*events)
    assert written == [len(rollup.table())] * 2
    assert written[0] > 20


def a_run(way: str, rate: float) -> Run:
    return Run(way, 100, 100 / rate, rate, 10 * rate, 1.0, None, 50_000_000, 7, [])


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    rounds = [
        [a_run("original", 10), a_run("together", 20)],
        [a_run("original", 100), a_run("together", 500)],
        [a_run("original", 1), a_run("together", 3)],
    ]
    original, together = summary(rounds)
    assert (original.account_days_per_second, together.account_days_per_second) == (10, 20)
    assert together.ratios == {"original": 3}
    assert together.postgres_cpu_seconds is None
    assert summary([]) == []
