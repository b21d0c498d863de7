"""Rebuilds the stale days of one account after its time zone was changed: waits until the change has settled, then goes
from the newest day to the oldest, so that the reports most looked at are right first."""

import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from types import FrameType

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backfill.run import Runner
from backfill.zone_change import COMMAND, timezone_of, waiting_dates, waiting_days
from consumer.database import is_transient
from consumer.rollup.rebuild import Rebuilt, Result
from consumer.settings import DatabaseSettings

LOOK_AGAIN_SECONDS = 30.0
"""How often, at least, the wait asks how long it still has: somebody may change the zone once more meanwhile."""


class DaysOfAccount:
    """The rebuild of one account's stale days, and what it says.

    Args:
        settings: the database.
        account_id: an account with a time zone.
        as_json: one object a day on standard output, instead of lines for people.
    """

    def __init__(self, settings: DatabaseSettings, account_id: int, *, as_json: bool = False) -> None:
        self._settings = settings
        self._account_id = account_id
        self._as_json = as_json
        self._console = Console(stderr=True)

    def run(self) -> int:
        """Wait, then rebuild; the day in hand is finished when SIGINT or SIGTERM come.

        Returns:
            0 when every day was rebuilt, 1 when some were not: says which, and how to go on.

        Raises:
            psycopg.Error: the database stayed away.
        """
        with _stopped_by_signals() as stop, Runner(self._settings, stop) as runner:
            failed = False
            if self._wait(runner, stop):
                dates = runner.attempt(lambda: waiting_dates(runner.ready()[0], self._account_id))
                failed = self._rebuild(runner, dates, stop)
            return max(self._left_over(runner, stopped=stop.is_set()), int(failed))

    def _wait(self, runner: Runner, stop: threading.Event) -> bool:
        """Wait until the change has settled; False if told to stop before."""
        said = False
        while not stop.is_set():
            seconds = runner.attempt(lambda: waiting_days(runner.ready()[0], self._account_id)).seconds
            if seconds <= 0:
                return True
            if not said:
                self._note(f"waiting {seconds:.0f} s for the change of time zone to settle")
                said = True
            stop.wait(min(seconds + 0.01, LOOK_AGAIN_SECONDS))
        return False

    def _rebuild(self, runner: Runner, dates: Sequence[date], stop: threading.Event) -> bool:
        """Rebuild these days one after the other; whether one of them could not be."""
        failed = False
        with self._progress() as progress:
            task = progress.add_task(f"account {self._account_id}", total=len(dates))
            for day in dates:
                if stop.is_set():
                    break
                try:
                    (rebuilt,) = runner.rebuild([self._account_id], day)
                except psycopg.Error as error:
                    # Of this day only, such as a lock that somebody keeps; else there is no use in going on.
                    if not is_transient(error) or not runner.connected:
                        raise
                    self._note(f"account {self._account_id}, {day}: {' '.join(str(error).split())}; left for later")
                    failed = True
                else:
                    self._tell(rebuilt)
                    failed = failed or rebuilt.result in {Result.MISSING, Result.NO_TIMEZONE}
                progress.advance(task)
        return failed

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)

    def _tell(self, rebuilt: Rebuilt) -> None:
        if self._as_json:
            object_ = {
                "account": rebuilt.account_id,
                "date": str(rebuilt.date),
                "timezone": rebuilt.timezone,
                "result": rebuilt.result,
                "events": rebuilt.events,
                "invalid": rebuilt.invalid,
                "missing": rebuilt.missing,
                "changed": rebuilt.changed,
            }
            sys.stdout.write(f"{json.dumps(object_)}\n")
        elif rebuilt.result is not Result.REBUILT or not self._console.is_terminal:
            self._say(f"account {rebuilt.account_id}, {rebuilt.date} ({rebuilt.timezone}): {_words(rebuilt)}")
        sys.stdout.flush()

    def _left_over(self, runner: Runner, *, stopped: bool) -> int:
        """Say what still waits; 1 if the rebuild was stopped before it was through."""
        waiting = runner.attempt(lambda: waiting_days(runner.ready()[0], self._account_id))
        timezone = runner.attempt(lambda: timezone_of(runner.ready()[0], self._account_id))
        if not waiting.days:
            self._note(f"account {self._account_id}: no day waits for a rebuild, its reports are complete")
            return 0
        self._note(
            f"{'stopped; ' if stopped else ''}account {self._account_id}: {waiting.days} days wait for a rebuild "
            f"({waiting.first} to {waiting.last}); go on with: {COMMAND} --account {self._account_id} "
            f"--timezone {timezone} --rebuild"
        )
        return int(stopped)

    def _say(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def _note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _words(rebuilt: Rebuilt) -> str:
    words = {
        Result.REBUILT: "rebuilt",
        Result.SETTLING: "rebuilt; stays stale, since the time zone was changed again meanwhile",
        Result.LATE: "rebuilt; stays stale until its late events are in reporting_events",
        Result.MISSING: f"left as it is: {rebuilt.missing} events were counted that reporting_events does not have",
        Result.NO_TIMEZONE: "left as it is: the account has no time zone any more",
    }
    return f"{words[rebuilt.result]}; {rebuilt.events} raw events, {rebuilt.changed} rows changed"


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one does what it would do without us."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def set_once(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, set_once)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
