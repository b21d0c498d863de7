"""What `verify` says: a table of the days that are not exact, their rows, what to do; or JSON, one line a day."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from backfill.settling import Settling
from backfill.verdict import WRONG, Difference, State, Verdict, Verified
from consumer.tables import print_json, print_table

MOST_ROWS = 1000
"""Differing rows that are printed, all days together; the days' table tells the number of all."""

DAY_COLUMNS = (
    *("account", "date", "time zone", "state", "verdict", "raw", "counted"),
    *("behind", "missing", "invalid", "rows differ"),
)
ROW_COLUMNS = ("account", "date", "dimension", "id", "metric", "measure", "expected", "found", "difference")
ADVICE = {
    Verdict.DRIFT: "the rollup is not what the raw events give; --repair rebuilds such days",
    Verdict.UNCOUNTED: "closed, with raw events that were not counted; --repair rebuilds such days",
    Verdict.NEVER_BUILT: "there are raw events, and nobody counted or built the day; --repair builds it",
    Verdict.MISSING: "reporting_events lacks events that were counted: no exact comparison. Not committed yet: "
    "verify later. Purged: the rollup keeps them. Never to come: python -m backfill --account A --date D "
    "--force takes reporting_events as the truth",
    Verdict.BEHIND: "known to be behind the raw events, not compared; {until}",
    Verdict.NOT_COVERED: "the account has no reporting_timezone, so there is nothing to compare",
    Verdict.FAILED: "could not be looked at; the table says why",
}
"""What a verdict means, and what to do; `until` is what completes days that are behind."""


def differs(verdicts: Mapping[Verdict, int]) -> bool:
    """Whether any day differs, or could not be looked at."""
    return any(verdicts.get(verdict) for verdict in (*WRONG, Verdict.FAILED))


def is_exact(verdicts: Mapping[Verdict, int]) -> bool:
    """Whether every day was compared and is exact."""
    return not any(number for verdict, number in verdicts.items() if verdict is not Verdict.EXACT)


class Report:
    """Gathers days as they are verified.

    Args:
        rows: keep the differing rows, to print them as well.

    Attributes:
        verdicts: how many days came to each.
    """

    def __init__(self, *, rows: bool) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self._rows = rows
        self._rows_left = MOST_ROWS
        self._findings: list[Verified] = []
        self._waiting: Counter[str] = Counter()

    def add(self, verified: Verified) -> None:
        """Take a day in."""
        self.verdicts[verified.verdict] += 1
        self._waiting["invalid"] += verified.invalid
        if verified.verdict is Verdict.EXACT:
            self._waiting["events"] += verified.behind
            self._waiting["days"] += verified.behind > 0
            return
        kept = verified.differences[: self._rows_left] if self._rows else ()
        self._rows_left -= len(kept)
        self._findings.append(replace(verified, differences=kept))

    @property
    def behind(self) -> set[int]:
        """The accounts of days that are behind."""
        return {each.account_id for each in self._findings if each.verdict is Verdict.BEHIND}

    def print(self, settling: Settling, *, summary: bool = True) -> None:
        """Print the days that are not exact and their rows if these were kept; with `summary`, what to do, and without
        it only what a rebuild would not mend yet.

        Args:
            settling: days of the accounts of `behind`.
            summary: print it.
        """
        findings = sorted(self._findings, key=lambda each: each.day)
        if findings:
            print_table(DAY_COLUMNS, [_cells(each) for each in findings])
        rows = [(*each.day, *line) for each in findings for line in lines(each)] if self._rows else []
        if rows:
            sys.stdout.write("\n")
            print_table(ROW_COLUMNS, rows)
        if self._rows and self._rows_left <= 0:
            sys.stdout.write(f"... and more: the first {MOST_ROWS} differing rows are shown\n")
        if not summary:
            if settling.days:
                sys.stdout.write(f"{settling}\n")
            return
        sys.stdout.write("\n" * bool(findings))
        total = sum(self.verdicts.values())
        sys.stdout.write(f"{total} days compared, {self.verdicts[Verdict.EXACT]} exact\n")
        for verdict, advice in ADVICE.items():
            if number := self.verdicts[verdict]:
                until = settling if settling.days else "python -m backfill --stale rebuilds stale days"
                sys.stdout.write(f"{verdict} ({number}): {advice.format(until=until)}\n")
        if self._waiting["events"]:
            sys.stdout.write(
                f"{self._waiting['events']} raw events of {self._waiting['days']} open days are not counted yet: their "
                "messages are on their way, or were never sent; what has not come when a day closes is told then\n"
            )
        if self._waiting["invalid"]:
            sys.stdout.write(f"{self._waiting['invalid']} invalid raw events (NaN, beyond 1e9 seconds) left out\n")


def print_day(verified: Verified, *, rows: bool, repaired: Verdict | None) -> None:
    """Print a day as one line of JSON.

    Args:
        verified: what was found in the end.
        rows: with the differing rows.
        repaired: the verdict before the day was rebuilt, if it was.
    """
    record: dict[str, Any] = {
        "account_id": verified.account_id,
        "date": verified.date.isoformat(),
        "timezone": verified.timezone,
        "state": verified.state,
        "verdict": verified.verdict,
        "raw": verified.raw,
        "counted": verified.counted,
        "behind": verified.behind,
        "missing": verified.missing,
        "invalid": verified.invalid,
        "differing": verified.differing,
        "repaired": repaired,
        "problem": verified.problem,
    }
    if rows:
        record["rows"] = [_row(each) for each in verified.differences]
    print_json(record)


def lines(verified: Verified) -> Iterator[tuple[Any, ...]]:
    """The cells of each number that differs, from dimension to difference (found less expected)."""
    due = verified.raw - verified.behind
    if verified.state in {State.OPEN, State.CLOSED} and verified.counted not in {None, due}:
        expected = verified.raw if verified.verdict is Verdict.UNCOUNTED else due
        yield None, None, None, "events counted", expected, verified.counted, (verified.counted or 0) - expected
    for each in verified.differences:
        key = (each.dimension_type, each.dimension_id, each.metric)
        if each.member_id is not None:
            there = [int(numbers is not None) for numbers in (each.expected, each.found)]
            yield *key, f"member {each.member_id}", *there, there[1] - there[0]
            continue
        for measure, change in asdict(each.delta).items():
            was, now = (numbers and getattr(numbers, measure) for numbers in (each.expected, each.found))
            # A row of zeros that is there, or is not, has one line as well.
            if change or (measure == "count" and None in {was, now}):
                yield *key, measure, was, now, change


def _cells(each: Verified) -> tuple[Any, ...]:
    known = each.problem or each.verdict
    numbers = (each.raw, each.counted, each.behind, each.missing, each.invalid, each.differing)
    return *each.day, each.timezone, each.state, known, *numbers


def _row(each: Difference) -> dict[str, Any]:
    return {
        "dimension_type": each.dimension_type,
        "dimension_id": each.dimension_id,
        "metric": each.metric,
        "member_id": each.member_id,
        "expected": each.expected and asdict(each.expected),
        "found": each.found and asdict(each.found),
        "difference": asdict(each.delta),
    }
