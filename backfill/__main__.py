"""The command line of the backfill, nothing else: `python -m backfill [verify|close|set-timezone|status|explain]`."""

import sys
from datetime import UTC, datetime
from typing import Annotated

import psycopg
from cyclopts import App, Parameter

from backfill import rebuild
from backfill.explain import explain
from backfill.interactive import Chosen, interactive
from backfill.report import Report
from backfill.selection import Selection, select
from backfill.set_timezone import set_timezone
from backfill.stale import close_days, rebuild_stale, stop_on_signal, watch
from backfill.status import status
from backfill.verify_command import verify
from consumer import __version__, command_line
from consumer.access import refused_by_database
from consumer.database import one_line
from consumer.errors import WrongUse
from consumer.settings import DatabaseSettings, WatchSettings

app = App(
    name="python -m backfill",
    version=__version__,
    help_format="plaintext",
    help="Rebuild chosen days from the raw events, while the consumers go on, and prove the result. "
    "DATABASE_URL names the database: docs/configuration.md. Without arguments, on a terminal, it asks.\n\n"
    "Exit codes: 0 done, 1 a day could not be rebuilt or the run was stopped, 2 wrong use or a wrong "
    "setting, 3 the schema is not the one that is needed, 8 PostgreSQL does not let it in: docs/operations.md.\n\n"
    "For example:\n\n"
    "- python -m backfill --account 42 --date 2026-02-11\n"
    "- python -m backfill --all-accounts --date 2026-02-01..yesterday --jobs 2\n"
    "- python -m backfill --account 42 --all-dates --dry-run\n"
    "- python -m backfill --stale --watch 10",
)

MOST_JOBS = 64
LONGEST_WATCH_SECONDS = 86_400.0

Accounts = Annotated[tuple[int, ...], Parameter(name="--account", help="Account id; repeatable.", negative=())]
AllAccounts = Annotated[bool, Parameter(help="Every account that has a time zone.", negative=())]
Dates = Annotated[
    tuple[str, ...],
    Parameter(
        name="--date",
        help="Local date of the account, as 2026-02-11, 2026-02-01..2026-02-28, today or yesterday; repeatable.",
        negative=(),
    ),
]
AllDates = Annotated[bool, Parameter(help="From the account's first raw event to its yesterday.", negative=())]
Json = Annotated[bool, Parameter(help="One JSON object a line on standard output.", negative=())]
Quiet = Annotated[bool, Parameter(help="Problems only.", negative=())]


@app.default
def backfill(
    *,
    account: Accounts = (),
    all_accounts: AllAccounts = False,
    date: Dates = (),
    all_dates: AllDates = False,
    jobs: Annotated[int, Parameter(help="Connections that work in parallel.")] = 1,
    dry_run: Annotated[bool, Parameter(help="Print the plan and write nothing.", negative=())] = False,
    resume: Annotated[bool, Parameter(help="Go on with the last run that did not end.", negative=())] = False,
    force: Annotated[
        bool,
        Parameter(help="Take raw as the truth even where it lacks events that were counted.", negative=()),
    ] = False,
    stale: Annotated[
        bool, Parameter(help="Rebuild all days known to be behind their raw events.", negative=())
    ] = False,
    watch_seconds: Annotated[
        float | None,
        Parameter(
            name="--watch", help="With --stale: look again every so many seconds, and close days, until SIGTERM."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Rebuild days; the options and exit codes are in the help of the app."""
    selection = check(
        account=account,
        all_accounts=all_accounts,
        date=date,
        all_dates=all_dates,
        jobs=jobs,
        dry_run=dry_run,
        resume=resume,
        force=force,
        stale=stale,
        watch_seconds=watch_seconds,
    )
    if watch_seconds is not None:
        return watch(WatchSettings.load(), watch_seconds)
    if stale:
        return rebuild_stale(DatabaseSettings.load(), Report(None, json=json, quiet=quiet))
    options = rebuild.Options(jobs=jobs, force=force, json=json, quiet=quiet)
    if resume:
        return rebuild.resume(DatabaseSettings.load(), options, stop_on_signal())
    if selection is None:
        return _ask(options)
    if dry_run:
        return rebuild.dry_run(DatabaseSettings.load(), selection, options)
    return rebuild.run(DatabaseSettings.load(), selection, options, stop_on_signal())


def check(
    *,
    account: tuple[int, ...] = (),
    all_accounts: bool = False,
    date: tuple[str, ...] = (),
    all_dates: bool = False,
    jobs: int = 1,
    dry_run: bool = False,
    resume: bool = False,
    force: bool = False,
    stale: bool = False,
    watch_seconds: float | None = None,
) -> Selection | None:
    """Whether these options go together: raises WrongUse if not. Returns the days that are named, None without any."""
    named = bool(account or all_accounts or date or all_dates)
    if not 1 <= jobs <= MOST_JOBS:
        raise WrongUse(f"--jobs takes a number from 1 to {MOST_JOBS}")
    if watch_seconds is not None and not (stale and 0 < watch_seconds <= LONGEST_WATCH_SECONDS):
        raise WrongUse("--watch takes a number of seconds above 0 and up to a day, and goes with --stale")
    if force and (stale or resume):
        raise WrongUse("--force goes with --account and --date: it decides about days that you name")
    if stale and (named or resume or dry_run):
        raise WrongUse("--stale finds its days itself: without --account, --date, --dry-run and --resume")
    if resume and (named or dry_run):
        raise WrongUse("--resume goes on with what was asked for: without --account, --date and --dry-run")
    if stale or resume:
        return None
    if not named and not (force or dry_run):
        return None
    return select(account, all_accounts, date, all_dates, now=datetime.now(UTC))


def _ask(options: rebuild.Options) -> int:
    settings = DatabaseSettings.load()

    def run(chosen: Chosen) -> int:
        selection = Selection((chosen.account,), (chosen.dates,))
        if chosen.dry_run:
            return rebuild.dry_run(settings, selection, options)
        return rebuild.run(settings, selection, options, stop_on_signal())

    def plan(chosen: Chosen) -> str:
        return rebuild.plan(settings, Selection((chosen.account,), (chosen.dates,)), options)

    return interactive(settings, plan, run)


@app.command(name="close")
def close_command(*, json: Json = False, quiet: Quiet = False) -> int:
    """Audit the days that have left the open window, correct and report what is wrong, close them, prune the bitmap.

    `--stale --watch` does this all the time. Exit codes: 0 done, 1 a day could not be closed; others as in
    python -m backfill --help.
    """
    return close_days(DatabaseSettings.load(), Report(None, json=json, quiet=quiet, verb="audited"))


app.command(verify)
app.command(status)
app.command(explain)
app.command(set_timezone)


def main() -> int:
    """Run the command line; a database that is away or refuses becomes one line."""
    try:
        return command_line.run(app)
    except psycopg.Error as error:
        if refusal := refused_by_database(error):
            sys.stderr.write(f"{refusal}\n")
            return refusal.exit_code
        sys.stderr.write(f"database: {one_line(error)}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
