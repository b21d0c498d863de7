"""A result for people: a table on a terminal, plain lines elsewhere. And as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.results import Correctness, Idle, Medians, Result, Round, Steady

NOT_MEASURED = "not measured"


class Line(NamedTuple):
    """One fact: the part of the run it belongs to, what it is, the number with its unit, and what to know about it."""

    part: str
    what: str
    value: str
    note: str = ""


def as_json(result: Result) -> str:
    """All numbers, unrounded; field names as in `bench.results`. Raises ValueError for a number that is not finite."""
    return json.dumps(asdict(result), indent=2, allow_nan=False) + "\n"


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
    table = Table(title="reporting-rollup benchmark", title_justify="left")
    for name, style in (("", "bold"), ("what", ""), ("value", "cyan"), ("note", "dim")):
        table.add_column(name, style=style, overflow="fold", justify="right" if name == "value" else "left")
    part = ""
    for line in lines(result):
        if part and line.part != part:
            table.add_section()
        table.add_row("" if line.part == part else line.part, line.what, line.value, line.note)
        part = line.part
    console.print(table)


def lines(result: Result) -> Iterator[Line]:
    """The facts in the order to show them."""
    for part, found in (("machine", result.machine), ("settings", result.settings), ("workload", result.workload)):
        for name, value in found.items():
            what = name if part == "settings" else name.replace("_", " ")
            yield Line(part, what, f"{value:,}" if isinstance(value, int) else str(value))
    for number, each in enumerate(result.rounds, 1):
        yield _of_round(number, each)
    if result.medians:
        yield from _of_medians(result.medians, len(result.rounds))
    if result.correctness:
        yield from _of_correctness(result.correctness)
    if result.steady:
        yield from _of_steady(result.steady)
    if result.idle:
        yield _of_idle(result.idle)


def _of_round(number: int, each: Round) -> Line:
    rates = f"{each.end_to_end.per_second:,.0f} / {each.consume_only.per_second:,.0f} = {each.ratio:.3f}"
    return Line("rounds", f"round {number}", rates, "events/s end to end / consume-only")


def _of_medians(m: Medians, rounds: int) -> Iterator[Line]:
    part = f"median of {rounds}" if rounds > 1 else "speed"
    yield Line(part, "end to end", f"{m.end_to_end_per_second:,.0f} events/s", "partitions assigned to last commit")
    yield Line(part, "with start", f"{m.with_start_per_second:,.0f} events/s", "process started to last commit")
    yield Line(part, "consume-only", f"{m.consume_only_per_second:,.0f} messages/s", "first to last message")
    yield Line(part, "ratio", f"{m.ratio:.3f}", "end to end / consume-only, of each round")
    for thread, stages in m.stages.items():
        for stage, seconds in stages.items():
            if seconds:
                yield Line(part, f"{thread}: {stage}", f"{seconds:.2f} s")
    yield Line(part, "transactions", f"{m.transactions:g}")
    yield Line(part, "rollup rows per event", f"{m.rows_per_event:.2f}")
    cpu = m.cpu_seconds_per_million
    for who, used in (("consumer", cpu.consumer), ("PostgreSQL", cpu.postgres), ("Kafka", cpu.kafka)):
        value = NOT_MEASURED if used is None else f"{used:.2f} s"
        yield Line(part, f"CPU of {who} per million events", value)
    peak = NOT_MEASURED if m.peak_memory_bytes is None else f"{m.peak_memory_bytes / 1e6:,.0f} MB"
    yield Line(part, "peak memory of the consumer", peak)


def _of_correctness(c: Correctness) -> Iterator[Line]:
    part = "correctness"
    yield Line(part, "balance per partition", "adds up" if c.balanced else "DOES NOT ADD UP")
    verdict = "" if c.counted == c.expected else f"WRONG: {c.expected:,} expected"
    yield Line(part, "events counted", f"{c.counted:,}", verdict)
    if c.differences is None:
        yield Line(part, "rollup rows", f"{c.rows:,}", "not compared with raw events (--verify does)")
    elif not c.differences:
        yield Line(part, "rollup equals raw", f"{c.rows:,} rows, exact")
    else:
        for found in c.differences:
            yield Line(part, "ROLLUP DIFFERS FROM RAW", found)


def _of_steady(s: Steady) -> Iterator[Line]:
    part = "steady rate"
    yield Line(part, "produced", f"{s.per_second:,.0f} events/s", f"{s.messages:,} measured in {s.seconds:.0f} s")
    note = f"produce() to visible in PostgreSQL; up to {s.look_ms:.1f} ms too high"
    for what, value in (("p50", s.p50_ms), ("p90", s.p90_ms), ("p99", s.p99_ms), ("max", s.max_ms)):
        yield Line(part, what, f"{value:.0f} ms", note)
    for what, value in (("p50", s.acknowledged_p50_ms), ("p99", s.acknowledged_p99_ms)):
        yield Line(part, f"{what} of Kafka alone", f"{value:.0f} ms", "produce() to acknowledged by the broker")
    yield Line(part, "CPU of the consumer", f"{s.consumer_core_percent:.1f} % of a core")


def _of_idle(i: Idle) -> Line:
    return Line("idle", "CPU of the consumer", f"{i.consumer_core_percent:.2f} % of a core", f"over {i.seconds:.0f} s")
