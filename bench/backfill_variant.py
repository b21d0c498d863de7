"""One way to rebuild account-days, in a process of its own: `python -m bench.backfill_variant WAY FIRST LAST DAY...`.

The database is that of DATABASE_URL; FIRST and LAST are account ids, both included. One line of JSON is the answer, the
fields of `Answer`. The clock runs while days are rebuilt; starting, importing and looking up accounts and time zones
come before. Connections of workers are within.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import date

import psycopg

from backfill.plan import Unit, units
from backfill.selection import Resolved
from backfill.work import work
from bench.backfill_reference import Reference
from bench.backfill_results import Answer
from bench.programs import BenchError
from bench.usage import peak_memory
from consumer.rollup.rebuild import Rebuilt, Result
from consumer.settings import DatabaseSettings

TIMEZONES = """
SELECT account_id, reporting_timezone FROM account_settings
WHERE reporting_timezone IS NOT NULL AND account_id BETWEEN %s AND %s
"""


class Count:
    """Counts the days that were rebuilt, and keeps what went wrong with one."""

    def __init__(self) -> None:
        self.days = 0
        self.problem = ""

    def rebuilt(self, result: Rebuilt) -> None:
        """Anything but a plain success is a problem here."""
        self.days += 1
        if result.result is not Result.REBUILT:
            self.problem = f"account {result.account_id}, {result.date}: {result.result}"

    def failed(self, day: tuple[int, date], problem: str) -> None:
        """A day could not be rebuilt."""
        self.problem = f"account {day[0]}, {day[1]}: {problem}"


def original(settings: DatabaseSettings, resolved: Resolved) -> Answer:
    """The original algorithm, one account-day after the other."""

    def run() -> int:
        with psycopg.connect(settings.database_url, autocommit=True) as conn:
            reference = Reference(conn, dict(resolved.timezones))
            for account, day in resolved.days():
                reference.rebuild(account, day)
        return resolved.count

    return _timed(run)


def one_by_one(settings: DatabaseSettings, resolved: Resolved) -> Answer:
    """This implementation, one account-day a transaction, on one connection."""
    singles = [Unit(day, (account,)) for account, day in resolved.days()]
    return _worked(settings, singles, jobs=1)


def together(settings: DatabaseSettings, resolved: Resolved) -> Answer:
    """This implementation as `python -m backfill --all-accounts` plans it, on one connection."""
    return _worked(settings, units(resolved), jobs=1)


def two_jobs(settings: DatabaseSettings, resolved: Resolved) -> Answer:
    """The same with `--jobs 2`."""
    return _worked(settings, units(resolved), jobs=2)


WAYS: dict[str, Callable[[DatabaseSettings, Resolved], Answer]] = {
    "original": original,
    "one_by_one": one_by_one,
    "together": together,
    "two_jobs": two_jobs,
}


def _worked(settings: DatabaseSettings, planned: Iterable[Unit], *, jobs: int) -> Answer:
    count, stop = Count(), threading.Event()

    def run() -> int:
        done = work(settings, planned, jobs=jobs, force=False, progress=count, stop=stop)
        if problem := count.problem or done.lost:
            raise BenchError(problem)
        return count.days

    return _timed(run)


def _timed(run: Callable[[], int]) -> Answer:
    began, cpu = time.monotonic(), time.process_time()
    days = run()
    ended = time.monotonic()
    return Answer(days, ended - began, time.process_time() - cpu, peak_memory(os.getpid()), began, ended)


def main(words: list[str]) -> None:
    """The command."""
    way, first, last, *dates = words
    settings = DatabaseSettings.load()
    with psycopg.connect(settings.database_url) as conn:
        timezones: dict[int, str] = dict(conn.execute(TIMEZONES, (int(first), int(last))).fetchall())
    spans = tuple((date.fromisoformat(text), date.fromisoformat(text)) for text in sorted(dates))
    print(json.dumps(asdict(WAYS[way](settings, Resolved(dict.fromkeys(sorted(timezones), spans), timezones)))))


if __name__ == "__main__":
    main(sys.argv[1:])
