"""Rebuilds units in parallel, each worker on a connection of its own, until all are done or somebody says stop.

A worker that cannot connect, or whose connection is lost for good, ends alone and gives its unit back; only when the
last one is gone the rest cannot be done.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import Protocol

import psycopg

from backfill.plan import Day, Unit
from backfill.run import Runner
from backfill.runs import not_done
from consumer.access import refused_by_database
from consumer.database import is_transient, one_line
from consumer.rollup.rebuild import Rebuilt
from consumer.settings import DatabaseSettings

NOTICE_SECONDS = 0.2
"""How soon a signal to stop is noticed."""


class Progress(Protocol):
    """Told of every day as it ends, from the thread that rebuilt it, one call at a time."""

    def rebuilt(self, result: Rebuilt) -> None:
        """A day was rebuilt, or left as it is for what `result` says."""

    def failed(self, day: Day, problem: str) -> None:
        """A day could not be rebuilt, after all attempts."""


class Work:
    """Units to do, and what became of them. Shared by the workers.

    Attributes:
        lost: why nobody could reach the database any more; None while somebody can.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        units: Iterator[Unit],
        progress: Progress,
        stop: threading.Event,
        *,
        force: bool,
        since: datetime | None,
        warn: Callable[[str], None],
    ) -> None:
        self.lost: str | None = None
        self._settings = settings
        self._units = units
        self._progress = progress
        self._stop = stop
        self._force = force
        self._since = since
        self._warn: Callable[[str], None] | None = warn
        self._returned: deque[Unit] = deque()
        self._in_hand = 0
        self._runners: list[Runner] = []  # of the workers that have not ended
        self._problem = ""
        self._error: BaseException | None = None
        self._finished = False
        self._over = threading.Event()  # nothing is begun any more: all is done, or somebody said stop
        self._changed = threading.Condition()

    @property
    def finished(self) -> bool:
        """Whether every day was tried."""
        return self._finished

    def run(self, jobs: int) -> None:
        """Do the units with so many workers; returns when they have ended. Raises what is no day's own fault."""
        self._runners = [Runner(self._settings, self._over) for _ in range(jobs)]
        workers = [
            threading.Thread(target=self._worker, args=(runner,), name=f"worker-{n}", daemon=True)
            for n, runner in enumerate(self._runners)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            # In short waits, since a signal is only noticed in between.
            while worker.is_alive():
                worker.join(NOTICE_SECONDS)
                if self._stop.is_set():
                    self._over.set()
        if self._error is not None:
            raise self._error

    def _worker(self, runner: Runner) -> None:
        try:
            # Before it takes a unit: others can do that while it waits for a connection.
            if self._connects(runner):
                while (unit := self._next()) is not None and self._do(runner, unit):
                    pass
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the main thread
            self._error = self._error or error
            self._over.set()
        finally:
            runner.close()
            with self._changed:
                self._runners.remove(runner)
                if self._problem and any(other.connected for other in self._runners):
                    self._tell_of_problem()
                if not self._runners and not self._finished and not self._stop.is_set():
                    self.lost = self._problem
                self._changed.notify_all()

    def _connects(self, runner: Runner) -> bool:
        try:
            runner.attempt(runner.ready)
        except psycopg.Error as error:
            if not is_transient(error) or refused_by_database(error):
                raise
            self._problem = one_line(error)
            return False
        return True

    def _next(self) -> Unit | None:
        """The next unit; None when there will be none. Waits while others may give theirs back."""
        with self._changed:
            while not self._over.is_set() and not self._stop.is_set():
                unit = self._returned.popleft() if self._returned else next(self._units, None)
                if unit is not None:
                    self._in_hand += 1
                    return unit
                if not self._in_hand:
                    self._finished = True
                    self._over.set()
                self._changed.wait(NOTICE_SECONDS)
        return None

    def _do(self, runner: Runner, unit: Unit) -> bool:
        """Rebuild a unit; whether this worker can go on."""
        results: Sequence[Rebuilt] = ()
        back: list[Unit] = []
        failure, goes_on = "", True
        try:
            results = runner.attempt(lambda: self._rebuild(runner, unit))
        except psycopg.Error as error:
            if refused_by_database(error):
                raise  # and so would be every other day
            goes_on = runner.connected or not is_transient(error)
            if not goes_on or self._stop.is_set():
                back, self._problem = [unit], one_line(error)
            elif len(unit.accounts) > 1:
                # One of them spoils the transaction for all: each on its own.
                back = [Unit(unit.date, (account,)) for account in unit.accounts]
            else:
                failure = one_line(error)
        with self._changed:
            self._returned.extendleft(reversed(back))
            self._in_hand -= 1
            self._changed.notify_all()
            if failure:
                self._progress.failed(unit.days[0], failure)
            for result in results:
                self._progress.rebuilt(result)
            if results and self._problem:
                self._tell_of_problem()
        return goes_on

    def _tell_of_problem(self) -> None:
        """Say, once, why there are fewer workers. Only while others work: where none does, `lost` says it."""
        if self._warn and not self._over.is_set():
            self._warn(f"fewer connections than --jobs asks for, the others go on: {self._problem}")
            self._warn = None

    def _rebuild(self, runner: Runner, unit: Unit) -> Sequence[Rebuilt]:
        conn, rebuilder = runner.ready()
        accounts = unit.accounts if self._since is None else not_done(conn, unit, self._since)
        if not accounts:
            return []
        return rebuilder.rebuild_many(accounts, unit.date, time.time_ns() // 1000, force=self._force)


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def work(
    settings: DatabaseSettings,
    units: Iterable[Unit],
    *,
    jobs: int,
    force: bool,
    progress: Progress,
    stop: threading.Event,
    since: datetime | None = None,
    warn: Callable[[str], None] = _to_stderr,
) -> Work:
    """Rebuild `units` with up to `jobs` connections.

    Args:
        settings: how to reach the database.
        units: taken one after the other, when a worker has time for it.
        jobs: workers at most.
        force: take raw as the truth.
        progress: told of every day.
        stop: set to end after the units in hand.
        since: leave out days that were rebuilt since then and are not stale again.
        warn: told once if there are fewer connections than asked for.

    Returns:
        The work: `finished`, or not because of `stop` or because the database is `lost`.

    Raises:
        RollupError: the schema is not the one that is needed, or there are no raw events.
        psycopg.Error: the database refuses us.
    """
    rest = iter(units)
    first = list(islice(rest, jobs))  # no more workers than units
    done = Work(settings, chain(first, rest), progress, stop, force=force, since=since, warn=warn)
    done.run(max(1, len(first)))
    return done
