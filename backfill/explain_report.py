"""The explanations for people: tables of what was found, then the sentences on what it means."""

import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from backfill.explain_day import DayExplained
from backfill.explain_event import EventExplained
from backfill.explain_rows import Compared
from backfill.explain_sentences import day_sentences, event_sentences
from backfill.letters import Letter
from consumer.tables import harmless, print_table


def print_day(found: DayExplained, out: TextIO | None = None) -> None:
    """Print all of a day."""
    out = out or sys.stdout
    day = found.day
    hours = None if found.hours is None else f"{found.hours:g}"
    facts: list[tuple[str, object]] = [("time zone", found.timezone), ("begins", found.start)]
    facts += [("ends before", found.end), ("hours", hours), ("state", day.state if day else "never seen")]
    if day:
        facts += [("as of", day.as_of), ("events counted", day.events), ("stale since", day.stale_since)]
        facts += [("last rebuild", day.rebuilt_at), ("last audit", day.audited_at), ("drift, in rows", day.drift)]
    print_table((), facts, title=f"Account {found.account.account_id}, {found.date}", out=out)
    if found.raw:
        rows = [
            (r.name, "yes" if r.known else "no", r.events, r.invalid, r.first, r.last, _some(r.sample_ids, r.events))
            for r in found.raw
        ]
        out.write("\n")
        print_table(("raw events", "known", "count", "invalid", "first", "last", "ids"), rows, out=out)
    if found.invalid:
        out.write("\n")
        print_table(("invalid raw event", "name", "why"), [(r.event_id, r.name, r.why) for r in found.invalid], out=out)
    if found.late_events:
        late = [(e.event_id, e.recorded_at, e.in_raw) for e in found.late_events]
        out.write("\n")
        print_table((f"late event (of {found.late})", "read at", "in raw"), late, out=out)
    _print_letters(found.dead_letters, found.dead, out)
    _print_rows(found, out)
    _print_sentences(day_sentences(found), out)


def print_event(found: EventExplained, out: TextIO | None = None) -> None:
    """Print all of an event."""
    out = out or sys.stdout
    raw = found.raw
    facts: list[tuple[str, object]] = [("fate", found.fate), ("counted by", ", ".join(bit.by for bit in found.bits))]
    if raw:
        facts += [
            ("raw row", f"{raw.name} of account {raw.account_id}"),
            ("created at", raw.out_of_range or raw.created_at),
        ]
    if found.day:
        state = found.day.row.state if found.day.row else "never seen"
        facts += [("day", f"{found.day.date} ({found.day.timezone})"), ("state of the day", state)]
    facts += [("waits on", f"{late.date} of account {late.account_id}") for late in found.late]
    print_table((), facts, title=f"Event {found.event_id}", out=out)
    _print_letters(found.dead_letters, len(found.dead_letters), out)
    _print_sentences(event_sentences(found), out)


def _print_rows(found: DayExplained, out: TextIO) -> None:
    """Those of the account itself and those that differ; of a single metric, of which the registry has one, all."""
    single = len({row.metric for row in found.rows}) == 1
    shown = [row for row in found.rows if single or not row.same or row.dimension_type == "account"]
    if not shown:
        return
    columns = ("dimension", "id", "metric", "count", "seconds", "in business hours", "mean", "raw gives")
    rows = [
        (
            *(row.dimension_type, row.dimension_id, row.metric, row.rollup_count),
            *(row.rollup_sum, row.rollup_business, row.mean, _raw_gives(row)),
        )
        for row in shown
    ]
    out.write("\n")
    print_table(columns, rows, out=out)
    if more := len(found.rows) - len(shown):
        out.write(f"{more} more rows agree; --metric or --json shows them.\n")


def _raw_gives(row: Compared) -> str:
    if row.same:
        return "the same"
    if row.raw_count is None:
        return "no row"
    return f"{row.raw_count}, {row.raw_sum:f} s, {row.raw_business:f} s"


def _print_letters(letters: Sequence[Letter], count: int, out: TextIO) -> None:
    if not letters:
        return
    rows = [(f"{e.topic}[{e.partition}]", e.offset, e.event_id, e.created_at, e.error_class, e.reason) for e in letters]
    out.write("\n")
    print_table((f"dead letter (of {count})", "offset", "event", "created at", "class", "reason"), rows, out=out)


def _print_sentences(sentences: Iterator[str], out: TextIO) -> None:
    out.write("\n")
    out.writelines(f"{harmless(sentence)}\n" for sentence in sentences)


def _some(ids: Sequence[int], count: int) -> str:
    return ", ".join(map(str, ids)) + (", ..." if count > len(ids) else "")
