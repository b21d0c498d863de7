"""`--stale`: rebuild the days that are known to be behind, oldest first, once or for ever."""

import threading
from collections.abc import Callable

import psycopg

from backfill.run import Runner
from consumer.database import is_transient
from consumer.rollup.rebuild import Rebuilt

Report = Callable[[Rebuilt | str], None]


def rebuild_stale(runner: Runner, report: Report, stop: threading.Event) -> bool:
    """Rebuild every stale day that has settled; False if one of them could not be. Ends early when `stop` is set, after
    the day in hand."""
    good = True
    for account, day in runner.stale_days():
        if stop.is_set():
            break
        try:
            (result,) = runner.rebuild([account], day)
        except psycopg.Error as error:
            # Of this day only, such as a lock that somebody keeps; without a connection there is no use in going on.
            if not is_transient(error) or not runner.connected:
                raise
            report(f"account {account}, {day}: {' '.join(str(error).split())}; left for later")
            good = False
        else:
            report(result)
            good = good and not result.missing
    return good


def watch(runner: Runner, report: Report, stop: threading.Event, seconds: float) -> None:
    """Look for stale days every `seconds` until `stop` is set. A database that is away is waited for."""
    while not stop.is_set():
        try:
            rebuild_stale(runner, report, stop)
        except psycopg.Error as error:
            if not is_transient(error):
                raise
            report(f"database: {str(error).strip()}; trying again in {seconds:g} s")
        stop.wait(seconds)
