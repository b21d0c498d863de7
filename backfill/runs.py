"""Runs that can be taken up again: what was asked for, and since when. Which days are done, their own rows tell."""

from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import psycopg
from psycopg.types.json import Jsonb

from backfill.plan import RANGES_AT_ONCE, Unit
from backfill.selection import Resolved, Selection, parse_dates
from backfill.statements import STATEMENTS


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the backfill.

    Attributes:
        id: its row in `backfill_runs`.
        selection: what was asked for.
        force: whether raw was taken as the truth.
        started_at: days rebuilt since then, and not stale again, are done.
    """

    id: int
    selection: Selection
    force: bool
    started_at: datetime


def begin(conn: psycopg.Connection, selection: Selection, *, force: bool) -> int:
    """Note the beginning of a run; returns its id. A run that is killed stays unfinished."""
    dates = None if selection.dates is None else [str(one) for one in selection.dates]
    asked = {"accounts": selection.accounts, "dates": dates, "force": force}
    row = conn.execute(STATEMENTS["begin_run"], {"selection": Jsonb(asked)}).fetchone()
    return int(row[0]) if row else 0


def end(conn: psycopg.Connection, run_id: int) -> None:
    """Note that all days of a run were tried."""
    conn.execute(STATEMENTS["end_run"], {"id": run_id})


def unfinished(conn: psycopg.Connection) -> Run | None:
    """The newest run that is not finished. Not one that was overtaken: a later run of the same days came to its end,
    and told what became of each."""
    for run_id, asked, started_at, overtaken in conn.execute(STATEMENTS["unfinished_runs"]):
        accounts = None if asked["accounts"] is None else tuple(asked["accounts"])
        dates = None if asked["dates"] is None else parse_dates(asked["dates"])
        # Another day's `yesterday` is not the same date.
        moves = any(isinstance(one.first, int) for one in dates or ())
        if moves or not overtaken:
            return Run(run_id, Selection(accounts, dates), asked["force"], started_at)
    return None


def count_done(conn: psycopg.Connection, resolved: Resolved, since: datetime) -> int:
    """How many days are done: rebuilt since then, by this run or by anybody, and not stale again."""
    done = 0
    ranges = ((account, *span) for account, spans in resolved.spans.items() for span in spans)
    while listed := list(islice(ranges, RANGES_AT_ONCE)):
        accounts, firsts, lasts = zip(*listed, strict=True)
        where = {"accounts": list(accounts), "firsts": list(firsts), "lasts": list(lasts), "since": since}
        # Never by a plan that was made when there were hardly any days.
        row = conn.execute(STATEMENTS["count_done"], where, prepare=False).fetchone()
        done += row[0] if row else 0
    return done


def not_done(conn: psycopg.Connection, unit: Unit, since: datetime) -> list[int]:
    """The accounts of a unit whose day is not done; see `count_done`."""
    where = {"accounts": list(unit.accounts), "date": unit.date, "since": since}
    done = {account for (account,) in conn.execute(STATEMENTS["accounts_done"], where)}
    return [account for account in unit.accounts if account not in done]
