"""Rebuilds units in parallel, each worker on a connection of its own, until all are done or somebody says stop."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import psycopg

from backfill.plan import Day, Unit
from backfill.run import Runner
from consumer.database import is_transient
from consumer.rollup.rebuild import Rebuilt
from consumer.settings import DatabaseSettings


class Progress(Protocol):
    """Told of every day as it ends, from the thread that rebuilt it, one call at a time."""

    def rebuilt(self, result: Rebuilt) -> None:
        """A day was rebuilt, or left as it is for what `result` says."""

    def failed(self, day: Day, problem: str) -> None:
        """A day could not be rebuilt, after all attempts."""


@dataclass
class Work:
    """Units to do, and what became of them. Shared by the workers.

    Attributes:
        settings: how to reach the database.
        units: what is to be done; what was done is taken out.
        force: take raw as the truth.
        progress: told of every day.
        stop: set to end after the units in hand.
    """

    settings: DatabaseSettings
    units: deque[Unit]
    force: bool
    progress: Progress
    stop: threading.Event
    lost: str | None = None
    """Why the database could not be reached any more; None while it can."""
    error: BaseException | None = None
    """What ended a worker that should not have."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, jobs: int) -> None:
        """Do the units with so many workers; returns when they have ended. Raises what is no day's own fault."""
        workers = [threading.Thread(target=self._worker, name=f"worker-{n}", daemon=True) for n in range(jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            # In short waits, since a signal is only noticed in between.
            while worker.is_alive():
                worker.join(0.2)
        if self.error is not None:
            raise self.error

    @property
    def left(self) -> list[Day]:
        """Days that were not tried."""
        return [day for unit in self.units for day in unit.days]

    def _worker(self) -> None:
        runner = Runner(self.settings, self.stop)
        try:
            while (unit := self._next()) is not None:
                self._do(runner, unit)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the main thread
            self.error = self.error or error
            self.stop.set()
        finally:
            runner.close()

    def _next(self) -> Unit | None:
        with self._lock:
            return None if self.stop.is_set() or not self.units else self.units.popleft()

    def _do(self, runner: Runner, unit: Unit) -> None:
        try:
            results: Sequence[Rebuilt] = runner.rebuild(unit.accounts, unit.date, force=self.force)
        except psycopg.Error as error:
            problem = " ".join(str(error).split())
            if is_transient(error) and not runner.connected:
                # Every other unit would wait for the database in vain, too.
                with self._lock:
                    self.units.appendleft(unit)
                    self.lost = problem
                self.stop.set()
            elif self.stop.is_set():
                with self._lock:
                    self.units.appendleft(unit)
            elif len(unit.accounts) > 1:
                # One of them spoils the transaction for all: each on its own.
                with self._lock:
                    self.units.extendleft(Unit(unit.date, (account,)) for account in reversed(unit.accounts))
            else:
                with self._lock:
                    self.progress.failed(unit.days[0], problem)
            return
        with self._lock:
            for result in results:
                self.progress.rebuilt(result)


def work(
    settings: DatabaseSettings,
    units: Sequence[Unit],
    *,
    jobs: int,
    force: bool,
    progress: Progress,
    stop: threading.Event,
) -> Work:
    """Rebuild `units` with `jobs` connections.

    Returns:
        The work: `left` are the days not tried, because of `stop` or because the database is `lost`.

    Raises:
        RollupError: the schema is not the one that is needed, or there are no raw events.
    """
    done = Work(settings, deque(units), force, progress, stop)
    done.run(max(1, min(jobs, len(units))))
    return done
