"""Rebuilds the stale days of one account after its time zone was changed: waits until the change has settled, then goes
from the newest day to the oldest, so that the reports most looked at are right first."""

import sys
import threading

from backfill.plan import Unit
from backfill.report import Report
from backfill.run import Runner
from backfill.stale import stop_on_signal
from backfill.work import work
from backfill.zone_change import COMMAND, timezone_of, waiting_dates, waiting_days
from consumer.settings import DatabaseSettings

LOOK_AGAIN_SECONDS = 30.0
"""How often, at least, the wait asks how long it still has: somebody may change the zone once more meanwhile."""


def rebuild_account(settings: DatabaseSettings, account_id: int, *, json: bool = False) -> int:
    """Wait, then rebuild the account's stale days. SIGINT and SIGTERM end the wait, or the rebuild after the day in
    hand.

    Args:
        settings: the database.
        account_id: an account with a time zone.
        json: one object a day on standard output, instead of lines for people.

    Returns:
        0 when every day was rebuilt; 1 when some were not, after saying how many wait, and how to go on.

    Raises:
        psycopg.Error: the database stayed away.
    """
    stop = stop_on_signal()
    with Runner(settings, stop) as runner:
        done = _wait(runner, account_id, stop) and _rebuild(settings, runner, account_id, stop, json=json)
        complete = _tell_whether_complete(runner, account_id)
        return 0 if done or complete else 1


def _wait(runner: Runner, account_id: int, stop: threading.Event) -> bool:
    """Wait until the change has settled; False if told to stop before."""
    said = False
    while not stop.is_set():
        seconds = runner.attempt(lambda: waiting_days(runner.ready()[0], account_id)).seconds
        if seconds <= 0:
            return True
        if not said:
            _note(f"waiting {seconds:.0f} s for the change of time zone to settle")
            said = True
        stop.wait(min(seconds + 0.01, LOOK_AGAIN_SECONDS))
    return False


def _rebuild(settings: DatabaseSettings, runner: Runner, account_id: int, stop: threading.Event, *, json: bool) -> bool:
    """Rebuild the days that wait; whether each could be. None can without a time zone."""
    if runner.attempt(lambda: timezone_of(runner.ready()[0], account_id)) is None:
        return False
    dates = runner.attempt(lambda: waiting_dates(runner.ready()[0], account_id))
    units = [Unit(day, (account_id,)) for day in dates]
    with Report(len(units), json=json) as report:
        done = work(settings, units, jobs=1, force=False, progress=report, stop=stop)
    report.finish()
    if done.lost:
        _note(f"the database went away ({done.lost})")
    return report.good and done.finished


def _tell_whether_complete(runner: Runner, account_id: int) -> bool:
    """Say which of the account's days still wait; whether none does, be it that somebody else rebuilt them."""
    waiting = runner.attempt(lambda: waiting_days(runner.ready()[0], account_id))
    timezone = runner.attempt(lambda: timezone_of(runner.ready()[0], account_id))
    if timezone is None:
        _note(f"account {account_id}: its time zone was cleared meanwhile, so its days are not rebuilt any more")
        return False
    if waiting.days:
        _note(
            f"account {account_id}: {waiting.days} days wait for a rebuild ({waiting.first} to {waiting.last}); go on "
            f"with: {COMMAND} --account {account_id} --timezone {timezone} --rebuild"
        )
        return False
    _note(f"account {account_id}: no day waits for a rebuild, its reports are complete")
    return True


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
