"""`--stale`, once or as a watcher: stale days are rebuilt; a watcher closes days as well, and can be scraped."""

import signal
import sys
import threading
import time
from collections.abc import Sequence

import psycopg
from prometheus_client import CollectorRegistry

from backfill.metrics import WatchMetrics
from backfill.plan import Day
from backfill.report import Report
from backfill.run import Runner
from backfill.settling import Settling
from backfill.statements import STATEMENTS
from backfill.upkeep import Upkeep
from backfill.work import Progress
from consumer.access import refused_by_database
from consumer.database import is_transient, one_line
from consumer.dead_letters.retention import prune_dead_letters
from consumer.health import Health
from consumer.health_server import HealthServer
from consumer.rollup.rebuild import Rebuilt
from consumer.settings import DatabaseSettings, WatchSettings

LOOK_SECONDS = 60.0
"""How long a watcher rebuilds before it closes days, and tells its metrics, in between; then it goes on at once."""
LIVELINESS_SECONDS = 600.0
"""How long a look may take until /livez says that the watcher is stuck; a big day is a matter of seconds."""


def rebuild_stale(settings: DatabaseSettings, report: Report) -> int:
    """Rebuild every stale day that has settled. Returns the exit code."""
    stop = stop_on_signal()
    runner = Runner(settings, stop)
    try:
        upkeep = Upkeep(runner, settings.open_days, report, stop)
        upkeep.rebuild_stale()
        # What was passed over is held by somebody: a consumer for an instant, or another worker.
        for day in upkeep.passed_over():
            if stop.is_set():
                break
            _rebuild_one(runner, day, report)
        settling = Settling.of(runner.fetch)
    finally:
        runner.close()
    report.finish()
    if settling.days:
        report.note(f"{settling.days} days wait: {settling}")
    return 0 if report.good else 1


def close_days(settings: DatabaseSettings, report: Report) -> int:
    """Audit and close the days that have left the open window. Returns the exit code: 1 if one could not be closed."""
    stop = stop_on_signal()
    runner = Runner(settings, stop)
    try:
        switched_off, pruned = Upkeep(runner, settings.open_days, report, stop).close()
        letters = prune_letters(runner, settings.dead_letter_retention_days)
    finally:
        runner.close()
    report.finish()
    if switched_off:
        report.say(f"{switched_off} days of accounts without a time zone closed as they are")
    report.say(f"{pruned} rows of counted_events are not needed any more")
    if letters:
        report.say(f"{letters} dead letters deleted that were dealt with long ago")
    return 0 if report.good and not stop.is_set() else 1


def watch(settings: WatchSettings, seconds: float) -> int:
    """Rebuild stale days and close days, every `seconds`, until SIGTERM. A database that is away is waited for,
    and so is one that lets us in no more: it may be in nobody's hands to restart us before that is known.

    Raises:
        psycopg.Error: the database refuses us from the start, or refuses what a rebuild has to do.
    """
    stop = stop_on_signal()
    registry = CollectorRegistry()
    metrics = WatchMetrics(registry)
    health = Health(time.monotonic(), LIVELINESS_SECONDS)
    server = HealthServer(settings.metrics_address, settings.metrics_port, registry, health, status=dict)
    server.start()
    report = Report(None)
    report.say(f"metrics and probes on port {server.port}")
    runner = Runner(settings, stop)
    upkeep = Upkeep(runner, settings.open_days, _Both([report, metrics], health), stop)
    try:
        while not stop.is_set():
            health.tick(time.monotonic())
            behind = False
            try:
                behind = _look(runner, upkeep, metrics, settings.dead_letter_retention_days)
            except psycopg.Error as error:
                if not is_transient(error) or (refused_by_database(error) and not runner.was_let_in):
                    raise
                problem = one_line(error)
                health.database(problem)
                report.say(f"database: {problem}; trying again in {seconds:g} s", error=True)
            else:
                health.database(None)
                health.schema(None)
                health.joined_group(0)  # ready: it has no group, but the probe asks for one
                health.mark_started()
            stop.wait(0 if behind else seconds)
    finally:
        health.mark_stopping()
        runner.close()
        server.stop()
    return 0


def prune_letters(runner: Runner, days: int) -> int:
    """Delete dead letters that were replayed or discarded more than `days` days ago; how many it were."""
    return runner.attempt(lambda: prune_dead_letters(runner.connection(), days))


def stop_on_signal() -> threading.Event:
    """Set by SIGTERM and Ctrl-C, to end after the days in hand; a second one ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)
        sys.stderr.write("stopping after the days in hand\n")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


class _Both:
    """Tells several of every day, and the probe that there is progress."""

    def __init__(self, told: Sequence[Progress], health: Health) -> None:
        self._told = told
        self._health = health

    def rebuilt(self, result: Rebuilt) -> None:
        self._health.tick(time.monotonic())
        for each in self._told:
            each.rebuilt(result)

    def failed(self, day: Day, problem: str) -> None:
        self._health.tick(time.monotonic())
        for each in self._told:
            each.failed(day, problem)


def _look(runner: Runner, upkeep: Upkeep, metrics: WatchMetrics, keep_days: int) -> bool:
    """Rebuild and close days, and tell of it; whether there is more to do at once."""
    upkeep.rebuild_stale(LOOK_SECONDS)
    behind = upkeep.behind
    _, pruned = upkeep.close(LOOK_SECONDS)
    metrics.bitmap_rows_pruned.inc(pruned)
    metrics.dead_letters_pruned.inc(prune_letters(runner, keep_days))
    stale, oldest, letters = runner.fetch(STATEMENTS["stale_summary"], {})[0]
    metrics.looked(stale, oldest, letters)
    return behind or upkeep.behind


def _rebuild_one(runner: Runner, day: Day, progress: Progress) -> None:
    try:
        (result,) = runner.rebuild([day[0]], day[1])
    except psycopg.Error as error:
        if refused_by_database(error) or (is_transient(error) and not runner.connected):
            raise
        progress.failed(day, one_line(error))
    else:
        progress.rebuilt(result)
