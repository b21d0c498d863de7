"""The days of a selection: the same whether they are listed at once or made one after the other."""

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.plan import ACCOUNTS_AT_ONCE, units
from backfill.selection import DateRange, Resolved, Selection, Spans, select
from consumer.errors import WrongUse
from consumer.rollup.days import instant

FIRST = date(2026, 2, 1)
ZONES = ("UTC", "Asia/Tokyo", "Europe/Paris")


@st.composite
def spans(draw: st.DrawFn) -> Spans:
    """Ranges that neither overlap nor touch."""
    edges = sorted(draw(st.sets(st.integers(0, 40), max_size=8)))
    pairs = zip(edges[::2], edges[1::2], strict=False)
    return tuple((FIRST + timedelta(2 * a), FIRST + timedelta(2 * b - 2)) for a, b in pairs)


def listed(each: Spans) -> Iterator[date]:
    for first, last in each:
        yield from (first + timedelta(n) for n in range((last - first).days + 1))


@given(st.dictionaries(st.integers(1, 99), st.tuples(st.sampled_from(ZONES), spans()), max_size=6))
def test_days_are_made_in_order_each_once(accounts: dict[int, tuple[str, Spans]]) -> None:
    wanted = sorted((day, account) for account, (_, each) in accounts.items() for day in listed(each))
    timezones = {account: name for account, (name, _) in accounts.items()}
    resolved = Resolved({account: each for account, (_, each) in accounts.items() if each}, timezones)
    assert [(day, account) for account, day in resolved.days()] == wanted
    assert resolved.count == len(wanted)
    near = [(account, FIRST + timedelta(n)) for account in (*accounts, 100) for n in range(-2, 84)]
    assert {day for day in near if day in resolved} == {(account, day) for day, account in wanted}
    made = list(units(resolved))
    assert sorted((unit.date, account) for unit in made for account in unit.accounts) == wanted
    assert [unit.date for unit in made] == sorted(unit.date for unit in made)
    assert all(len({timezones[account] for account in unit.accounts}) == 1 for unit in made)


def test_accounts_of_one_zone_share_units() -> None:
    accounts = range(1, 2 * ACCOUNTS_AT_ONCE + 2)
    resolved = Resolved(dict.fromkeys(accounts, ((FIRST, FIRST),)), dict.fromkeys(accounts, "UTC"))
    assert [len(unit.accounts) for unit in units(resolved)] == [ACCOUNTS_AT_ONCE, ACCOUNTS_AT_ONCE, 1]


def test_the_first_unit_of_many_days_is_there_at_once() -> None:
    accounts = range(50_000)
    year = (FIRST - timedelta(3650), FIRST)
    resolved = Resolved(dict.fromkeys(accounts, (year,)), dict.fromkeys(accounts, "UTC"))
    assert resolved.count == 50_000 * 3651
    (unit,) = islice(units(resolved), 1)
    assert (unit.date, len(unit.accounts)) == (year[0], ACCOUNTS_AT_ONCE)


@pytest.mark.parametrize("account", [2**31, -(2**31) - 1, 3_000_000_000, 10**30])
def test_accounts_that_no_column_holds_are_wrong_use(account: int) -> None:
    with pytest.raises(WrongUse, match=f"--account: {account} is no 32-bit integer"):
        select((1, account), False, ("2026-02-11",), False, now=instant(0).replace(year=2026))


def test_a_selection_is_told_as_it_was_asked_for() -> None:
    ranges = (DateRange(FIRST, FIRST), DateRange(FIRST, -1))
    assert str(Selection((1, 2), ranges)) == "--account 1 --account 2 --date 2026-02-01 --date 2026-02-01..yesterday"
    assert str(Selection(None, None)) == "--all-accounts --all-dates"
    assert str(Selection(tuple(range(1, 9)), None)).endswith("--account 5 (and 3 more) --all-dates")
