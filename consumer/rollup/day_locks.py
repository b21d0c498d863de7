"""The rows of `rollup_days` in a batch's transaction: their locks order everything that touches a day."""

import numpy as np
import psycopg

from consumer.rollup.accounts import AccountZones
from consumer.rollup.aggregate import Dated, day_key, split_key
from consumer.rollup.batch import BoolArray, Int64Array
from consumer.rollup.days import day_date, day_number, day_start_us, instant, local_day
from consumer.rollup.registry import Registry
from consumer.rollup.statements import STATEMENTS


def lock_days(
    conn: psycopg.Connection, dated: Dated, accounts: AccountZones, registry: Registry, open_days: int, now_us: int
) -> BoolArray:
    """Insert or lock the events' days, sorted, and count the events on those that are counted live.

    The events of the other days (closed, of another time zone, settling) go to `late_events`, and these days become
    stale.

    Returns:
        bool[n]: which events lie on a day that is counted live.
    """
    if not len(dated.key):
        return np.ones(0, np.bool_)
    keys, numbers = np.unique(dated.key, return_counts=True)
    account_ids, days = (column.tolist() for column in split_key(keys))
    timezones = [accounts.timezone(account) for account in account_ids]
    today = {name: local_day(name, now_us) for name in accounts.zones}
    in_window = [day > today[name] - open_days for name, day in zip(timezones, days, strict=True)]
    parameters = {
        "accounts": account_ids,
        "dates": [day_date(day) for day in days],
        "timezones": timezones,
        "starts": [instant(day_start_us(name, day)) for name, day in zip(timezones, days, strict=True)],
        "in_window": in_window,
        "events": numbers.tolist(),
        "registry": registry.fingerprint,
    }
    with conn.cursor(binary=True) as cursor:
        rows = cursor.execute(STATEMENTS["lock_days"], parameters).fetchall()
    shut = [
        (account, day_number(date))
        for account, date, name, not_counted_live in rows
        if not_counted_live or name != accounts.timezone(account)
    ]
    shut_keys = day_key(np.array([a for a, _ in shut], np.int64), np.array([d for _, d in shut], np.int32))
    live = ~np.isin(dated.key, shut_keys)
    # The statement adds the events of days in the window only, because a new day outside it starts closed. A day that
    # left the window and that nobody closed yet is counted live all the same.
    unclosed = ~np.isin(keys, shut_keys) & ~np.array(in_window, np.bool_)
    if unclosed.any():
        _add_events(conn, keys[unclosed], numbers[unclosed])
    if shut:
        late = dated.take(~live)
        account_ids, days = (column.tolist() for column in split_key(late.key))
        dates = [day_date(day) for day in days]
        late_rows = {"accounts": account_ids, "dates": dates, "ids": late.events.id.tolist()}
        conn.execute(STATEMENTS["keep_late_events"], late_rows)
    return live


def uncount(conn: psycopg.Connection, dated: Dated, duplicate: BoolArray) -> None:
    """Take back what `lock_days` counted for events that turned out to be duplicates (bool[n])."""
    if not duplicate.any():
        return
    keys, numbers = np.unique(dated.key[duplicate], return_counts=True)
    _add_events(conn, keys, -numbers)


def _add_events(conn: psycopg.Connection, keys: Int64Array, numbers: Int64Array) -> None:
    account_ids, days = (column.tolist() for column in split_key(keys))
    dates = [day_date(day) for day in days]
    parameters = {"accounts": account_ids, "dates": dates, "events": numbers.tolist()}
    conn.execute(STATEMENTS["add_to_days"], parameters)
