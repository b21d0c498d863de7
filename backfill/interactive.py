"""The dialogue of `python -m backfill` without arguments: an account, its dates, a look at the plan, the rebuild.

It only asks. What the plan is and how it is carried out comes from the caller; nothing is written before the last
question is answered with yes.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

from backfill.selection import AHEAD_DAYS, EARLIEST, DateRange, possible_instants
from backfill.zone_change import LEAST_ACCOUNT, MOST_ACCOUNT, connection, timezone_of
from consumer.dialogue import ask, confirm, on_terminal, politely, say, whole_number
from consumer.rollup.days import day_date, local_day
from consumer.rollup.registry import REGISTRY
from consumer.rollup.statements import load_statements
from consumer.settings import DatabaseSettings

STATEMENTS: Final = load_statements("backfill", "interactive.sql")
"""Statement name -> its text."""

WRONG_USE = 2
MANY_DAYS = 730
"""Two years. Beyond, somebody may have mistyped a date; it is asked once more, with no for an answer."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What somebody wants rebuilt.

    Attributes:
        account: with a time zone and raw events.
        dates: its local dates; both ends are dates.
        days: how many.
        dry_run: whether to show the plan only, and write nothing.
    """

    account: int
    dates: DateRange
    days: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class RawRange:
    """An account's raw events, in local dates of its time zone."""

    account: int
    timezone: str
    events: int
    first: date
    last: date
    today: date


def interactive(
    settings: DatabaseSettings, describe_plan: Callable[[Chosen], str], run: Callable[[Chosen], int]
) -> int:
    """Ask, show the plan, ask for a last yes, run.

    Args:
        settings: the database.
        describe_plan: the days, raw events and estimated seconds, as lines for people.
        run: rebuilds, with progress and a summary, and gives an exit code; for a dry run, it shows the plan.

    Returns:
        What `run` gave; 0 when the last answer was no; 1 left at Ctrl-D, 130 at Ctrl-C; 2 without a terminal.

    Raises:
        psycopg.Error: the database is away.
    """
    if not on_terminal():
        sys.stderr.write(
            "name the days: --account A or --all-accounts, with --date D or --all-dates; or --stale. Without a "
            "terminal nothing can be asked. See python -m backfill --help\n"
        )
        return WRONG_USE
    agreed: list[Chosen] = []

    def ask_for_all() -> int:
        chosen = choose(settings)
        if chosen.dry_run:
            if code := run(chosen):
                return code
        else:
            say(describe_plan(chosen))
        if confirm(
            f"Rebuild {_days(chosen.days)} now",
            default=chosen.days <= MANY_DAYS,
        ):
            agreed.append(replace(chosen, dry_run=False))
        else:
            say("Nothing was changed.")
        return 0

    code = politely(ask_for_all)
    # Outside of the dialogue: from here on Ctrl-C is an affair of the run, which says what is done and what is left.
    return run(agreed[0]) if agreed else code


def choose(settings: DatabaseSettings) -> Chosen:
    """Ask what to rebuild. Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C, psycopg.Error."""
    say("Rebuild days from raw events. Nothing is written before the last question; Ctrl-D leaves.")
    with connection(settings) as conn:
        row = conn.execute(STATEMENTS["lowest_account_with_zone"]).fetchone()
    lowest = None if row is None or row[0] is None else str(row[0])
    raw = ask("Account id", lambda text: _raw_range(settings, text), lowest)
    say(
        f"Account {raw.account} is in {raw.timezone}. It has {raw.events} raw events, from {raw.first} to {raw.last} "
        "(local dates)."
    )
    yesterday = raw.today - timedelta(days=1)
    first = ask("First date", lambda text: _date(text, raw.today), str(raw.first))
    last_by_default = max(yesterday, first)
    last = ask("Last date", lambda text: _last_date(text, first, raw.today), str(last_by_default))
    days = (last - first).days + 1
    if last >= raw.today:
        say(f"{raw.today} is not over there: its totals are provisional.")
    if days > MANY_DAYS:
        say(
            f"Careful: these are {days} days, more than two years. Each is a transaction of its own: the run can be "
            "stopped at any time, and what is done stays."
        )
    dry_run = confirm("Try a dry run first, which writes nothing", default=True)
    return Chosen(raw.account, DateRange(first, last), days, dry_run)


def _raw_range(settings: DatabaseSettings, text: str) -> RawRange:
    """The raw events of an account that somebody entered; raises ValueError if none of its days can be rebuilt."""
    account = whole_number("an account id", LEAST_ACCOUNT, MOST_ACCOUNT)(text)
    present_us = time.time_ns() // 1000
    parameters = {"account": account, "names": list(REGISTRY.event_names), **possible_instants(present_us)}
    with connection(settings) as conn:
        timezone = timezone_of(conn, account)
        if timezone is None:
            raise ValueError(
                f"account {account} has no time zone, so its days have no bounds: enter another, or leave (Ctrl-D) and "
                f"set one: python -m backfill set-timezone --account {account} --timezone Europe/Paris"
            )
        row = conn.execute(STATEMENTS["raw_range"], parameters).fetchone()
    if row is None or not row[0]:
        raise ValueError(f"account {account} has no raw events in reporting_events: enter another account")
    events, first_us, last_us = row
    first, last, today = (day_date(local_day(timezone, us)) for us in (first_us, last_us, present_us))
    return RawRange(account, timezone, events, max(first, EARLIEST), last, today)


def _days(number: int) -> str:
    return "this day" if number == 1 else f"these {number} days"


def _date(text: str, today: date) -> date:
    days_from_today = {"today": 0, "yesterday": -1}
    if text.lower() in days_from_today:
        return today + timedelta(days=days_from_today[text.lower()])
    try:
        named = date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date: enter one as 2026-02-11, or today, or yesterday") from None
    latest = today + timedelta(days=AHEAD_DAYS)
    if not EARLIEST <= named <= latest:
        raise ValueError(f"{named} cannot have events: enter a date from {EARLIEST} to {latest}")
    return named


def _last_date(text: str, first: date, today: date) -> date:
    last = _date(text, today)
    if last < first:
        raise ValueError(f"{last} is before the first date: enter {first} or a later one")
    return last
