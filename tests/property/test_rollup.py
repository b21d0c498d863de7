"""Random events in random batches: whatever the split, the order and the repetitions, the rollup is the model's, and a
rebuild finds nothing to change."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.rollup.batch import Batch, merge
from consumer.rollup.registry import REGISTRY
from tests.fixtures.rollup import NOON, PARTITIONS, Rollup, Value, make_event
from tests.model import RawEvent, day_of, recompute

ZONES = {
    1: "Pacific/Kiritimati",
    2: "America/St_Johns",
    3: "Asia/Kathmandu",
    -4: "Pacific/Pago_Pago",
}
WITHOUT_ZONE = 5
NOT_EVENTS: tuple[Value, ...] = (None, b"", b"[]", b"{", b"\xff", b'{"id": 1}')

small_ids = st.one_of(st.none(), st.integers(-1, 2))
seconds = st.one_of(
    st.none(),
    st.floats(-1e9, 1e9),
    st.integers(-9, 9).map(lambda n: n / 2e6),  # halves of a microsecond
    st.sampled_from([1e9, -1e9, 0.1, -0.0]),
)
events = st.builds(
    lambda name, age, account, inbox, user, conversation, value, business: replace(
        make_event(0, name, NOON - timedelta(microseconds=age)),
        account_id=account,
        inbox_id=inbox,
        user_id=user,
        conversation_id=conversation,
        value=value,
        value_in_business_hours=business,
    ),
    st.sampled_from([*REGISTRY.event_names, "conversation_opened"]),
    st.integers(0, 36 * 3600).map(lambda number: number * 1_000_001),
    st.sampled_from([*ZONES, WITHOUT_ZONE]),
    small_ids,
    small_ids,
    small_ids,
    seconds,
    seconds,
)
event_ids = st.one_of(st.integers(-5000, 5000), st.integers(-(2**63), 2**63 - 1))
sets_of_events = st.lists(events, min_size=1, max_size=60).flatmap(
    lambda made: st.lists(event_ids, min_size=len(made), max_size=len(made), unique=True).map(
        lambda ids: [replace(event, id=i) for event, i in zip(made, ids, strict=True)]
    )
)


@pytest.fixture
def counted(rollup: Rollup) -> Rollup:
    """A rollup with a window that holds every event of this file."""
    rollup.rules = replace(rollup.rules, open_days=6)
    return rollup


@settings(max_examples=70, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=sets_of_events, data=st.data())
def test_any_split_into_batches_gives_the_models_rollup(
    counted: Rollup, made: list[RawEvent], data: st.DataObject
) -> None:
    counted.empty()
    counted.always_had(ZONES)
    numbers = data.draw(st.randoms(use_true_random=False))
    sent: list[Value] = [*made, *numbers.choices(made, k=numbers.randrange(20)), *numbers.choices(NOT_EVENTS, k=3)]
    numbers.shuffle(sent)
    total = len(sent)
    while sent:
        size = numbers.randint(1, 30)
        parts = [sent[start:size:2] for start in (0, 1)]
        sent = sent[size:]
        counted.write(merge([read(counted, part, numbers.randrange(PARTITIONS)) for part in parts if part]))
    check(counted, made, total)
    counted.raw(*made)
    for account, day in counted.conn.execute("SELECT account_id, date FROM rollup_days").fetchall():
        rebuilt = counted.rebuild(day, account)
        assert (rebuilt.changed, rebuilt.missing, rebuilt.invalid) == (0, 0, 0)


def read(rollup: Rollup, values: list[Value], partition: int) -> Batch:
    """Read some values from two neighbouring partitions."""
    other = (partition + 1) % PARTITIONS
    return rollup.read_all({p: part for p, part in ((partition, values[::2]), (other, values[1::2])) if part})


def check(rollup: Rollup, made: list[RawEvent], messages: int) -> None:
    assert rollup.table() == recompute(made, ZONES)
    outcomes = rollup.outcomes()
    assert outcomes.messages == messages
    assert sum(outcomes[1:]) == messages
    owned = [e for e in made if e.account_id in ZONES and e.name in REGISTRY.event_names]
    assert (outcomes.counted, outcomes.late) == (len(owned), 0)
    days = [(e.account_id, day_of(e.created_at, ZONES[e.account_id])) for e in owned]
    stored = rollup.conn.execute("SELECT account_id, date, events FROM rollup_days").fetchall()
    assert {(account, day): number for account, day, number in stored} == {day: days.count(day) for day in days}
