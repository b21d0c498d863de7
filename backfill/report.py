"""What a backfill tells: a bar on a terminal, plain lines elsewhere, JSON for programs, problems always."""

import sys
import time
from collections import Counter
from dataclasses import asdict
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from backfill.plan import Day
from consumer.rollup.rebuild import Rebuilt, Result
from consumer.tables import print_json

EVERY_DAY = 100
"""Up to so many days each gets its line; of more, only those with a problem do."""

LINE_SECONDS = 5.0
"""How often a line tells of progress where there is no terminal."""

WORDS = {
    Result.REBUILT: "rebuilt",
    Result.SETTLING: "rebuilt; stays stale until the account's change of time zone has settled",
    Result.LATE: "rebuilt; stays stale until its late events are in reporting_events",
    Result.MISSING: "left as it is: {missing} events were counted that reporting_events does not have "
    "(not committed yet, or purged); --force takes reporting_events as the truth",
    Result.UNKNOWN_TIMEZONE: "left as it is: this program's tzdata does not know its time zone; deploy the "
    "release that the schema came with",
    Result.NO_TIMEZONE: "has no reporting_timezone, so its days have no bounds: set one with "
    "python -m backfill set-timezone --account {account_id} --timezone Europe/Paris (any IANA name)",
}

PROBLEMS = frozenset({Result.MISSING, Result.NO_TIMEZONE, Result.UNKNOWN_TIMEZONE})
"""Results that leave a day as it was."""


def describe(result: Rebuilt) -> str:
    """A rebuilt day in one line."""
    zone = f" ({result.timezone})" if result.timezone else ""
    words = WORDS[result.result].format(missing=result.missing, account_id=result.account_id)
    if result.result is Result.NO_TIMEZONE:
        return f"account {result.account_id} {words}"
    invalid = f", {result.invalid} invalid raw events left out" if result.invalid else ""
    drift = f", {result.drift} rows were wrong" if result.drift else ""
    return (
        f"account {result.account_id}, {result.date}{zone}: {words}; "
        f"{result.events} raw events, {result.changed} rows changed{invalid}{drift}"
    )


class _Rate(ProgressColumn):
    """Days a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


class Report:
    """Counts what becomes of days, and tells. A context manager: the bar ends with it.

    Args:
        days: how many there are to do; None if nobody knows, which tells of each.
        json: one object a line on `out` for every day; nothing else there.
        quiet: only problems.
        verb: what the summary says was done to the days.

    Attributes:
        results, failures: what became of days.
        settling: accounts of which days stay stale until a change of time zone has settled.
    """

    def __init__(
        self,
        days: int | None,
        *,
        json: bool = False,
        quiet: bool = False,
        verb: str = "rebuilt",
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._days = days
        self._json, self._quiet, self._verb = json, quiet, verb
        self._began = self._told = time.monotonic()
        self._bar = self._make_bar()
        self.results: Counter[Result] = Counter()
        self.failures: list[tuple[Day, str]] = []
        self.settling: set[int] = set()
        self.events = self.changed = self.drift = 0

    @property
    def done(self) -> int:
        """Days that were tried."""
        return self.results.total() + len(self.failures)

    @property
    def good(self) -> bool:
        """Whether every day tried is rebuilt now."""
        return not (self.failures or any(self.results[problem] for problem in PROBLEMS))

    def rebuilt(self, result: Rebuilt) -> None:
        """A day is done; see `backfill.work.Progress`."""
        self.results[result.result] += 1
        self.events += result.events
        self.changed += result.changed
        self.drift += result.drift
        if result.result is Result.SETTLING:
            self.settling.add(result.account_id)
        problem = result.result in PROBLEMS
        if self._json:
            print_json(asdict(result), self._out)
        elif problem:
            self.say(describe(result), error=True)
        elif not self._quiet and (self._few or result.result is not Result.REBUILT or result.drift):
            self.say(describe(result))
        self._advance()

    def refused(self, account_id: int, why: Result) -> None:
        """An account has no time zone, or none that is known, and so no days."""
        self.results[why] += 1
        if self._json:
            print_json({"account_id": account_id, "result": why}, self._out)
        words = WORDS[why].format(account_id=account_id)
        colon = "" if why is Result.NO_TIMEZONE else ":"
        self.say(f"account {account_id}{colon} {words}", error=True)
        self._advance()

    def failed(self, day: Day, problem: str) -> None:
        """A day could not be rebuilt."""
        self.failures.append((day, problem))
        if self._json:
            print_json({"account_id": day[0], "date": day[1], "result": "failed", "problem": problem}, self._out)
        self.say(f"account {day[0]}, {day[1]}: {problem}", error=True)
        self._advance()

    def summary(self) -> str:
        """All in one line, for people."""
        seconds = time.monotonic() - self._began
        done = self.results[Result.REBUILT] + self.results[Result.SETTLING] + self.results[Result.LATE]
        parts = [
            f"{done:,} days {self._verb} in {seconds:.1f} s",
            f"{self.events:,} raw events",
            f"{self.changed:,} rows changed",
        ]
        if self.drift:
            parts.append(f"{self.drift:,} rows were wrong")
        if self.results[Result.MISSING]:
            parts.append(f"{self.results[Result.MISSING]:,} left as they are")
        if self.failures:
            parts.append(f"{len(self.failures):,} failed")
        return "; ".join(parts)

    def finish(self) -> None:
        """Tell the summary of several days, and the failures again where they may have scrolled away."""
        if self.done > 1:
            self.say(self.summary())
        if len(self.failures) > 1 and not self._few:
            for day, problem in self.failures:
                self.say(f"failed: account {day[0]}, {day[1]}: {problem}", error=True)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def _few(self) -> bool:
        return self._days is None or self._days <= EVERY_DAY

    def _make_bar(self) -> Progress | None:
        if self._quiet or self._json or self._days is None or self._days < 2 or not self._err.isatty():
            return None
        bar = Progress(
            TextColumn("days"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=Console(file=self._err),
        )
        bar.add_task("days", total=self._days)
        return bar

    def _advance(self) -> None:
        if self._bar:
            self._bar.advance(self._bar.task_ids[0])
            return
        now = time.monotonic()
        if self._quiet or self._json or self._few or now - self._told < LINE_SECONDS:
            return
        self._told = now
        rate = self.done / max(1e-9, now - self._began)
        left = ((self._days or 0) - self.done) / rate
        self.say(f"{self.done:,} of {self._days:,} days, {rate:,.0f} days/s, about {left:,.0f} s left")

    def note(self, line: str) -> None:
        """Tell what is not done yet, and is no problem: with `quiet` and `json` on standard error."""
        self.say(line, error=self._json or self._quiet)

    def say(self, line: str, *, error: bool = False) -> None:
        """Tell people something: problems to standard error, the rest to standard output if that is for people."""
        if (self._json or self._quiet) and not error:
            return
        if self._bar and (error or self._out.isatty()):
            self._bar.console.print(line, markup=False, highlight=False)
            return
        stream = self._err if error else self._out
        stream.write(f"{line}\n")
        stream.flush()
