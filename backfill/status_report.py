"""The status for people: tables, and at the end what needs somebody."""

import sys
from typing import TextIO

from backfill.status_findings import Status
from consumer.tables import cell_text, harmless, print_table

STATES = {
    "open": "counted live; exact up to the last commit",
    "closed": "equal to the raw events as of the last rebuild or audit",
    "stale": "behind the raw events, or possibly so; a rebuild is due",
    "settling": "the time zone changed; a rebuild is due when that has settled",
    "not covered": "the account has no time zone any more",
}
"""The states of `rollup_coverage`, and what each means."""


def print_status(status: Status, out: TextIO | None = None) -> None:
    """Print all of a status."""
    out = out or sys.stdout
    print_table((), list(_facts(status).items()), title=f"As of {cell_text(status.checked_at)}", out=out)
    states = [(state, status.days.get(state, 0), meaning) for state, meaning in STATES.items()]
    out.write("\n")
    print_table(("days", "count", "meaning"), states, out=out)
    out.write("\n")
    sizes = [(size["table"], size["table_bytes"], size["index_bytes"]) for size in status.sizes]
    print_table(("table", "bytes", "bytes of indexes"), sizes, out=out)
    out.write("\n")
    if status.partitions:
        _print_partitions(status, out)
    else:
        out.write("No consumer has read anything yet.\n")
    out.write("\n")
    if not status.problems:
        out.write("Nothing needs anybody.\n")
    for problem in status.problems:
        out.write(f"PROBLEM  {harmless(problem.what)}\n     do  {harmless(problem.do)}\n")


def _facts(status: Status) -> dict[str, str]:
    oldest, audits, late, bitmap = status.oldest_waiting, status.audits, status.late_events, status.bitmap
    waiting = "none"
    if oldest:
        waiting = f"account {oldest.account_id}, {oldest.date}, {oldest.state} since {cell_text(oldest.since)}"
    dead = ", ".join(f"{letter['count']} {letter['error_class']}" for letter in status.dead_letters)
    since = f", since {cell_text(late['since'])}" if late["waiting"] else ""
    drift = "none" if not audits["drift_rows"] else f"{audits['drift_rows']} rows on {audits['days_with_drift']} days"
    return {
        "accounts": f"{status.accounts['with_timezone']} with a time zone, "
        f"{status.accounts['without_timezone']} without",
        "oldest day to rebuild": waiting,
        "days audited": f"{audits['days']}, the last at {cell_text(audits['last'])}" if audits["days"] else "none",
        "drift ever found": drift,
        "late events": f"{late['waiting']} on {late['days']} days{since}",
        "dead letters": dead or "none",
        "ids counted": f"{bitmap['bits_bytes']} bytes of bits in {bitmap['rows']} rows, "
        f"days up to {cell_text(bitmap['last_day'])}",
        "lag": status.kafka,
    }


def _print_partitions(status: Status, out: TextIO) -> None:
    columns = (
        *("group", "topic", "partition", "next offset", "lag", "seconds ago"),
        *("messages", "counted", "duplicates", "late", "skipped", "dead"),
    )
    rows = [
        (
            *(p.group_id, p.topic, p.partition, p.next_offset, "unknown" if p.lag is None else p.lag),
            *(round(p.age_seconds), p.messages, p.counted, p.duplicates, p.late, p.skipped, p.dead),
        )
        for p in status.partitions
    ]
    print_table(columns, rows, out=out)
