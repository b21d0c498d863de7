"""`python -m backfill explain`: what is behind a number, or what became of one event."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from cyclopts import Parameter

from backfill.explain_day import DayExplained, account_of, check_known, explain_day
from backfill.explain_event import EventExplained, Fate, explain_event
from backfill.explain_report import print_day, print_event
from backfill.explain_sentences import day_sentences, event_sentences
from backfill.selection import DateRange, Selection, select
from backfill.snapshot import open_snapshot
from consumer.errors import WrongUse
from consumer.rollup.days import day_date, instant, local_day
from consumer.rollup.registry import REGISTRY
from consumer.settings import DatabaseSettings
from consumer.tables import print_json


def explain(
    *,
    account: Annotated[int | None, Parameter(help="Account id.")] = None,
    date: Annotated[str | None, Parameter(help="Local date of the account: 2026-02-11, today or yesterday.")] = None,
    metric: Annotated[str | None, Parameter(help="Only this metric's rows and raw events.")] = None,
    event: Annotated[int | None, Parameter(help="Id of an event, instead of a day: what became of it.")] = None,
    json: Annotated[bool, Parameter(help="One JSON object on one line.", negative=())] = False,
) -> int:
    """Show what is behind a day's numbers, or what became of one event. Writes nothing.

    A day: its bounds in UTC, state, raw events by name, late events and dead letters that touch it, and the rollup
    beside what the raw events give. An event: where it was counted, or why it was not.

    Exit codes: 0 the rollup equals the raw events, or the event is counted; 1 it is not, and the output says why;
    2 wrong use; 3 and 8 as in python -m backfill --help.

    For example:

    - python -m backfill explain --account 42 --date 2026-02-11
    - python -m backfill explain --account 42 --date 2026-02-11 --metric reply_time
    - python -m backfill explain --event 123456 --json
    """
    now = datetime.now(UTC)
    if event is not None:
        if (account, date, metric) != (None, None, None):
            raise WrongUse("--event goes alone: it is on whatever day it is")
        if not -(2**63) <= event < 2**63:
            raise WrongUse(f"--event: {event} is no 64-bit integer, so no event has it")
        with open_snapshot(DatabaseSettings.load()) as conn:
            return _show_event(explain_event(conn, REGISTRY, event, microseconds(now)), json)
    if account is None or date is None:
        raise WrongUse("name a day, --account A --date D, or an event, --event ID")
    named = _one_day(select((account,), False, (date,), False, now=now))
    _check_metric(metric)
    with open_snapshot(DatabaseSettings.load()) as conn:
        timezone = account_of(conn, account).timezone or "UTC"
        check_known(account, timezone)
        today = day_date(local_day(timezone, microseconds(now)))
        day, _ = named.span(today)
        return _show_day(explain_day(conn, REGISTRY, account, day, metric, microseconds(now)), json)


def microseconds(now: datetime) -> int:
    """An instant as microseconds since the epoch."""
    return (now - instant(0)) // timedelta(microseconds=1)


def _one_day(selection: Selection) -> DateRange:
    [named] = selection.dates or ()
    if named.first != named.last:
        raise WrongUse(f"--date: {named} is more than one day; explain one at a time")
    return named


def _check_metric(metric: str | None) -> None:
    known = sorted({m.metric for m in REGISTRY.metrics})
    if metric is not None and metric not in known:
        near = difflib.get_close_matches(metric, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise WrongUse(f"--metric: there is no {metric!r}; there are {', '.join(known)}{hint}")


def _show_day(found: DayExplained, json: bool) -> int:
    print_json(_record(found, day_sentences(found))) if json else print_day(found)
    return 1 if found.same is False else 0


def _show_event(found: EventExplained, json: bool) -> int:
    print_json(_record(found, event_sentences(found))) if json else print_event(found)
    return 0 if found.fate is Fate.COUNTED else 1


def _record(found: DayExplained | EventExplained, sentences: Iterator[str]) -> Mapping[str, Any]:
    """What was found by name, and in `said` what it means."""
    return {field.name: getattr(found, field.name) for field in fields(found)} | {"said": list(sentences)}
