"""The sample events: the same every time, as realistic as promised, and their expected outcome true."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from local.events import EVENT_MIX, FAULTS, HOUR_US, UNKNOWN_NAMES, RawRow, Sample, Workload, generate
from tests.model import RawEvent, recompute

END = datetime(2026, 2, 11, 12, tzinfo=UTC)
END_US = int(END.timestamp()) * 1_000_000
TROUBLED = Workload(
    end_us=END_US, events=20_000, accounts=50, duplicates=0.02, late=0.03, bad=0.01, unknown=0.04, first_id=1_000
)


@pytest.fixture(scope="module")
def plain() -> Sample:
    return generate(Workload(end_us=END_US, events=20_000, accounts=50))


@pytest.fixture(scope="module")
def troubled() -> Sample:
    return generate(TROUBLED)


def no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def event_or_none(value: bytes) -> dict[str, Any] | None:
    """The message's row; None if it cannot be an event. Checks just what the generator's faults break."""
    try:
        row = json.loads(value, parse_constant=no_constant)
    except ValueError:
        return None
    if type(row.get("id")) is not int or type(row["account_id"]) is not int or row["created_at"] > "2099":
        return None
    assert set(row) == set(RawRow._fields)
    return dict(row)


def test_equal_workloads_give_equal_messages_and_another_seed_others() -> None:
    def messages(seed: int) -> list[tuple[bytes, bytes]]:
        workload = Workload(end_us=END_US, events=500, seed=seed, duplicates=0.1, late=0.1, bad=0.1, unknown=0.1)
        return list(generate(workload).messages())

    assert messages(1) == messages(1)
    assert messages(1) != messages(2)


def test_messages_are_the_raw_rows(plain: Sample) -> None:
    rows = {row.id: row for row in plain.raw_rows()}
    assert len(rows) == 20_000
    for key, value in plain.messages():
        message = json.loads(value)
        row = rows.pop(message["id"])
        assert key == str(row.account_id).encode()
        for name in RawRow._fields:
            found = message[name]
            if isinstance(getattr(row, name), datetime):
                found = datetime.fromisoformat(found)
            assert found == getattr(row, name), name
    assert not rows


def test_copy_text_is_the_raw_rows(troubled: Sample) -> None:
    lines = b"".join(troubled.copy_text()).decode().splitlines()
    parsers: list[Callable[[str], Any]] = [int, str, float, float, int, int, int, int]
    parsers += [datetime.fromisoformat] * 4
    found = [
        tuple(None if text == "\\N" else parse(text) for parse, text in zip(parsers, line.split("\t"), strict=True))
        for line in lines
    ]
    assert found == [tuple(row) for row in troubled.raw_rows()]


def test_ids_are_consecutive_and_rise_with_time_but_for_neighbours(plain: Sample) -> None:
    assert sorted(plain.id.tolist()) == list(range(1, 20_001))
    assert (np.diff(plain.created_us) >= 0).all()
    out_of_place = np.abs(plain.id - np.arange(1, 20_001))
    assert 0 < out_of_place.max() <= 4
    assert plain.created_us[-1] < END_US
    assert plain.created_us[0] >= END_US - 30 * HOUR_US


def test_the_mix_is_as_promised(plain: Sample) -> None:
    names = Counter(row.name for row in plain.raw_rows())
    assert set(names) == {name for name, *_ in EVENT_MIX}
    for name, share, *_ in EVENT_MIX:
        assert abs(names[name] / 20_000 - share) < 0.02, name
    sizes = np.bincount(plain.account_id, minlength=51)[1:]
    assert sizes.min() > 0
    assert sizes.max() > 3 * np.median(sizes)


def test_rows_hold_together(plain: Sample) -> None:
    agents: dict[int, set[int]] = {}
    inboxes: dict[int, set[int]] = {}
    bots = {name for name, *_, bot in EVENT_MIX if bot}
    without_business = 0
    for row in plain.raw_rows():
        assert row.value is not None
        assert row.value > 0
        assert row.event_end_time - row.event_start_time == timedelta(microseconds=round(row.value * 1e6))
        without_business += row.value_in_business_hours is None
        assert row.value_in_business_hours is None or 0 <= row.value_in_business_hours <= row.value
        assert (row.user_id is None) == (row.name in bots)
        if row.user_id is not None:
            agents.setdefault(row.user_id, set()).add(row.account_id)
        if row.inbox_id is not None:
            inboxes.setdefault(row.inbox_id, set()).add(row.account_id)
    assert 0 < without_business < 0.06 * 20_000
    for owners, each in ((agents, 10), (inboxes, 5)):
        assert all(len(accounts) == 1 for accounts in owners.values())
        assert max(Counter(account for accounts in owners.values() for account in accounts).values()) == each


def test_some_conversations_are_handed_off_twice(plain: Sample) -> None:
    handoffs = Counter(
        (row.account_id, row.conversation_id) for row in plain.raw_rows() if row.name == "conversation_bot_handoff"
    )
    assert max(handoffs.values()) > 1


def test_what_becomes_of_the_messages_is_as_expected(troubled: Sample) -> None:
    seen: set[int] = set()
    outcome: Counter[str] = Counter()
    for _, value in troubled.messages():
        outcome["messages"] += 1
        event = event_or_none(value)
        if event is None:
            outcome["dead"] += 1
        elif event["name"] in UNKNOWN_NAMES:
            outcome["skipped"] += 1
        elif event["id"] in seen:
            outcome["duplicates"] += 1
        else:
            seen.add(event["id"])
            outcome["events"] += 1
    expected = troubled.expected._asdict()
    late = expected.pop("late")
    assert outcome == expected
    assert outcome["messages"] == 20_000 + 400 + 200
    assert outcome["dead"] == 200
    assert 0.025 < late / outcome["events"] < 0.035
    assert 0.03 < outcome["skipped"] / 20_000 < 0.05
    assert set(np.unique(troubled.fault)) == {-1, *range(len(FAULTS))}


def test_late_events_are_days_old_and_have_the_ids_of_their_time(troubled: Sample) -> None:
    assert set(troubled.id.tolist()) == set(range(1_000, 21_000))
    late = troubled.created_us[troubled.late]
    assert late.max() < END_US - 24 * HOUR_US
    assert late.min() > END_US - (6 * 24 + 30) * HOUR_US
    created = troubled.created_us[np.argsort(troubled.id)]
    swapped = np.flatnonzero(np.diff(created) < 0)
    assert (np.sort(created)[np.minimum(swapped + 4, 19_999)] >= created[swapped]).all()


def test_the_model_takes_raw_rows_as_they_are(plain: Sample) -> None:
    rollup = recompute((RawEvent(*row) for row in plain.raw_rows()), plain.workload.timezones)
    replies = sum(n.n for key, n in rollup.items() if (key.dimension_type, key.metric) == ("account", "reply_time"))
    assert replies == sum(row.name == "reply_time" for row in plain.raw_rows())


def test_zones_are_dealt_in_turn() -> None:
    timezones = Workload(end_us=END_US, accounts=3, zones=("UTC", "Asia/Tokyo")).timezones
    assert timezones == {1: "UTC", 2: "Asia/Tokyo", 3: "UTC"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"events": 0}, "Workload.events is 0"),
        ({"accounts": -1}, "Workload.accounts is -1"),
        ({"duplicates": 1.5}, "Workload.duplicates is 1.5"),
        ({"bad": -0.1}, "Workload.bad is -0.1"),
        ({"zones": ()}, "Workload.zones is empty"),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload(end_us=END_US, **wrong)
