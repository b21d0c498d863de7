"""Which days a command is about: accounts and dates as they are given, and the (account, day) pairs they come to.

Dates are local dates of each account, so `yesterday` may be another date for each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import psycopg

from backfill.statements import STATEMENTS
from consumer.errors import WrongUse
from consumer.handlers.timestamps import EARLIEST_US, MAX_AHEAD_US
from consumer.rollup.days import day_date, instant, is_known, local_day
from consumer.rollup.registry import REGISTRY, Registry

EARLIEST = date(1999, 12, 31)
"""The first instant that an event may have, 2000-01-01T00:00:00Z, is on this local date west of Greenwich."""

AHEAD_DAYS = 2
"""An event may be a day ahead of the clock; so its local date is at most two after that of UTC."""

_RELATIVE = {"today": 0, "yesterday": -1}

Endpoint = date | int
"""A date, or days from today (0 is today, -1 yesterday)."""


@dataclass(frozen=True, slots=True)
class DateRange:
    """Local dates from `first` to `last`, both included."""

    first: Endpoint
    last: Endpoint

    def dates(self, today: date) -> Iterator[date]:
        """Every date of the range, for an account where it is `today`."""
        first, last = (end if isinstance(end, date) else today + timedelta(days=end) for end in (self.first, self.last))
        for n in range((last - first).days + 1):
            yield first + timedelta(days=n)

    def __str__(self) -> str:
        first, last = (_endpoint_text(end) for end in (self.first, self.last))
        return first if first == last else f"{first}..{last}"


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for.

    Attributes:
        accounts: ids; None for all that have a time zone.
        dates: ranges; None for all from an account's first raw event to its yesterday.
    """

    accounts: tuple[int, ...] | None
    dates: tuple[DateRange, ...] | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What it comes to.

    Attributes:
        days: (account, local date) pairs, oldest date first, each once.
        timezones: account -> IANA name.
        without_timezone: accounts that were named and have none, or are unknown.
        unknown_timezone: accounts whose time zone this program's tzdata does not know; they have no days here.
    """

    days: list[tuple[int, date]]
    timezones: dict[int, str]
    without_timezone: list[int]
    unknown_timezone: dict[int, str] = field(default_factory=dict)


def select(
    account: Sequence[int], all_accounts: bool, dates: Sequence[str], all_dates: bool, *, now: datetime
) -> Selection:
    """The selection of --account, --all-accounts, --date and --all-dates; raises WrongUse."""
    if bool(account) == all_accounts:
        raise WrongUse("name the days: --account A (repeatable) or --all-accounts, and --date D or --all-dates")
    if bool(dates) == all_dates:
        raise WrongUse("name the days: --date D (repeatable; also A..B, or yesterday) or --all-dates")
    ranges = None if all_dates else parse_dates(dates)
    latest = now.date() + timedelta(days=AHEAD_DAYS)
    for one in ranges or ():
        for end in (one.first, one.last):
            if isinstance(end, date) and not EARLIEST <= end <= latest:
                raise WrongUse(f"--date: {end} cannot have events: they are from 2000 to a day ahead")
    return Selection(None if all_accounts else tuple(dict.fromkeys(account)), ranges)


def parse_dates(texts: Sequence[str]) -> tuple[DateRange, ...]:
    """Ranges of `2026-02-11`, `2026-02-01..2026-02-28`, `yesterday`, `2026-02-01..yesterday`; raises WrongUse."""
    ranges = []
    for text in texts:
        first, dots, last = text.partition("..")
        one = DateRange(_endpoint(first, text), _endpoint(last if dots else first, text))
        if type(one.first) is type(one.last) and one.first > one.last:  # type: ignore[operator]
            raise WrongUse(f"--date: {text} ends before it begins")
        ranges.append(one)
    return tuple(ranges)


def resolve(conn: psycopg.Connection, selection: Selection, now_us: int, registry: Registry = REGISTRY) -> Resolved:
    """The (account, day) pairs of a selection. `now_us`: microseconds since the epoch, decides what yesterday is."""
    wanted = None if selection.accounts is None else list(selection.accounts)
    timezones: dict[int, str] = dict(conn.execute(STATEMENTS["timezones"], {"accounts": wanted}).fetchall())
    unknown = {account: name for account, name in timezones.items() if not is_known(name)}
    timezones = {account: name for account, name in timezones.items() if account not in unknown}
    today = {name: day_date(local_day(name, now_us)) for name in set(timezones.values())}
    days: set[tuple[date, int]] = set()
    if selection.dates is None:
        where = {"accounts": list(timezones), "names": list(registry.event_names), **possible_instants(now_us)}
        found = conn.execute(STATEMENTS["first_raw_events"], where)
        for account, first_us in found:
            name = timezones[account]
            since = DateRange(max(EARLIEST, day_date(local_day(name, first_us))), -1)
            days |= {(day, account) for day in since.dates(today[name])}
    else:
        for account, name in timezones.items():
            days |= {(day, account) for one in selection.dates for day in one.dates(today[name])}
    missing = [account for account in selection.accounts or () if account not in timezones and account not in unknown]
    return Resolved([(account, day) for day, account in sorted(days)], timezones, missing, unknown)


def possible_instants(now_us: int) -> dict[str, datetime]:
    """The `earliest` and `latest` created_at that a message may have, as parameters of statements. Raw rows that lie
    elsewhere (a lost clock, `infinity`, BC) cannot have been counted, and would stretch ranges beyond all calendars."""
    return {"earliest": instant(EARLIEST_US), "latest": instant(now_us + MAX_AHEAD_US)}


def _endpoint(text: str, whole: str) -> Endpoint:
    if text in _RELATIVE:
        return _RELATIVE[text]
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise WrongUse(
            f"--date: {whole!r} is no date; write 2026-02-11, 2026-02-01..2026-02-28, or yesterday"
        ) from None


def _endpoint_text(end: Endpoint) -> str:
    return end.isoformat() if isinstance(end, date) else {days: word for word, days in _RELATIVE.items()}[end]
