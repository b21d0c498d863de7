"""`python -m backfill set-timezone`: an account's reporting time zone, set or cleared, and what follows from it."""

import sys
from typing import Annotated

from cyclopts import Parameter

from backfill import zone_dialogue
from backfill.zone_change import LEAST_ACCOUNT, MOST_ACCOUNT, change_timezone, connection
from backfill.zone_consequences import Consequences
from backfill.zone_rebuild import rebuild_account
from consumer.dialogue import on_terminal
from consumer.errors import ConfigurationError
from consumer.rollup.days import validate_timezone
from consumer.settings import DatabaseSettings
from consumer.tables import print_json

WRONG_USE = 2


def set_timezone(
    *,
    account: Annotated[int | None, Parameter(help="Account id.")] = None,
    timezone: Annotated[str | None, Parameter(help="IANA name, as Europe/Paris.")] = None,
    clear: Annotated[bool, Parameter(help="Take the time zone away: no rollup for the account.", negative=())] = False,
    rebuild: Annotated[
        bool,
        Parameter(help="Wait until the change has settled and rebuild the account's stale days.", negative=()),
    ] = False,
    force: Annotated[
        bool, Parameter(help="Change it even if totals are lost whose raw events are gone.", negative=())
    ] = False,
    json: Annotated[bool, Parameter(help="One JSON object a line on standard output.", negative=())] = False,
) -> int:
    """Set an account's time zone, in which its days are cut. Exit codes: 0 done, 1 not changed, or a day could not be
    rebuilt, 2 wrong use; 3 and 8 as in python -m backfill --help.

    Without any option, on a terminal, it asks: for the account, a UTC offset, and one of the zones that have it.

    Every boundary between days moves with the zone, so that all days of the account are stale until they are rebuilt
    from raw events: by --rebuild (the newest first), or by a running `--stale --watch`. The same command once more goes
    on with a rebuild that was stopped.

    Examples:
        python -m backfill set-timezone --account 42 --timezone Europe/Paris
        python -m backfill set-timezone --account 42 --timezone Asia/Kolkata --rebuild
        python -m backfill set-timezone --account 42 --clear

    With --json, first an object with account_id, before and timezone (names or null), changed, stale_days, first_date
    and last_date of these (or null), complete_from (when a rebuild makes reports complete; null: at once),
    settle_seconds (until then), raw_from (date of the first raw event, or null), lost_days (given up by --force) and
    next (the command to run, or null). With --rebuild, then one for each day, as other rebuilds write them. Instants
    and dates are ISO 8601.
    """
    nothing_named = account is None and timezone is None and not (clear or rebuild or force or json)
    if nothing_named and on_terminal():
        return zone_dialogue.run(DatabaseSettings.load())
    for option, given in (("--timezone", timezone is not None), ("--rebuild", rebuild), ("--force", force)):
        if clear and given:
            return _wrong(f"--clear and {option}: one or the other, not both")
    if account is None or (timezone is None and not clear):
        return _wrong(
            "name the account and its zone: --account A --timezone Z [--rebuild] [--force], or --account A --clear"
            + ("; without a terminal nothing can be asked" if nothing_named else "")
        )
    if not LEAST_ACCOUNT <= account <= MOST_ACCOUNT:
        return _wrong(f"--account: {account} is not an account id: they lie between {LEAST_ACCOUNT} and {MOST_ACCOUNT}")
    if timezone is not None:
        try:
            validate_timezone(timezone)
        except ConfigurationError as error:
            return _wrong(f"--timezone: {error}")
    return _set(DatabaseSettings.load(), account, timezone, rebuild=rebuild, force=force, json=json)


def _wrong(problem: str) -> int:
    end = "" if problem.endswith("?") else "."
    sys.stderr.write(f"{problem}{end} See python -m backfill set-timezone --help\n")
    return WRONG_USE


def _set(
    settings: DatabaseSettings, account: int, timezone: str | None, *, rebuild: bool, force: bool, json: bool
) -> int:
    with connection(settings) as conn:
        consequences = Consequences.of(conn, change_timezone(conn, account, timezone, force=force))
    if json:
        print_json(consequences.as_object())
    else:
        sys.stdout.write("".join(f"{line}\n" for line in consequences.lines(rebuilds=rebuild)))
    sys.stdout.flush()
    if rebuild and consequences.waiting.days:
        return rebuild_account(settings, account, json=json)
    return 0
