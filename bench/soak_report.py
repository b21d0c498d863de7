"""A soak's verdict for people: a table on a terminal, plain lines elsewhere. And as JSON, with every sample."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.report import Line
from bench.soak_results import Check, Soak
from bench.soak_verdict import rate


def as_json(machine: dict[str, str | int | float], soak: Soak, checks: Sequence[Check]) -> str:
    """All numbers; field names as in `bench.soak_results`. Raises ValueError for a number that is not finite."""
    found = {
        "machine": machine,
        "passed": passed(checks),
        "checks": [asdict(check) for check in checks],
        **asdict(soak),
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def passed(checks: Sequence[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.passed for check in checks)


def show(machine: dict[str, str | int | float], soak: Soak, checks: Sequence[Check], console: Console) -> None:
    """Print the facts and the verdict."""
    facts = [Line("machine", name.replace("_", " "), str(value)) for name, value in machine.items()]
    facts += [*_phases(soak), *_tables(soak)]
    if not console.is_terminal:
        for line in facts:
            console.file.write(f"{line.part}: {line.what}: {line.value}\n")
        for check in checks:
            console.file.write(f"{_word(check)}  {check.what}: {check.found}  (bound: {check.bound})\n")
        return
    about = Table(title="soak and overload", title_justify="left")
    for name, style in (("", "bold"), ("what", ""), ("value", "cyan")):
        about.add_column(name, style=style, overflow="fold")
    for line in facts:
        about.add_row(*line[:3])
    console.print(about)
    verdict = Table(title="verdict", title_justify="left")
    for name in ("", "what", "found", "bound"):
        verdict.add_column(name, overflow="fold")
    for check in checks:
        verdict.add_row(_word(check), check.what, check.found, check.bound, style="" if check.passed else "bold red")
    console.print(verdict)


def _word(check: Check) -> str:
    return "ok    " if check.passed else "FAILED"


def _phases(soak: Soak) -> Iterator[Line]:
    for phase in ("soak", "overload", "catch up"):
        inside = [sample for sample in soak.samples if sample.phase == phase]
        if len(inside) < 2:
            continue
        yield Line(phase, "seconds", f"{inside[-1].at - inside[0].at:,.0f}")
        yield Line(phase, "messages/s", f"{rate(inside):,.0f}")
        yield Line(phase, "memory, median", f"{median(s.rss for s in inside) / 1e6:,.0f} MB")
        yield Line(phase, "memory, peak so far", f"{inside[-1].peak / 1e6:,.0f} MB")
        yield Line(phase, "backlog, median", f"{median(s.backlog for s in inside):,.0f}")
        yield Line(phase, "backlog, most", f"{max(s.backlog for s in inside):,}")
        yield Line(phase, "messages kept by Kafka, most", f"{max(s.kept for s in inside):,}")


def _tables(soak: Soak) -> Iterator[Line]:
    for each in soak.bloat:
        looks = [look for look in soak.tables if look.table == each.table]
        if not looks:
            continue
        most = max(look.dead for look in looks)
        yield Line(
            "tables",
            each.table,
            f"{each.rows:,} rows; table {each.heap / 1e6:,.1f} of {each.full_heap / 1e6:,.1f} MB, indexes"
            f" {each.indexes / 1e6:,.1f} of {each.full_indexes / 1e6:,.1f} MB; dead rows {most:,} at most;"
            f" {looks[-1].vacuums} autovacuums",
        )
