"""The benchmark's arithmetic and its report; how fast anything is, is no test's business."""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from bench import report
from bench.__main__ import arguments
from bench.results import (
    ConsumeOnly,
    Correctness,
    Cpu,
    EndToEnd,
    Idle,
    Result,
    Round,
    Steady,
    first_seen,
    medians,
    percentile,
)
from bench.usage import family_seconds, peak_memory, process_seconds

CORRECT = Correctness(balanced=True, counted=1_000, expected=1_000, differences=[], rows=777)


def a_round(rate: float, alone: float, *, upsert: float = 1.0, postgres: float | None = 3.0) -> Round:
    whole = EndToEnd(
        events=1_000,
        seconds=1_000 / rate,
        per_second=rate,
        seconds_with_start=2_000 / rate,
        per_second_with_start=rate / 2,
        stages={"reader": {"poll": 0.5}, "writer": {"upsert": upsert, "retry": 0.0}},
        transactions=2,
        rows_upserted=900,
        rows_per_event=0.9,
        cpu_seconds_per_million=Cpu(5.0, postgres, None),
        start_cpu_seconds=0.6,
        peak_memory_bytes=200_000_000,
    )
    return Round(ConsumeOnly(1_000, 1_000 / alone, alone, 0.1), whole, rate / alone)


def a_result(correctness: Correctness | None = CORRECT) -> Result:
    rounds = [a_round(200, 400), a_round(300, 500), a_round(100, 250)]
    return Result(
        machine={"cores": 2, "python": "3.11.0"},
        settings={"BATCH_MAX_EVENTS": 1000},
        workload={"events": 1_000},
        rounds=rounds,
        medians=medians(rounds),
        correctness=correctness,
        steady=Steady(4_999.0, 15.0, 20.0, 100_000, 101.0, 202.0, 303.0, 404.0, 5.0, 11.0, 2.3, 25.5),
        idle=Idle(10.0, 0.42),
    )


def plain(result: Result) -> str:
    console = Console(file=io.StringIO())
    report.show(result, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestMedians:
    def test_each_number_by_itself(self) -> None:
        found = medians([a_round(200, 400, upsert=9), a_round(300, 500, upsert=1), a_round(100, 250, upsert=2)])
        assert found is not None
        assert found.end_to_end_per_second == 200
        assert found.with_start_per_second == 100
        assert found.consume_only_per_second == 400
        assert found.stages["writer"]["upsert"] == 2

    def test_ratio_is_the_rounds_median_not_the_ratio_of_medians(self) -> None:
        found = medians([a_round(100, 200), a_round(90, 100), a_round(110, 1000)])  # 0.5, 0.9, 0.11
        assert found is not None
        assert found.ratio == 0.5
        assert found.end_to_end_per_second / found.consume_only_per_second == 0.5
        found = medians([a_round(100, 200), a_round(90, 100)])
        assert found is not None
        assert found.ratio == pytest.approx(0.7)
        assert found.end_to_end_per_second / found.consume_only_per_second == pytest.approx(95 / 150)

    def test_what_one_round_could_not_measure_has_no_median(self) -> None:
        found = medians([a_round(1, 2, postgres=3.0), a_round(1, 2, postgres=None), a_round(1, 2, postgres=5.0)])
        assert found is not None
        assert found.cpu_seconds_per_million == Cpu(5.0, None, None)

    def test_no_rounds(self) -> None:
        assert medians([]) is None


class TestPercentile:
    def test_is_a_measured_value_that_so_many_do_not_exceed(self) -> None:
        values = np.random.default_rng(1).permutation(np.arange(1.0, 101.0))
        assert [percentile(values, p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]

    def test_of_few(self) -> None:
        assert percentile(np.array([7.0]), 99) == 7
        assert percentile(np.array([1.0, 2.0, 10.0]), 50) == 2
        assert percentile(np.array([1.0, 2.0, 10.0]), 67) == 10


class TestFirstSeen:
    looked = np.array([10, 20, 30, 40])
    next_offsets = np.array([0, 2, 2, 5])

    def test_an_offset_is_visible_once_the_next_one_is_stored(self) -> None:
        seen = first_seen(np.array([0, 1, 2, 4, 3]), self.looked, self.next_offsets)
        assert seen.tolist() == [20, 20, 40, 40, 40]

    def test_never_seen(self) -> None:
        with pytest.raises(ValueError, match="offset 5 was not committed"):
            first_seen(np.array([1, 5]), self.looked, self.next_offsets)

    def test_a_partition_without_messages(self) -> None:
        assert first_seen(np.array([], np.int64), self.looked, self.next_offsets).size == 0


class TestReport:
    def test_json_has_everything(self) -> None:
        result = a_result()
        found = json.loads(report.as_json(result))
        assert found == json.loads(json.dumps(dataclasses.asdict(result)))
        assert found["medians"]["ratio"] == 0.5
        assert len(found["rounds"]) == 3

    def test_plain_lines_name_every_number(self) -> None:
        text = plain(a_result())
        for expected in (
            "round 2: 300 / 500 = 0.600",
            "ratio: 0.500",
            "end to end: 200 events/s",
            "consume-only: 400 messages/s",
            "writer: upsert: 1.00 s",
            "CPU of PostgreSQL per million events: 3.00 s",
            "CPU of Kafka per million events: not measured",
            "peak memory of the consumer: 200 MB",
            "rollup equals raw: 777 rows, exact",
            "p99: 303 ms",
            "CPU of the consumer: 0.42 % of a core",
            "BATCH_MAX_EVENTS: 1,000",
        ):
            assert expected in text
        assert "retry" not in text  # nothing was retried
        assert "\x1b" not in text

    def test_a_terminal_gets_a_table_with_the_same_facts(self) -> None:
        file = io.StringIO()
        report.show(a_result(), Console(file=file, force_terminal=True, width=160))
        shown = file.getvalue()
        assert "\x1b" in shown
        for line in report.lines(a_result()):
            assert line.what in shown
            assert line.value in shown

    def test_only_what_was_measured(self) -> None:
        result = dataclasses.replace(
            a_result(None), rounds=[], medians=None, steady=None, settings={}, machine={}, workload={}
        )
        assert plain(result).splitlines() == ["idle:", "  CPU of the consumer: 0.42 % of a core  (over 10 s)"]

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"balanced": False}, "DOES NOT ADD UP"),
            ({"counted": 999}, "WRONG: 1,000 expected"),
            ({"differences": ["account 1 has too much"]}, "ROLLUP DIFFERS FROM RAW: account 1 has too much"),
        ],
    )
    def test_what_is_wrong_is_said(self, wrong: dict[str, object], said: str) -> None:
        correctness = dataclasses.replace(CORRECT, **wrong)  # type: ignore[arg-type]
        assert not correctness.good
        assert said in plain(a_result(correctness))

    def test_not_compared_is_not_wrong(self) -> None:
        correctness = dataclasses.replace(CORRECT, differences=None)
        assert correctness.good
        assert "not compared with raw events" in plain(a_result(correctness))


class TestUsage:
    def test_a_family_includes_children_that_have_ended(self) -> None:
        burn = "import time\nwhile time.process_time() < 0.3: pass"
        parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint(flush=True)\ninput()"
        with subprocess.Popen(
            [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout
            running.stdout.readline()
            alone, family = process_seconds(running.pid), family_seconds(running.pid)
            running.communicate("\n")
        assert family - alone >= 0.25  # the system counts in hundredths

    def test_a_child_can_be_left_out(self) -> None:
        burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
        with subprocess.Popen(
            [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout
            running.stdout.readline()
            without, family = family_seconds(os.getpid(), {running.pid}), family_seconds(os.getpid())
            running.communicate("\n")
        assert family - without >= 0.25

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says")
    def test_peak_memory_outlives_its_use(self) -> None:
        code = "held = bytearray(80_000_000)\ndel held\nprint(flush=True)\ninput()"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout
            running.stdout.readline()
            peak = peak_memory(running.pid)
            running.communicate("\n")
        assert peak is not None
        assert 80_000_000 < peak < 300_000_000

    def test_no_such_process(self) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            ended.wait()
        assert peak_memory(ended.pid) is None


class TestArguments:
    def test_defaults(self) -> None:
        wanted = arguments([])
        assert (wanted.events, wanted.rounds, wanted.rate, wanted.seconds, wanted.idle_seconds) == (
            1_000_000, 3, 5_000, 20, 10,
        )  # fmt: skip
        assert not wanted.verify

    @pytest.mark.parametrize("words", [["--events", "0"], ["--rounds", "-1"], ["--rate", "many"], ["--fast"]])
    def test_wrong_use(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            arguments(words)
        assert ended.value.code == 2
        assert words[0] in capsys.readouterr().err


def test_numbers_are_finite_in_json() -> None:
    """Strict readers of JSON refuse NaN."""

    def refuse(word: str) -> float:
        raise AssertionError(word)

    json.loads(report.as_json(a_result()), parse_constant=refuse)
    broken = dataclasses.replace(a_result(), idle=Idle(1.0, math.nan))
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.as_json(broken)
