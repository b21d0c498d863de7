"""Random schedules of everything that can happen to one account, against the real transaction and rebuild: each must
end with the rollup equal to a plain recomputation.

A schedule publishes events before and after their raw rows are committed, sends them twice, reads batches, rebuilds
days at any moment, closes days, also while a consumer holds some, changes the time zone, switches the account off and
on, and lets time pass. The rules under test promise exactness if a raw row is committed less than `SETTLE` after its
message was published; so it is here, but for events of days long closed, which wait for theirs as long as it takes. In
the end everything is published, read and rebuilt, and then every message is read once more: ids that were counted must
be known.
"""

import os
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from tests.fixtures.rollup import SETTLE, Rollup, make_event
from tests.model import RawEvent, day_of, recompute

ACCOUNT = 42
ZONES = ("America/New_York", "Pacific/Kiritimati", "Pacific/Pago_Pago")
"""The last two lie 25 hours apart: local dates of one instant differ by up to two days."""
NAMES = ("reply_time", "conversation_resolved", "conversation_bot_handoff")
EXAMPLES = int(os.environ.get("SCHEDULES", "50"))
"""A longer search: SCHEDULES=2000 pytest tests/property/test_schedules.py"""

Action = tuple[Any, ...]


def hours(*several: float) -> st.SearchStrategy[timedelta]:
    return st.sampled_from([timedelta(hours=number) for number in several])


zones = st.sampled_from(ZONES)
partitions = st.integers(0, 1)
names = st.sampled_from(NAMES)
ages = hours(0, 0, 1, 12, 24, 26, 36, 48, 50, 72, 96, 120, -12, -20)
ages_of_history = hours(2400, 2410, 2424)
delays_of_history = hours(0.02, 3, 30)
delays = st.sampled_from([timedelta(seconds=seconds) for seconds in (50, 20, 1)])
lately = st.integers(0, 6)
reads = st.integers(0, 5)
ACTIONS: dict[str, tuple[int, st.SearchStrategy[Action]]] = {
    "nothing": (1, st.tuples()),  # what others shrink to; lists of a fixed length are the busiest
    "publish_first": (3, st.tuples(ages, delays, partitions, names)),
    "read_before_raw": (3, st.tuples(ages, delays, partitions, names)),
    "publish_with_raw": (3, st.tuples(ages, partitions, names)),
    "raw_first": (2, st.tuples(ages, names)),
    "publish_waiting": (1, st.tuples(partitions)),
    "send_again": (2, st.tuples(lately, partitions)),
    "consume": (6, st.tuples(reads, reads)),
    "rebuild": (4, st.tuples(lately)),
    "rebuild_stale": (1, st.tuples()),
    "publish_history": (1, st.tuples(ages_of_history, delays_of_history, partitions, names)),
    "close_days": (2, st.tuples()),
    "close_while_held": (1, st.tuples(lately)),
    "set_timezone": (2, st.tuples(st.lists(st.one_of(st.none(), zones), min_size=1, max_size=2))),
    "pass_time": (5, st.tuples(st.one_of(st.just(timedelta(seconds=30)), hours(0.02, 2, 11, 25, 49)))),
}
"""Name -> how often it comes, and its arguments."""
actions = st.sampled_from([name for name, (weight, _) in ACTIONS.items() for _ in range(weight)]).flatmap(
    lambda name: st.tuples(st.just(name), ACTIONS[name][1])
)


@dataclass
class Schedule:
    """One account's world; each action is a method."""

    rollup: Rollup
    zone: str | None
    events: list[RawEvent] = field(default_factory=list)
    hidden: list[tuple[Any, RawEvent]] = field(default_factory=list)
    """Published events and when their raw rows are committed."""
    waiting: deque[RawEvent] = field(default_factory=deque)
    """Raw rows whose messages are not published yet."""
    topic: tuple[deque[RawEvent], ...] = field(default_factory=lambda: (deque(), deque()))
    covered: dict[int, RawEvent] = field(default_factory=dict)
    """Events that were read while the account had a time zone: the rollup owes them."""

    def nothing(self) -> None:
        pass

    def publish_first(self, age: timedelta, delay: timedelta, partition: int, name: str) -> None:
        made = self._event(age, name)
        self.topic[partition].append(made)
        self.hidden.append((self.rollup.now + delay, made))

    def read_before_raw(self, age: timedelta, delay: timedelta, partition: int, name: str) -> None:
        self.publish_first(age, delay, partition, name)
        self.consume(len(self.topic[0]), len(self.topic[1]))

    def publish_history(self, age: timedelta, delay: timedelta, partition: int, name: str) -> None:
        self.publish_first(age, delay, partition, name)

    def publish_with_raw(self, age: timedelta, partition: int, name: str) -> None:
        made = self._event(age, name)
        self.rollup.raw(made)
        self.topic[partition].append(made)

    def raw_first(self, age: timedelta, name: str) -> None:
        made = self._event(age, name)
        self.rollup.raw(made)
        self.waiting.append(made)

    def publish_waiting(self, partition: int) -> None:
        if self.waiting:
            self.topic[partition].append(self.waiting.popleft())

    def send_again(self, lately: int, partition: int) -> None:
        sent = [e for e in self.events if e not in self.waiting]
        self.topic[partition].extend(sent[-1 - lately : len(sent) - lately])

    def consume(self, first: int, second: int) -> None:
        values = {
            number: [self.topic[number].popleft() for _ in range(min(most, len(self.topic[number])))]
            for number, most in enumerate((first, second))
        }
        taken = {number: listed for number, listed in values.items() if listed}
        if not taken:
            return
        self.rollup.write(self.rollup.read_all(taken))
        if self.zone is not None:
            self.covered |= {e.id: e for listed in taken.values() for e in listed}

    def rebuild(self, lately: int) -> None:
        """Rebuild the day of one of the last events."""
        for made in self.events[-1 - lately : len(self.events) - lately]:
            if self.zone is not None:
                event(f"rebuild: {self.rollup.rebuild(day_of(made.created_at, self.zone), ACCOUNT).result}")

    def rebuild_stale(self) -> None:
        for rebuilt in self.rollup.rebuild_stale():
            event(f"rebuild: {rebuilt.result}")

    def close_days(self) -> None:
        """Nothing that was counted by the rules may look wrong to an audit."""
        for closed in self.rollup.close_days():
            event(f"audit: {closed.result}")
            assert closed.drift == 0

    def close_while_held(self, lately: int) -> None:
        """A consumer is in a transaction with the day of one of the last events, which a worker passes over."""
        conn = self.rollup.holder
        with conn.transaction():
            for made in self.events[-1 - lately : len(self.events) - lately]:
                days = {day_of(made.created_at, name) for name in ZONES}
                conn.execute("SELECT FROM rollup_days WHERE date = ANY(%s) FOR UPDATE", (list(days),))
            self.close_days()

    def set_timezone(self, names: list[str | None]) -> None:
        """Several changes are one transaction."""
        with self.rollup.conn.transaction():
            for name in names:
                self.rollup.set_timezone(ACCOUNT, name)
        self.zone = names[-1]

    def pass_time(self, duration: timedelta) -> None:
        self.rollup.now += duration
        self.rollup.raw(*[e for at, e in self.hidden if at <= self.rollup.now])
        self.hidden = [(at, e) for at, e in self.hidden if at > self.rollup.now]

    def finish(self) -> None:
        """Everything is published, read and rebuilt."""
        if self.zone is None:
            self.set_timezone(["UTC"])
        while self.waiting:
            self.publish_waiting(0)
        self.consume(len(self.topic[0]), len(self.topic[1]))
        self.pass_time(timedelta(hours=30))
        for _ in range(4):
            self.pass_time(SETTLE)
            self.rebuild_stale()

    def check(self) -> None:
        """The rollup is exact on every day that has a row, and owes nothing on the others."""
        assert self.zone is not None
        rollup, zone = self.rollup, self.zone
        rows = dict(rollup.conn.execute("SELECT date, events FROM rollup_days").fetchall())
        stale = rollup.conn.execute("SELECT date FROM rollup_days WHERE stale_since IS NOT NULL").fetchall()
        assert not stale
        assert not rollup.late()
        owed = {e.id: day_of(e.created_at, zone) for e in self.covered.values()}
        assert {i: d for i, d in owed.items() if d not in rows} == {}
        here = [e for e in self.events if day_of(e.created_at, zone) in rows]
        assert rollup.table() == recompute(here, {ACCOUNT: zone})
        days = [day_of(e.created_at, zone) for e in here]
        assert rows == {day: days.count(day) for day in rows}

    def replay(self) -> None:
        """Every message comes once more."""
        for made in self.events:
            self.topic[made.id % 2].append(made)
        self.finish()

    def _event(self, age: timedelta, name: str) -> RawEvent:
        number = len(self.events)
        made = make_event(
            number * 1500 - 4000,  # negative ones too, two or three in a chunk
            name,
            self.rollup.now - age,
            value=number + 0.1,
            user_id=number % 2 or None,
            inbox_id=None,
            conversation_id=number % 3,
        )
        self.events.append(made)
        return made


@pytest.mark.timeout(120 + EXAMPLES * 10)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.explain})
@given(zone=st.one_of(zones, zones, st.none()), schedule=st.lists(actions, min_size=30, max_size=30))
def test_every_schedule_ends_exact(rollup: Rollup, zone: str | None, schedule: list[Action]) -> None:
    rollup.empty()
    world = Schedule(rollup, zone)
    if zone is not None:
        rollup.always_had({ACCOUNT: zone})
    for name, arguments in schedule:
        getattr(world, name)(*arguments)
    world.finish()
    world.check()
    world.replay()
    world.check()
