"""Columns of events -> sorted rollup rows. Pure, and the same for any order of events: sums are integers.

Each dimension is one group-by over the whole batch. Sums are 128-bit: a day of a busy account at the longest allowed
duration (1e9 s = 1e15 µs) passes 64 bits after 9,223 events.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from consumer.rollup.accounts import AccountZones
from consumer.rollup.batch import NULL, BoolArray, Events, Int64Array
from consumer.rollup.days import Int32Array, local_days
from consumer.rollup.registry import Kind, Metric, Registry

DAY_BITS = 20
"""Bits of a day number in a day key; 2^20 days reach the year 4840."""

ROW_KEY = ["account_id", "date", "dimension_type", "dimension_id", "metric"]


@dataclass(frozen=True, slots=True)
class Dated:
    """Events of accounts that have a time zone, with their local day.

    Attributes:
        events: n events.
        key: int64[n], account and day of each in one number, see `day_key`.
    """

    events: Events
    key: Int64Array

    def take(self, keep: BoolArray) -> "Dated":
        """Those whose flag in `keep` (bool[n]) is set."""
        return Dated(self.events.take(keep), self.key[keep])


@dataclass(frozen=True, slots=True)
class Totals:
    """What a batch adds.

    Attributes:
        rows: account_id i64, date Date, dimension_type str, dimension_id i64, metric str, count u32, sum_us i128,
            business_us i128 (microseconds); one row per primary key of `reporting_events_rollups`, sorted by it.
            Metrics of kind `DISTINCT` are not here: their counts are known once their members are stored.
        members: the first five columns and member_id i64, without repetition, sorted.
    """

    rows: pl.DataFrame
    members: pl.DataFrame


def day_key(account_ids: Int64Array, days: Int32Array) -> Int64Array:
    """Account and day number in one int64, sorting as (account, day)."""
    return (account_ids << DAY_BITS) | days


def split_key(key: Int64Array) -> tuple[Int64Array, Int32Array]:
    """The account ids and day numbers of day keys."""
    return key >> DAY_BITS, (key & ((1 << DAY_BITS) - 1)).astype(np.int32)


def date_events(events: Events, accounts: AccountZones) -> tuple[Dated, BoolArray]:
    """Cut events into local days.

    Returns:
        The events of accounts with a time zone, and which of `events` they are (bool[n]).
    """
    zone_index = accounts.index_of(events.account_id)
    has_zone = zone_index >= 0
    if not has_zone.all():
        events, zone_index = events.take(has_zone), zone_index[has_zone]
    days = local_days(zone_index, accounts.zones, events.created_us)
    return Dated(events, day_key(events.account_id, days)), has_zone


def aggregate(dated: Dated, registry: Registry) -> Totals:
    """Count and add up events by every dimension and metric of the registry."""
    events = dated.events
    frame = pl.DataFrame(
        {
            "key": dated.key,
            "name": events.name,
            "value_us": events.value_us,
            "business_us": events.business_us,
            "account_id": events.account_id,
            **events.ids,
        }
    ).with_columns(pl.col("value_us", "business_us").cast(pl.Int128))
    rows = [
        frame.filter(pl.col(d.column) != NULL)
        .group_by("key", "name", pl.col(d.column).alias("dimension_id"))
        .agg(pl.len().alias("count"), pl.sum("value_us"), pl.sum("business_us"))
        .with_columns(pl.lit(d.type).alias("dimension_type"))
        for d in registry.dimensions
    ]
    return Totals(_rows(pl.concat(rows), registry), _members(frame, registry))


def _rows(grouped: pl.DataFrame, registry: Registry) -> pl.DataFrame:
    """Totals by event name -> totals by metric, with the columns of `Totals.rows`."""
    additive = [m for m in registry.metrics if m.kind is not Kind.DISTINCT]
    by_metric = grouped.join(_feeds(additive, registry), on="name")
    if len({m.metric for m in additive}) != len(additive):  # several events feed one metric
        by_metric = by_metric.group_by("key", "dimension_type", "dimension_id", "metric", "adds_time").agg(
            pl.sum("count"), pl.sum("value_us"), pl.sum("business_us")
        )
    time = pl.col("adds_time").cast(pl.Int128)
    return by_metric.select(
        *_day_columns(),
        "dimension_type",
        "dimension_id",
        "metric",
        "count",
        (pl.col("value_us") * time).alias("sum_us"),
        (pl.col("business_us") * time).alias("business_us"),
    ).sort(ROW_KEY)


def _members(frame: pl.DataFrame, registry: Registry) -> pl.DataFrame:
    """The members of distinct metrics in each dimension, with the columns of `Totals.members`."""
    parts = []
    for metric in registry.metrics:
        if metric.member is None:
            continue
        code = registry.event_code[metric.event]
        fed = frame.filter((pl.col("name") == code) & (pl.col(metric.member) != NULL))
        parts += [
            fed.filter(pl.col(d.column) != NULL).select(
                *_day_columns(),
                pl.lit(d.type).alias("dimension_type"),
                pl.col(d.column).alias("dimension_id"),
                pl.lit(metric.metric).alias("metric"),
                pl.col(metric.member).alias("member_id"),
            )
            for d in registry.dimensions
        ]
    if not parts:
        return pl.DataFrame(schema=[*ROW_KEY, "member_id"])
    return pl.concat(parts).unique().sort([*ROW_KEY, "member_id"])


def _feeds(metrics: list[Metric], registry: Registry) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "name": [registry.event_code[m.event] for m in metrics],
            "metric": [m.metric for m in metrics],
            "adds_time": [m.kind is Kind.DURATION for m in metrics],
        },
        schema={"name": pl.Int8, "metric": pl.String, "adds_time": pl.Boolean},
    )


def _day_columns() -> list[pl.Expr]:
    key = pl.col("key")
    day = (key & ((1 << DAY_BITS) - 1)).cast(pl.Int32).cast(pl.Date)
    return [(key // (1 << DAY_BITS)).alias("account_id"), day.alias("date")]
