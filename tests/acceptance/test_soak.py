"""`python -m bench.soak` itself: one short run is complete and exact, an interrupted one leaves nothing running, and
the verdict fails for whatever grows. How fast or how flat anything is in a short run is no test's business."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.soak_results import Arrival, Bloat, Check, Exactness, Phase, Sample, Soak
from bench.soak_traffic import SLICE, Traffic, expected_rows, outcomes, pool
from bench.soak_verdict import BLOAT, BLOAT_FLOOR, OVERLOAD_PEAK, exact, flat, judge, of_bloat, overload
from bench.workload import WRITTEN
from local.events import Workload

ROOT = Path(__file__).parents[2]
END_SECONDS = 60.0
EXACT = ("messages in the topic", "messages", "counted", "duplicates", "skipped", "dead", "late", "letters")
MEMORY = 400_000_000
SOAK_SECONDS, OVERLOAD_SECONDS, CATCH_UP_SECONDS = 1_200, 180, 60
LATE = 800
"""Before the last third begins."""


def start(*words: str, output: Path) -> subprocess.Popen[bytes]:
    """The soak in a session of its own: a Ctrl-C for it is not one for us, nor the other way round."""
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "bench.soak", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


# -- the command


def test_a_short_run_is_complete_and_exact(tmp_path: Path) -> None:
    file, output = tmp_path / "new folder" / "result.json", tmp_path / "output"
    words = ["--minutes", "0.06", "--overload-minutes", "0.03", "--backlog", "5000", "--pool", "2000", "--every", "0.2"]
    with start(*words, "--json", str(file), output=output) as running:
        code = running.wait(110)
    text = output.read_text()
    assert file.exists(), text
    found: dict[str, Any] = json.loads(file.read_text())
    checks = {check["what"]: check for check in found["checks"]}

    assert {what: checks[what] for what in EXACT if not checks[what]["passed"]} == {}
    assert checks["balance per partition"]["passed"]
    assert checks["rollup rows that differ"]["passed"]
    assert checks["backlog at the end"]["passed"]
    assert found["exactness"]["rows"] > 100
    assert all(found["exactness"]["expected"][name] > 0 for name in ("counted", "duplicates", "skipped", "dead"))
    # Whether such a short run is flat is left to it; what it says must be what it ends with.
    assert code == (0 if found["passed"] else 1)
    assert found["passed"] == all(check["passed"] for check in checks.values())
    assert ("FAILED" in text) == (not found["passed"])

    assert {sample["phase"] for sample in found["samples"]} == {"soak", "overload", "catch up"}
    assert found["samples"][-1]["messages"] == found["exactness"]["sent"]
    assert all(sample["connections"] >= 1 and sample["rss"] > 0 for sample in found["samples"])
    assert {table["table"] for table in found["tables"]} == set(WRITTEN)
    assert {table["table"] for table in found["bloat"]} == set(WRITTEN)
    assert found["arrivals"]
    assert all(arrival["latency_ms"] > 0 for arrival in found["arrivals"])


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with start("--pool", "2000", output=output) as running:
        try:
            deadline = time.monotonic() + END_SECONDS
            while b"soaking" not in output.read_bytes():
                assert running.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.02)
            started = psutil.Process(running.pid).children(recursive=True)
            running.send_signal(signal.SIGINT)
            assert running.wait(END_SECONDS) == 130, output.read_text()
        finally:
            running.kill()
    assert started or os.environ.get("TEST_DATABASE_URL")
    _, alive = psutil.wait_procs(started, timeout=END_SECONDS)
    assert alive == []
    assert "interrupted" in output.read_text()


# -- the traffic


def test_traffic_is_what_is_expected_of_it() -> None:
    sample = pool(Workload(end_us=1_770_000_000_000_000, events=7_000))
    traffic, rounds = Traffic(sample), 12
    ids: dict[int, bytes] = {}
    known = repeats = bad = 0
    handoffs: set[tuple[int, int]] = set()
    for number in range(rounds):
        for first in range(0, traffic.events, SLICE):
            for partition in traffic.messages(number, first):
                for key, value in partition:
                    try:
                        event = json.loads(value, parse_constant=lambda _: 1 / 0)
                        good = event["id"] > 0 and event["account_id"] == int(key) and event["created_at"] < "2099"
                    except (ValueError, KeyError, ZeroDivisionError):
                        good = False
                    if not good:
                        bad += 1
                        continue
                    # The same id always is the same event.
                    repeats += event["id"] in ids
                    assert ids.setdefault(event["id"], value) == value
                    known += 1
                    if event["name"] == "conversation_bot_handoff":
                        handoffs.add((event["account_id"], event["conversation_id"]))
    must = outcomes(sample).times(rounds)
    assert (known + bad, bad, repeats) == (must.messages, must.dead, must.duplicates)
    assert len(ids) == must.counted + must.skipped == rounds * traffic.events
    rows = expected_rows(sample, rounds)
    accounts = {key: total for key, total in rows.items() if key.dimension_type == "account"}
    replies = sum(t.events for key, t in accounts.items() if key.metric == "reply_time")
    assert 0 < replies < must.counted
    assert replies % rounds == 0
    # Of two days' members one conversation may be in both.
    members = sum(t.events for key, t in accounts.items() if key.metric == "bot_handoffs_count")
    assert len(handoffs) <= members <= 1.2 * len(handoffs)


# -- the verdict


def a_soak() -> Soak:
    """A perfect one, with a sample every two seconds."""
    samples = []
    for at in range(0, SOAK_SECONDS + OVERLOAD_SECONDS + CATCH_UP_SECONDS, 2):
        phase: Phase = "soak"
        if at >= SOAK_SECONDS:
            phase = "overload" if at < SOAK_SECONDS + OVERLOAD_SECONDS else "catch up"
        backlog = {"soak": 100_000, "overload": 100_000 + 50_000 * (at - SOAK_SECONDS), "catch up": 0}[phase]
        samples.append(Sample(at, phase, MEMORY, MEMORY, 20, 25, 2, 100_000 * at, backlog, 10**7, (at, 0.5 * at)))
    arrivals = [Arrival(at / 10, 500.0) for at in range(0, 10 * SOAK_SECONDS, 5)]
    bloat = [Bloat("rollup_days", 1_000, 8_000_000, 2_000_000, 7_000_000, 1_000_000)]
    outcome = {"messages": 10, "counted": 7, "duplicates": 1, "skipped": 1, "dead": 1, "late": 0, "letters": 1}
    return Soak(samples, [], arrivals, bloat, Exactness(1, 10, 10, outcome, dict(outcome), True, 5, 0, []))


def late_ones(of: Callable[[Sample], Sample]) -> list[Sample]:
    """The perfect soak's samples, those of the last third of the soak changed."""
    return [of(s) if s.phase == "soak" and s.at > LATE else s for s in a_soak().samples]


def failed(checks: Sequence[Check]) -> list[str]:
    return [check.what for check in checks if not check.passed]


def test_what_is_flat_passes() -> None:
    checks = judge(a_soak(), overloaded=True)
    assert failed(checks) == []
    assert len(checks) > 15
    assert "memory" in {check.what for check in checks}


@pytest.mark.parametrize(
    ("change", "what", "found"),
    [
        (lambda s: replace(s, rss=int(1.2 * MEMORY)), "memory", "400 → 480 MB"),
        (lambda s: replace(s, threads=21), "threads", "20 → 21"),
        (lambda s: replace(s, files=26), "open files", "25 → 26"),
        (lambda s: replace(s, connections=3), "connections to PostgreSQL", "2 → 3"),
        (lambda s: replace(s, transactions=(int(s.at), 2 * s.at)), "a transaction takes", "500 → 2,000 ms"),
        (lambda s: replace(s, messages=int(100_000 * LATE + 50_000 * (s.at - LATE))), "messages/s", "100,000 → 50,000"),
    ],
    ids=["memory", "threads", "files", "connections", "transactions", "rate"],
)
def test_each_growth_fails_with_a_line_of_its_own(change: Callable[[Sample], Sample], what: str, found: str) -> None:
    checks = judge(replace(a_soak(), samples=late_ones(change)), overloaded=True)
    assert failed(checks) == [what]
    assert next(check.found for check in checks if check.what == what) == found


@pytest.mark.parametrize(
    ("share", "what"), [(1, ["latency p50", "latency p99"]), (20, ["latency p99"])], ids=["all", "one in twenty"]
)
def test_latency_that_grows_fails(share: int, what: list[str]) -> None:
    arrivals = [
        replace(a, latency_ms=1_500.0) if a.at > LATE and number % share == 0 else a
        for number, a in enumerate(a_soak().arrivals)
    ]
    assert failed(list(flat(a_soak().samples, arrivals))) == what


def test_a_short_peak_is_no_growth_and_the_warm_up_does_not_count() -> None:
    samples = [
        replace(s, rss=2 * MEMORY) if s.at in {100, 1_000} else replace(s, rss=MEMORY // 2) if s.at < 100 else s
        for s in a_soak().samples
    ]
    assert failed(list(flat(samples, a_soak().arrivals))) == []


def test_a_soak_that_was_too_short_to_tell_fails() -> None:
    few = [s for s in a_soak().samples if s.at < 6]
    (check,) = flat(few, [])
    assert not check.passed
    assert "soak for longer" in check.bound
    assert failed(list(flat([], []))) == ["samples"]
    assert failed(list(flat(a_soak().samples, []))) == ["latency"]


def test_an_overload_that_was_none_fails_and_so_does_memory_that_follows_it() -> None:
    soak = a_soak()
    assert failed(list(overload([replace(s, backlog=min(s.backlog, 150_000)) for s in soak.samples]))) == [
        "backlog under overload"
    ]
    large = [replace(s, peak=OVERLOAD_PEAK + 1) if s.phase == "overload" else s for s in soak.samples]
    assert failed(list(overload(large))) == ["peak memory"]
    assert failed(list(overload([*soak.samples, replace(soak.samples[-1], backlog=1)]))) == ["backlog at the end"]
    assert failed(judge(replace(soak, samples=large), overloaded=False)) == []


def test_bloat_fails_beyond_its_bound_and_small_tables_have_none() -> None:
    full = 10 * BLOAT_FLOOR

    def of(size: int, needed: int, rows: int = 1) -> bool | None:
        found = of_bloat(Bloat("rollup_days", rows, size, 0, needed, 0))
        return found.passed if found else None

    assert of(int(BLOAT * full), full) is True
    assert of(int(BLOAT * full) + BLOAT_FLOOR, full) is False
    assert of(BLOAT_FLOOR, BLOAT_FLOOR // 100) is True
    assert of(8_192, 0, rows=0) is None
    indexes = of_bloat(Bloat("rollup_members", 1, full, 9 * full, full, full))
    assert indexes
    assert not indexes.passed
    assert indexes.what == "size of rollup_members"
    assert "5.00 times 20.0 MB" in indexes.found


def test_whatever_is_not_exact_fails() -> None:
    right = a_soak().exactness
    assert failed(list(exact(right))) == []
    assert failed(list(exact(replace(right, in_topic=11)))) == ["messages in the topic"]
    assert failed(list(exact(replace(right, found={**right.found, "late": 1})))) == ["late"]
    assert failed(list(exact(replace(right, balanced=False)))) == ["balance per partition"]
    (wrong,) = [c for c in exact(replace(right, differences=1, told=["here"])) if not c.passed]
    assert wrong.found == "1 of 5; here"
    assert failed(list(exact(replace(right, rows=0)))) == ["rollup rows that differ"]
