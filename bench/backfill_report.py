"""The backfill benchmark's result for people: a table on a terminal, plain lines elsewhere. And as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from bench.backfill_results import AIMS, LARGE_MEMORY_AIM, Large, Result, Run, Waits, Way
from bench.report import NOT_MEASURED, Line

TITLES = {
    "original": "original algorithm",
    "one_by_one": "one account-day at a time",
    "together": "all accounts of a day",
    "two_jobs": "all accounts, 2 jobs",
}


def as_json(result: Result) -> str:
    """All numbers, unrounded; field names as in `bench.backfill_results`, and `right`."""
    return json.dumps(asdict(result) | {"right": result.right}, indent=2, allow_nan=False) + "\n"


def show(result: Result, console: Console) -> None:
    """Print everything."""
    if not console.is_terminal:
        part = ""
        for line in lines(result):
            if line.part != part:
                part = line.part
                console.file.write(f"{part}:\n")
            note = f"  ({line.note})" if line.note else ""
            console.file.write(f"  {line.what}: {line.value}{note}\n")
        return
    table = Table(title="backfill benchmark", title_justify="left")
    for name in ("", "what", "value", "note"):
        table.add_column(name, overflow="fold", justify="right" if name == "value" else "left")
    part = ""
    for line in lines(result):
        if part and line.part != part:
            table.add_section()
        table.add_row("" if line.part == part else line.part, line.what, line.value, line.note)
        part = line.part
    console.print(table)


def lines(result: Result) -> Iterator[Line]:
    """The facts in the order to show them."""
    for part, found in (("machine", result.machine), ("workload", result.workload)):
        for name, value in found.items():
            yield Line(part, name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    for number, runs in enumerate(result.rounds, 1):
        for run in runs:
            yield Line(f"round {number}", TITLES[run.way], f"{run.account_days_per_second:,.1f} account-days/s")
    for way in result.ways:
        yield from _of_way(way, len(result.rounds))
    for runs in result.rounds[-1:]:
        yield from map(_of_correctness, runs)
    for large in result.large:
        yield from _of_large(large)


def _of_way(way: Way, rounds: int) -> Iterator[Line]:
    part = f"{TITLES[way.way]}, median of {rounds}" if rounds > 1 else TITLES[way.way]
    yield Line(part, "account-days/s", f"{way.account_days_per_second:,.1f}")
    yield Line(part, "raw events/s", f"{way.raw_events_per_second:,.0f}")
    for other, ratio in way.ratios.items():
        if aim := AIMS.get((way.way, other)):
            yield Line(part, f"times {TITLES[other]}", f"{ratio:.2f}", _against(ratio >= aim, f"at least {aim}"))
    yield Line(part, "CPU of the client", f"{way.client_cpu_seconds:.2f} s")
    postgres = NOT_MEASURED if way.postgres_cpu_seconds is None else f"{way.postgres_cpu_seconds:.2f} s"
    yield Line(part, "CPU of PostgreSQL", postgres)
    yield Line(part, "peak memory of the client", _megabytes(way.peak_memory_bytes))


def _of_correctness(run: Run) -> Line:
    if run.differences:
        return Line("correctness", TITLES[run.way], "DIFFERS FROM RAW", "; ".join(run.differences))
    how = "but for how floating-point numbers add up" if run.way == "original" else "exact"
    return Line("correctness", TITLES[run.way], f"{run.rows:,} rows equal raw", how)


def _of_large(large: Large) -> Iterator[Line]:
    part = f"one {'open' if large.open else 'closed'} day of {large.raw_events:,} events"
    yield Line(part, "seconds", f"{large.seconds:.2f}", f"{large.raw_events / large.seconds:,.0f} raw events/s")
    peak = large.peak_memory_bytes
    aim = "" if peak is None else _against(peak < LARGE_MEMORY_AIM, f"under {LARGE_MEMORY_AIM / 1e6:.0f} MB")
    yield Line(part, "peak memory of the client", _megabytes(peak), aim)
    yield from _of_waits(part, "another account without a rebuild", large.alone)
    yield from _of_waits(part, "another account during the rebuild", large.other_account)
    if large.same_day_seconds is not None:
        yield Line(part, "a batch with an event of the day", f"{large.same_day_seconds:.2f} s", "waits for the rebuild")
    yield Line(part, "rollup equals raw", "; ".join(large.differences) or "exact")


def _of_waits(part: str, who: str, waits: Waits) -> Iterator[Line]:
    times = f"{waits.median_ms:.0f} / {waits.p99_ms:.0f} / {waits.longest_ms:.0f} ms"
    yield Line(part, who, times, f"median / p99 / longest of {waits.transactions} transactions")
    wait = f"{waits.longest_lock_wait_ms:.0f} ms"
    yield Line(part, f"{who}: longest wait for a lock", wait, f"looks are up to {waits.look_ms:.0f} ms apart")


def _against(reached: bool, aim: str) -> str:
    return f"aim: {aim}" if reached else f"aim: {aim}; NOT REACHED"


def _megabytes(size: float | None) -> str:
    return NOT_MEASURED if size is None else f"{size / 1e6:,.0f} MB"
