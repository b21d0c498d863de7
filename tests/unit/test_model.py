"""The plain model against results worked out by hand: what everything is compared with must itself be right."""

import math
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from consumer.rollup.registry import REGISTRY, Dimension, Registry
from tests import model
from tests.model import Key, Model, Numbers, RawEvent, recompute

NOON = datetime(2026, 2, 11, 12, tzinfo=UTC)
TODAY = date(2026, 2, 11)
ONLY_UTC = {42: "UTC"}


def event(id: int = 1, name: str = "reply_time", created_at: datetime = NOON, **columns: object) -> RawEvent:  # noqa: A002
    plain = RawEvent(id, name, 90.5, 60.25, 42, 7, 3, 1001, created_at, created_at, created_at, created_at)
    return replace(plain, **columns)  # type: ignore[arg-type]


def test_a_duration_feeds_account_agent_and_inbox() -> None:
    numbers = Numbers(1, 90_500_000, 60_250_000)
    assert recompute([event()], ONLY_UTC) == {
        Key(42, TODAY, "account", 42, "reply_time"): numbers,
        Key(42, TODAY, "agent", 3, "reply_time"): numbers,
        Key(42, TODAY, "inbox", 7, "reply_time"): numbers,
    }


def test_a_resolution_feeds_a_count_without_sums_and_a_duration() -> None:
    rollup = recompute([event(name="conversation_resolved"), event(2, "conversation_resolved")], ONLY_UTC)
    assert rollup[Key(42, TODAY, "account", 42, "resolutions_count")] == Numbers(2, 0, 0)
    assert rollup[Key(42, TODAY, "account", 42, "resolution_time")] == Numbers(2, 181_000_000, 120_500_000)
    assert len(rollup) == 6


def test_null_durations_count_and_add_nothing() -> None:
    rollup = recompute([event(value=None, value_in_business_hours=None)], ONLY_UTC)
    assert rollup[Key(42, TODAY, "account", 42, "reply_time")] == Numbers(1, 0, 0)


def test_handoffs_count_different_conversations() -> None:
    handoffs = [
        event(i, "conversation_bot_handoff", user_id=None, inbox_id=inbox, conversation_id=conversation)
        for i, (inbox, conversation) in enumerate([(7, 1), (7, 1), (7, 2), (8, 1), (9, None)])
    ]
    assert recompute(handoffs, ONLY_UTC) == {
        Key(42, TODAY, "account", 42, "bot_handoffs_count"): Numbers(2, 0, 0),
        Key(42, TODAY, "inbox", 7, "bot_handoffs_count"): Numbers(2, 0, 0),
        Key(42, TODAY, "inbox", 8, "bot_handoffs_count"): Numbers(1, 0, 0),
    }


@pytest.mark.parametrize(
    "left_out",
    [
        event(name="conversation_opened"),
        event(account_id=43),
        event(account_id=44),
        event(value=math.nan),
        event(value=-math.inf),
        event(value=math.nextafter(1e9, math.inf)),
        event(value_in_business_hours=-1.1e9),
        event(name="conversation_bot_resolved", value=math.nan),
    ],
    ids=lambda e: f"{e.name}-{e.account_id}-{e.value}-{e.value_in_business_hours}",
)
def test_what_contributes_nothing(left_out: RawEvent) -> None:
    timezones = {42: "UTC", 43: None}
    assert recompute([left_out], timezones) == {}
    assert recompute([left_out, event(2)], timezones) == recompute([event(2)], timezones)


def test_the_longest_durations_are_still_counted() -> None:
    rollup = recompute([event(value=1e9, value_in_business_hours=-1e9)], ONLY_UTC)
    assert rollup[Key(42, TODAY, "account", 42, "reply_time")] == Numbers(1, 10**15, -(10**15))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, 0),
        (0.0, 0),
        (1.5, 1_500_000),
        (0.5e-6, 0),  # halves go to the even neighbour
        (1.5e-6, 2),
        (2.5e-6, 2),
        (-2.5e-6, -2),
        (0.1 + 0.2, 300_000),
        (123.4567895, 123_456_790),  # the product is 123456789.5 as a double; the decimal lies a little below
        (999_999_999.999_999, 999_999_999_999_999),
    ],
)
def test_seconds_become_microseconds_as_doubles_do(seconds: float | None, expected: int) -> None:
    assert model.microseconds(seconds) == expected


def test_days_are_those_of_the_accounts_time_zone() -> None:
    events = [event(1, created_at=datetime(2026, 2, 11, h, 59, 59, 999_999, tzinfo=UTC)) for h in (17,)]
    events += [event(2, created_at=datetime(2026, 2, 11, 18, 30, tzinfo=UTC))]
    days = {key.date: numbers.n for key, numbers in recompute(events, {42: "Asia/Kolkata"}).items()}
    assert days == {date(2026, 2, 11): 1, date(2026, 2, 12): 1}


@pytest.mark.parametrize(
    ("zone", "day", "start", "end"),
    [
        ("UTC", "2026-02-11", "2026-02-11T00:00Z", "2026-02-12T00:00Z"),
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00Z", "2018-11-05T02:00Z"),
        ("America/St_Johns", "2010-11-07", "2010-11-07T02:30Z", "2010-11-08T03:30Z"),
        ("America/Havana", "2024-11-03", "2024-11-03T04:00Z", "2024-11-04T05:00Z"),
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00Z", "2011-12-30T10:00Z"),
        ("Antarctica/Casey", "2010-03-05", "2010-03-04T13:00Z", "2010-03-05T16:00Z"),
    ],
)
def test_day_bounds(zone: str, day: str, start: str, end: str) -> None:
    bounds = (datetime.fromisoformat(start), datetime.fromisoformat(end))
    assert model.day_bounds(zone, date.fromisoformat(day)) == bounds


def test_an_instant_before_the_models_years_is_refused() -> None:
    with pytest.raises(ValueError, match="since 2000"):
        model.day_of(datetime(1990, 1, 1, tzinfo=UTC), "UTC")


@dataclass(frozen=True)
class TeamEvent(RawEvent):
    team_id: int | None = None


def test_a_new_dimension_needs_a_line_in_the_registry_and_a_column() -> None:
    registry = Registry(REGISTRY.metrics, (*REGISTRY.dimensions, Dimension("team", "team_id")))
    teamed = TeamEvent(**vars(event()), team_id=5)
    assert Key(42, TODAY, "team", 5, "reply_time") in recompute([teamed], ONLY_UTC, registry)


def test_an_event_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        recompute([event(), event()], ONLY_UTC)


def test_an_instant_without_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="created_at has no UTC offset"):
        event(created_at=NOON.replace(tzinfo=None))


def test_the_model_takes_repeats_in_and_changes_not() -> None:
    world = Model()
    world.timezone(42, "UTC")
    for _ in range(3):
        world.message(event(1))
        world.raw(event(1))
    world.message(event(2))
    world.raw(event(3))
    total = Key(42, TODAY, "account", 42, "reply_time")
    assert world.rollup()[total].n == 3
    assert world.rollup_of_raw()[total].n == 2
    assert world.rollup_of_messages()[total].n == 2
    with pytest.raises(ValueError, match="event 1 has changed"):
        world.raw(event(1, value=91.5))


def test_a_time_zone_changed_moves_the_past_too() -> None:
    world = Model()
    world.raw(event(created_at=datetime(2026, 2, 11, 23, tzinfo=UTC)))
    assert world.rollup() == {}
    world.timezone(42, "UTC")
    assert {key.date for key in world.rollup()} == {date(2026, 2, 11)}
    world.timezone(42, "Asia/Tokyo")
    assert {key.date for key in world.rollup()} == {date(2026, 2, 12)}


def test_table_rows_compare_with_the_model() -> None:
    rows = [
        (42, TODAY, dimension, id_, "reply_time", 1, Decimal("90.5"), Decimal("60.250000"))
        for dimension, id_ in (("account", 42), ("agent", 3), ("inbox", 7))
    ]
    assert model.from_table(rows) == recompute([event()], ONLY_UTC)
    with pytest.raises(ValueError, match="two rows"):
        model.from_table([*rows, rows[0]])
    with pytest.raises(ValueError, match="finer than a microsecond"):
        model.from_table([(*rows[0][:6], Decimal("90.5000001"), Decimal(0))])
