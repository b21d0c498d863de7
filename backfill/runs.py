"""Runs that can be taken up again: what was asked for, and since when. Which days are done, their own rows tell."""

from dataclasses import dataclass, replace
from datetime import date, datetime

import psycopg
from psycopg.types.json import Jsonb

from backfill.plan import Day
from backfill.selection import Resolved, Selection, parse_dates
from backfill.statements import STATEMENTS


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the backfill.

    Attributes:
        id: its row in `backfill_runs`.
        selection: what was asked for.
        force: whether raw was taken as the truth.
        started_at: days rebuilt since then are done.
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
    """The newest run that is not finished."""
    row = conn.execute(STATEMENTS["unfinished_run"]).fetchone()
    if row is None:
        return None
    run_id, asked, started_at = row
    accounts = None if asked["accounts"] is None else tuple(asked["accounts"])
    dates = None if asked["dates"] is None else parse_dates(asked["dates"])
    return Run(run_id, Selection(accounts, dates), asked["force"], started_at)


def without_done(conn: psycopg.Connection, resolved: Resolved, run: Run) -> Resolved:
    """What is left of a run: days rebuilt since it began, by it or by anybody, are done."""
    done: set[tuple[int, date]] = set(conn.execute(STATEMENTS["rebuilt_since"], {"since": run.started_at}).fetchall())
    days: list[Day] = [day for day in resolved.days if day not in done]
    return replace(resolved, days=days)
