"""Consumers and backfills of two versions at work at once: a day that one of them narrows is rebuilt again."""

import pytest

from consumer.rollup.rebuild import Rebuilder
from consumer.rollup.registry import REGISTRY, Kind, Metric, Registry
from tests.fixtures.rollup import TODAY, Day, Rollup, make_event

NEWER = Registry(
    metrics=(*REGISTRY.metrics, Metric("reply_time", "replies_count", Kind.COUNT)), dimensions=REGISTRY.dimensions
)


def registry_of_day(rollup: Rollup) -> str:
    """The fingerprint that today's day carries."""
    return str(rollup.conn.execute("SELECT registry FROM rollup_days WHERE date = %s", (TODAY,)).fetchall()[0][0])


def test_a_day_rebuilt_by_a_newer_version_and_counted_by_an_older_is_stale_again(rollup: Rollup) -> None:
    rollup.always_had({42: "UTC"})
    events = [make_event(i) for i in range(6)]
    rollup.raw(*events)
    rollup.count(*events[:2])
    newer = Rebuilder(rollup.connect(), NEWER, rollup.open_days)
    newer.rebuild(42, TODAY, rollup.now_us)
    assert registry_of_day(rollup) == NEWER.fingerprint
    assert rollup.days_to_rebuild() == []

    late_comer = make_event(10)
    rollup.raw(late_comer)
    rollup.count(late_comer)  # an older consumer knows nothing of the new metric
    assert rollup.day(TODAY) == Day("UTC", closed=False, stale=True, events=7)
    assert registry_of_day(rollup) == REGISTRY.fingerprint
    assert rollup.days_to_rebuild() == [(42, TODAY)]
    assert rollup.table() != rollup.model(*events, late_comer)

    assert newer.rebuild(42, TODAY, rollup.now_us).missing == 0
    rollup.registry = NEWER
    assert rollup.table() == rollup.model(*events, late_comer)
    assert rollup.days_to_rebuild() == []


@pytest.mark.parametrize("counted", [1, 3])
def test_a_day_of_one_version_stays_fresh(rollup: Rollup, counted: int) -> None:
    rollup.always_had({42: "UTC"})
    events = [make_event(i) for i in range(4)]
    rollup.raw(*events)
    rollup.count(*events[:counted])
    rollup.rebuild(TODAY)
    rollup.count(*events)
    assert rollup.day(TODAY) == Day("UTC", closed=False, stale=False, events=4)
    assert rollup.days_to_rebuild() == []
