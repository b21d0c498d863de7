"""Which days a command is about: accounts and dates as they are given, and the (account, day) pairs they come to.

Dates are local dates of each account, so `yesterday` may be another date for each.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import pairwise

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

MOST_NAMED = 5
"""So many accounts or dates are told one by one."""

_RELATIVE = {"today": 0, "yesterday": -1}

LEAST_ACCOUNT, MOST_ACCOUNT = -(2**31), 2**31 - 1
"""What an integer column holds."""

DAY = timedelta(days=1)

Endpoint = date | int
"""A date, or days from today (0 is today, -1 yesterday)."""

Spans = tuple[tuple[date, date], ...]
"""(first, last) dates, both included, in order and apart from each other."""


@dataclass(frozen=True, slots=True)
class DateRange:
    """Local dates from `first` to `last`, both included."""

    first: Endpoint
    last: Endpoint

    def span(self, today: date) -> tuple[date, date]:
        """The first and the last date, for an account where it is `today`; the last may be before the first."""
        first, last = (end if isinstance(end, date) else today + timedelta(days=end) for end in (self.first, self.last))
        return first, last

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

    def __str__(self) -> str:
        """As it would be asked for again."""
        accounts, dates = ["--all-accounts"], ["--all-dates"]
        if self.accounts is not None:
            accounts = [f"--account {account}" for account in self.accounts[:MOST_NAMED]]
            accounts += [f"(and {more} more)"] if (more := len(self.accounts) - MOST_NAMED) > 0 else []
        if self.dates is not None:
            dates = [f"--date {one}" for one in self.dates[:MOST_NAMED]]
            dates += [f"(and {more} more)"] if (more := len(self.dates) - MOST_NAMED) > 0 else []
        return " ".join([*accounts, *dates])


@dataclass(frozen=True, slots=True)
class Resolved:
    """What it comes to. Days are made when they are asked for: there may be tens of millions.

    Attributes:
        spans: account -> its local dates; accounts without any are left out.
        timezones: account -> IANA name.
        without_timezone: accounts that were named and have none, or are unknown.
        unknown_timezone: accounts whose time zone this program's tzdata does not know; they have no days here.
    """

    spans: Mapping[int, Spans]
    timezones: Mapping[int, str]
    without_timezone: Sequence[int] = ()
    unknown_timezone: Mapping[int, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many (account, local date) pairs there are."""
        return sum((last - first).days + 1 for spans in self.spans.values() for first, last in spans)

    def __contains__(self, day: tuple[int, date]) -> bool:
        spans = self.spans.get(day[0], ())
        at = bisect_right(spans, day[1], key=lambda span: span[0]) - 1
        return at >= 0 and day[1] <= spans[at][1]

    def days(self) -> Iterator[tuple[int, date]]:
        """(account, local date) pairs, oldest date first, each once."""
        of_date: Mapping[str, Sequence[int]] | None = None
        accounts: list[int] = []
        for day, by_timezone in self.by_date():
            if by_timezone is not of_date:
                of_date, accounts = by_timezone, sorted(a for each in by_timezone.values() for a in each)
            yield from ((account, day) for account in accounts)

    def by_date(self) -> Iterator[tuple[date, Mapping[str, Sequence[int]]]]:
        """Every date, oldest first, with its accounts by time zone; the same object for dates that have the same."""
        changes: dict[date, list[tuple[str, int, bool]]] = {}
        for account, spans in self.spans.items():
            for first, last in spans:
                changes.setdefault(first, []).append((self.timezones[account], account, True))
                changes.setdefault(last + DAY, []).append((self.timezones[account], account, False))
        present: dict[str, list[int]] = {}
        for at, until in pairwise(sorted(changes)):
            for name, account, begins in changes[at]:
                listed = present.setdefault(name, [])
                insort(listed, account) if begins else listed.remove(account)
            accounts = {name: tuple(present[name]) for name in sorted(present) if present[name]}
            for n in range((until - at).days if accounts else 0):
                yield at + n * DAY, accounts


def select(
    account: Sequence[int], all_accounts: bool, dates: Sequence[str], all_dates: bool, *, now: datetime
) -> Selection:
    """The selection of --account, --all-accounts, --date and --all-dates; raises WrongUse."""
    if account and all_accounts:
        raise WrongUse("--account and --all-accounts: one or the other, not both")
    if dates and all_dates:
        raise WrongUse("--date and --all-dates: one or the other, not both")
    if not (account or all_accounts):
        raise WrongUse("name the days: --account A (repeatable) or --all-accounts, and --date D or --all-dates")
    if not (dates or all_dates):
        raise WrongUse("name the days: --date D (repeatable; also A..B, today or yesterday) or --all-dates")
    for each in account:
        if not LEAST_ACCOUNT <= each <= MOST_ACCOUNT:
            raise WrongUse(f"--account: {each} is no 32-bit integer, so no account has it")
    ranges = None if all_dates else parse_dates(dates)
    latest = now.date() + timedelta(days=AHEAD_DAYS)
    for one in ranges or ():
        for end in (one.first, one.last):
            if isinstance(end, date) and not EARLIEST <= end <= latest:
                raise WrongUse(f"--date: {end} cannot have events: they are from 2000 to a day ahead")
    return Selection(None if all_accounts else tuple(dict.fromkeys(account)), ranges)


def parse_dates(texts: Sequence[str]) -> tuple[DateRange, ...]:
    """Ranges of `2026-02-11`, `2026-02-01..2026-02-28`, `today`, `yesterday`, `2026-02-01..today`; raises WrongUse."""
    ranges = []
    for text in texts:
        first, dots, last = text.partition("..")
        one = DateRange(_endpoint(first, text), _endpoint(last if dots else first, text))
        if type(one.first) is type(one.last) and one.first > one.last:  # type: ignore[operator]
            raise WrongUse(f"--date: {text} ends before it begins")
        ranges.append(one)
    return tuple(ranges)


def resolve(conn: psycopg.Connection, selection: Selection, now_us: int, registry: Registry = REGISTRY) -> Resolved:
    """What a selection comes to. `now_us`: microseconds since the epoch, decides what yesterday is."""
    wanted = None if selection.accounts is None else list(selection.accounts)
    timezones: dict[int, str] = dict(conn.execute(STATEMENTS["timezones"], {"accounts": wanted}).fetchall())
    unknown = {account: name for account, name in timezones.items() if not is_known(name)}
    timezones = {account: name for account, name in timezones.items() if account not in unknown}
    today = {name: day_date(local_day(name, now_us)) for name in set(timezones.values())}
    spans: dict[int, Spans] = {}
    if selection.dates is None:
        where = {"accounts": list(timezones), "names": list(registry.event_names), **possible_instants(now_us)}
        found = conn.execute(STATEMENTS["first_raw_events"], where)
        for account, first_us in found:
            name = timezones[account]
            since = DateRange(max(EARLIEST, day_date(local_day(name, first_us))), -1)
            spans[account] = _apart([since.span(today[name])])
    else:
        shared = {name: _apart(one.span(present) for one in selection.dates) for name, present in today.items()}
        spans = {account: shared[name] for account, name in timezones.items()}
    missing = [account for account in selection.accounts or () if account not in timezones and account not in unknown]
    return Resolved({account: each for account, each in spans.items() if each}, timezones, missing, unknown)


def _apart(spans: Iterable[tuple[date, date]]) -> Spans:
    """The same dates, in order, each once."""
    apart: list[tuple[date, date]] = []
    for first, last in sorted(span for span in spans if span[0] <= span[1]):
        if apart and first <= apart[-1][1] + DAY:
            apart[-1] = (apart[-1][0], max(last, apart[-1][1]))
        else:
            apart.append((first, last))
    return tuple(apart)


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
            f"--date: {whole!r} is no date; write 2026-02-11, 2026-02-01..2026-02-28, today or yesterday"
        ) from None


def _endpoint_text(end: Endpoint) -> str:
    return end.isoformat() if isinstance(end, date) else {days: word for word, days in _RELATIVE.items()}[end]
