"""The command line of the backfill and its exit codes: `python -m backfill --account A --date D`, or `--stale`."""

import signal
import sys
import threading
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import psycopg
from cyclopts import App, Parameter

from backfill.run import Runner
from backfill.stale import rebuild_stale, watch
from consumer import __version__
from consumer.errors import RollupError
from consumer.rollup.rebuild import RebuildError, Rebuilt, Result
from consumer.settings import DatabaseSettings

app = App(
    name="python -m backfill",
    version=__version__,
    help="Rebuild chosen days from the raw events, while the consumers go on. "
    "DATABASE_URL names the database: docs/configuration.md.",
)

WRONG_USE = 2

EARLIEST = date(1999, 12, 31)
"""The first instant that an event may have, 2000-01-01T00:00:00Z, is on this local date west of Greenwich."""

LONGEST_WATCH_SECONDS = 86_400.0


@app.default
def backfill(
    *,
    account: Annotated[tuple[int, ...], Parameter(help="Account id; repeatable.", negative=())] = (),
    day: Annotated[
        tuple[str, ...],
        Parameter(name="--date", help="Local date of the account, as 2026-02-11; repeatable.", negative=()),
    ] = (),
    stale: Annotated[
        bool, Parameter(help="Rebuild all days known to be behind their raw events.", negative=())
    ] = False,
    watch_seconds: Annotated[
        float | None, Parameter(name="--watch", help="With --stale: look again every so many seconds, until SIGTERM.")
    ] = None,
    force: Annotated[
        bool,
        Parameter(help="Take raw as the truth even where it lacks events that were counted.", negative=()),
    ] = False,
) -> int:
    """Rebuild days. Exit codes: 0 done, 1 a day could not be rebuilt, 2 wrong use.

    Examples:
        python -m backfill --account 42 --date 2026-02-11
        python -m backfill --account 42 --account 43 --date 2026-02-11 --date 2026-02-12
        python -m backfill --stale --watch 10
    """
    if problem := _problem(account, day, stale, watch_seconds, force):
        sys.stderr.write(f"{problem}. See python -m backfill --help\n")
        return WRONG_USE
    runner = Runner(DatabaseSettings.load())
    try:
        if stale:
            return _stale(runner, watch_seconds)
        return _named(runner, [(a, date.fromisoformat(d)) for a in account for d in day], force=force)
    except psycopg.Error as error:
        sys.stderr.write(f"database: {' '.join(str(error).split())}\n")
        return 1
    finally:
        runner.close()


def _problem(
    account: tuple[int, ...], day: tuple[str, ...], stale: bool, watch_seconds: float | None, force: bool
) -> str | None:
    """What is wrong with the command line, if anything."""
    if stale == bool(account or day) or bool(account) != bool(day):
        return "name the days: --account A --date D (each repeatable), or --stale"
    if watch_seconds is not None and not (stale and 0 < watch_seconds <= LONGEST_WATCH_SECONDS):
        return "--watch takes a number of seconds above 0 and up to a day, and goes with --stale"
    if force and stale:
        return "--force goes with --account and --date: it decides about days that you name"
    for text in day:
        try:
            named = date.fromisoformat(text)
        except ValueError as error:
            return f"--date: {error}; write it as 2026-02-11"
        if not EARLIEST <= named <= datetime.now(UTC).date() + timedelta(days=2):
            return f"--date: {named} cannot have events: they are from 2000 to a day ahead"
    return None


def _named(runner: Runner, days: list[tuple[int, date]], *, force: bool) -> int:
    good = True
    for account_id, day in days:
        try:
            result = runner.rebuild(account_id, day, force=force)
        except RebuildError as error:
            sys.stderr.write(f"{error}\n")
            good = False
        else:
            _report(result)
            good = good and not result.missing
    return 0 if good else 1


def _stale(runner: Runner, seconds: float | None) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if seconds is not None:
        watch(runner, _report, stop, seconds)
        return 0
    good = rebuild_stale(runner, _report, stop)
    if settling := runner.settling():
        sys.stdout.write(f"{settling} days wait for a change of time zone to settle; run this again in a minute\n")
    return 0 if good else 1


def _report(result: Rebuilt | str) -> None:
    if isinstance(result, str):
        sys.stderr.write(f"{result}\n")
        return
    words = {
        Result.REBUILT: "rebuilt",
        Result.SETTLING: "rebuilt; stays stale until the account's change of time zone has settled",
        Result.LATE: "rebuilt; stays stale until its late events are in reporting_events",
        Result.MISSING: f"left as it is: {result.missing} events were counted that reporting_events does not have "
        "(not committed yet, or purged); --force takes reporting_events as the truth",
    }
    invalid = f", {result.invalid} invalid raw events left out" if result.invalid else ""
    sys.stdout.write(
        f"account {result.account_id}, {result.date} ({result.timezone}): {words[result.result]}; "
        f"{result.events} raw events, {result.changed} rows changed{invalid}\n"
    )
    sys.stdout.flush()


def main() -> int:
    """Run the command line; errors that somebody must act on become one line and their exit code."""
    try:
        return app() or 0
    except RollupError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
