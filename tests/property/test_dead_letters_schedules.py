"""Random schedules in which messages die and are replayed, among everything else that can happen to an account.

Messages die because they have a newer form than the consumer reads, or because their event is dated more than a day
ahead of its clock; their raw rows are good all the time. Replays come at any moment, in any order, some roll back, and
the same events come again in good form, are rebuilt, closed, and cut in other time zones. In the end every letter has
been replayed, and the rollup is a plain recomputation.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from tests.fixtures.letters import replay_letters, waiting, wrapped
from tests.fixtures.rollup import SETTLE, Rollup, Value
from tests.model import RawEvent
from tests.property import test_schedules as plain

EXAMPLES = int(os.environ.get("SCHEDULES", "30"))
AHEAD = timedelta(hours=24)
FARTHEST = timedelta(hours=47)

ACTIONS: dict[str, tuple[int, st.SearchStrategy[tuple[Any, ...]]]] = {
    **plain.ACTIONS,
    "publish_unreadable": (5, st.tuples(plain.ages, plain.partitions, plain.names)),
    "publish_ahead": (3, st.tuples(plain.hours(-25, -30, -47), plain.partitions, plain.names)),
    "replay_some": (5, st.tuples(st.integers(0, 3), st.integers(1, 6))),
    "replay_and_roll_back": (1, st.tuples()),
}
actions = st.sampled_from([name for name, (weight, _) in ACTIONS.items() for _ in range(weight)]).flatmap(
    lambda name: st.tuples(st.just(name), ACTIONS[name][1])
)


@dataclass(frozen=True)
class Unreadable(RawEvent):
    """An event whose message only the wider rule can read."""


class LetterSchedule(plain.Schedule):
    """One account's world, with messages that die."""

    def publish_unreadable(self, age: timedelta, partition: int, name: str) -> None:
        made = self._event(age, name)
        self.rollup.raw(made)
        self.topic[partition].append(Unreadable(**vars(made)))

    def publish_ahead(self, age: timedelta, partition: int, name: str) -> None:
        self.publish_with_raw(age, partition, name)

    def consume(self, first: int, second: int) -> None:
        taken = {
            number: [self.topic[number].popleft() for _ in range(min(most, len(self.topic[number])))]
            for number, most in enumerate((first, second))
        }
        values: dict[int, list[Value]] = {
            number: [wrapped(e) if isinstance(e, Unreadable) else e for e in listed]
            for number, listed in taken.items()
            if listed
        }
        if not values:
            return
        self.rollup.write(self.rollup.read_all(values))
        read = [e for listed in taken.values() for e in listed]
        alive = [e for e in read if not isinstance(e, Unreadable) and e.created_at <= self.rollup.now + AHEAD]
        if self.zone is not None:
            self.covered |= {e.id: e for e in alive}

    def replay_some(self, start: int, most: int) -> None:
        """Some letters next to each other, in one transaction."""
        known = {e.id: e for e in self.events}
        for letter in replay_letters(self.rollup, waiting(self.rollup)[start : start + most]):
            event(f"replay: {letter.outcome}")
            if letter.outcome in ("counted", "duplicate", "late") and letter.event_id is not None:
                self.covered[letter.event_id] = known[letter.event_id]

    def replay_and_roll_back(self) -> None:
        replay_letters(self.rollup, dry_run=True)

    def finish(self) -> None:
        """Everything is read; when no event lies too far ahead any more, every letter is replayed."""
        super().finish()
        self.pass_time(FARTHEST)
        self.replay_some(0, len(waiting(self.rollup)))
        for _ in range(3):
            self.pass_time(SETTLE)
            self.rebuild_stale()

    def check(self) -> None:
        assert waiting(self.rollup) == []
        assert self.rollup.outcomes().dead == 0
        super().check()


@pytest.mark.timeout(120 + EXAMPLES * 10)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.explain})
@given(zone=st.one_of(plain.zones, plain.zones, st.none()), schedule=st.lists(actions, min_size=30, max_size=30))
def test_every_schedule_with_dead_letters_ends_exact(
    rollup: Rollup, zone: str | None, schedule: list[tuple[Any, ...]]
) -> None:
    rollup.empty()
    world = LetterSchedule(rollup, zone)
    if zone is not None:
        rollup.always_had({plain.ACCOUNT: zone})
    for name, arguments in schedule:
        getattr(world, name)(*arguments)
    world.finish()
    world.check()
    world.replay()
    world.check()
