"""Columns of events to rollup rows, without a database."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from consumer.handlers import handler_for
from consumer.rollup.accounts import AccountZones
from consumer.rollup.aggregate import ROW_KEY, Totals, aggregate, date_events, day_key, split_key
from consumer.rollup.batch import Events
from consumer.rollup.registry import REGISTRY, Dimension, Kind, Metric, Registry
from tests.fixtures.rollup import NOON, make_event, message_value
from tests.model import Key, Numbers, RawEvent, Rollup, recompute

ZONES = {42: "Europe/Paris", -7: "Pacific/Kiritimati"}
NOW_US = int(NOON.timestamp()) * 1_000_000


def decoded(events: list[RawEvent], registry: Registry = REGISTRY) -> Events:
    return handler_for("json", registry).decode([message_value(event) for event in events], NOW_US).events


def totals(events: list[RawEvent], registry: Registry = REGISTRY, zones: dict[int, str] = ZONES) -> Totals:
    dated, _ = date_events(decoded(events, registry), AccountZones.of(1, zones))
    return aggregate(dated, registry)


def said(made: Totals) -> Rollup:
    """The totals as the model says them: a distinct count is the number of members."""
    rollup = {Key(*row[:5]): Numbers(*row[5:]) for row in made.rows.rows()}
    counts = made.members.group_by(ROW_KEY).len().rows() if len(made.members) else []
    return rollup | {Key(*row[:5]): Numbers(row[5], 0, 0) for row in counts}


def many(count: int) -> list[RawEvent]:
    names = [*REGISTRY.event_names, "conversation_opened"]
    return [
        make_event(
            i,
            names[i % 6],
            NOON - timedelta(hours=i % 50),
            account_id=(42, -7, 43)[i % 3],
            user_id=i % 4 or None,
            inbox_id=i % 5 or None,
            conversation_id=i % 7 or None,
            value=None if i % 8 == 0 else i / 7,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 500])
def test_totals_are_the_models(count: int) -> None:
    events = many(count)
    assert said(totals(events)) == recompute(events, ZONES)


def test_the_order_of_events_does_not_matter() -> None:
    events = many(500)
    forward, backward = totals(events), totals(events[::-1])
    assert forward.rows.equals(backward.rows)
    assert forward.members.equals(backward.members)


def test_rows_are_sorted_by_the_primary_key_and_come_once() -> None:
    made = totals(many(500))
    keys = made.rows.select(ROW_KEY).rows()
    assert keys == sorted(set(keys))
    members = made.members.rows()
    assert members == sorted(set(members))


def test_columns_are_those_that_the_transaction_copies() -> None:
    made = totals(many(60))
    assert made.rows.columns == [*ROW_KEY, "count", "sum_us", "business_us"]
    assert made.members.columns == [*ROW_KEY, "member_id"]
    assert made.rows.schema["date"] == pl.Date
    assert made.rows.schema["sum_us"] == pl.Int128


def test_sums_do_not_overflow_64_bits() -> None:
    events = [make_event(i, value=1e9, value_in_business_hours=-1e9) for i in range(20_000)]
    rows = totals(events).rows
    assert set(rows["sum_us"].to_list()) == {20_000 * 10**15}
    assert set(rows["business_us"].to_list()) == {-20_000 * 10**15}
    text = rows.write_csv(include_header=False, separator="\t").splitlines()[0]
    assert text.split("\t")[5:] == ["20000", str(20_000 * 10**15), str(-20_000 * 10**15)]


def test_several_events_may_feed_one_metric() -> None:
    registry = Registry(
        (
            Metric("a", "time", Kind.DURATION),
            Metric("b", "time", Kind.DURATION),
            Metric("a", "people", Kind.DISTINCT, member="user_id"),
            Metric("b", "people", Kind.DISTINCT, member="user_id"),
            Metric("b", "number", Kind.COUNT),
        ),
        (Dimension("account", "account_id"), Dimension("inbox", "inbox_id")),
    )
    events = [make_event(i, "ab"[i % 2], user_id=i % 3) for i in range(20)]
    assert said(totals(events, registry)) == recompute(events, ZONES, registry)


def test_a_registry_without_distinct_metrics_has_no_members() -> None:
    registry = Registry((Metric("reply_time", "reply_time", Kind.DURATION),), REGISTRY.dimensions)
    made = totals(many(60), registry)
    assert len(made.members) == 0
    assert said(made) == recompute(many(60), ZONES, registry)


def test_a_registry_of_distinct_metrics_only_has_no_other_rows() -> None:
    registry = Registry((Metric("reply_time", "people", Kind.DISTINCT, member="user_id"),), REGISTRY.dimensions)
    made = totals(many(60), registry)
    assert len(made.rows) == 0
    assert said(made) == recompute(many(60), ZONES, registry)


def test_events_of_accounts_without_zone_are_told_apart() -> None:
    events = decoded([make_event(i, account_id=account) for i, account in enumerate([42, 43, -7, 44])])
    dated, has_zone = date_events(events, AccountZones.of(1, ZONES))
    assert has_zone.tolist() == [True, False, True, False]
    assert dated.events.id.tolist() == [0, 2]
    dated, has_zone = date_events(events, AccountZones.of(1, {}))
    assert not has_zone.any()
    assert len(dated.events) == len(dated.key) == 0


@pytest.mark.parametrize("account", [0, 1, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("day", [date(2000, 1, 1), date(2026, 3, 11), date(4000, 1, 1)])
def test_a_day_key_holds_account_and_day(account: int, day: date) -> None:
    number = (day - date(1970, 1, 1)).days
    key = day_key(np.array([account], np.int64), np.array([number], np.int32))
    assert [column.tolist() for column in split_key(key)] == [[account], [number]]


def test_day_keys_sort_as_account_and_day() -> None:
    pairs: list[Any] = [(account, day) for account in (-(2**31), -1, 0, 1, 2**31 - 1) for day in (10957, 20523)]
    keys = day_key(np.array([a for a, _ in pairs], np.int64), np.array([d for _, d in pairs], np.int32))
    assert keys.tolist() == sorted(set(keys.tolist()))
