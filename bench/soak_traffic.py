"""What the soak's producer sends, and what the rollup must say afterwards. Pure: both processes make the same from it.

Traffic comes in rounds. A round sends every event of a pool once more, each with an id of its own, so that an endless
stream of fresh events costs little more than a number in front of ready text; mixed in are ids that were sent before,
events that nobody counts (they are in the pool), and messages that cannot be events. What a round adds is known, so
what any number of rounds adds up to is known to the last digit.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import NamedTuple

import numpy as np

from bench.workload import PARTITIONS
from consumer.rollup.days import day_date, local_days
from consumer.rollup.registry import REGISTRY, Kind
from local.events import FAULTS, BoolArray, Sample, Workload, generate

SLICE = 5_000
"""Events between two looks of the producer at how far the consumer is."""

UNKNOWN = 0.01
REPEAT_EVERY = 100
BAD_EVERY = 5_000
"""Of so many events one is sent again, and one is followed by a spoilt copy of itself: too few for a flood."""

SAME_CONVERSATIONS = 10
"""Rounds after which hand-offs are of other conversations: so members of distinct counts go on coming, as they do in
real traffic."""

MEMBER_EVENT = b"conversation_bot_handoff"
CONVERSATION = b'"conversation_id":'


class Key(NamedTuple):
    """The key of a rollup row."""

    account_id: int
    date: date
    dimension_type: str
    dimension_id: int
    metric: str


class Total(NamedTuple):
    """What a rollup row says; sums in microseconds."""

    events: int
    sum_us: int
    business_us: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What must become of messages: messages = counted + duplicates + skipped + dead."""

    messages: int
    counted: int
    duplicates: int
    skipped: int
    dead: int

    def times(self, rounds: int) -> "Outcomes":
        """Of so many rounds like this one."""
        return Outcomes(*(rounds * getattr(self, name) for name in self.__slots__))


def pool(workload: Workload) -> Sample:
    """The events that every round sends."""
    return generate(replace(workload, unknown=UNKNOWN, first_id=1))


class Traffic:
    """The messages of one round after the other.

    `first_id` is the lowest event id; the event at place p of the pool has the id first_id + round * events + p.
    """

    def __init__(self, sample: Sample, first_id: int = 1) -> None:
        self.events = len(sample)
        self._first_id = first_id
        self._keys, self._tails = [], []
        for key, value in sample.messages():
            self._keys.append(key)
            self._tails.append(value[value.index(b",") :])
        self._handoffs = [(p, tail) for p, tail in enumerate(self._tails) if MEMBER_EVENT in tail]
        self._repeated = repeated(sample).tolist()
        self._stride = int(sample.conversation_id.max()) + 1
        self._random = np.random.default_rng(1)

    def messages(self, number: int, start: int) -> list[list[tuple[bytes, bytes]]]:
        """(key, value) of a slice of round `number` from place `start` on, for each partition, in the order to send."""
        if start == 0 and number % SAME_CONVERSATIONS == 0:
            self._change_conversations(number // SAME_CONVERSATIONS)
        places = range(start, min(start + SLICE, self.events))
        found: list[list[tuple[bytes, bytes]]] = [[] for _ in range(PARTITIONS)]
        keys, tails, base = self._keys, self._tails, self._first_id + number * self.events
        for p in places:
            key = keys[p]
            # An account stays in its partition, as with a partitioner that hashes keys.
            found[key[-1] % PARTITIONS].append((key, b'{"id":%d%s' % (base + p, tails[p])))
        for p in places:
            if self._repeated[p]:
                # Every other one is as old as the whole run may be.
                then = number if p % (2 * REPEAT_EVERY) < REPEAT_EVERY else int(self._random.integers(0, number + 1))
                again = b'{"id":%d%s' % (self._first_id + then * self.events + p, tails[p])
                found[keys[p][-1] % PARTITIONS].append((keys[p], again))
            if p % BAD_EVERY == BAD_EVERY // 2 % self.events:
                spoilt = FAULTS[(p // BAD_EVERY) % len(FAULTS)](b'{"id":%d%s' % (base + p, tails[p]))
                found[keys[p][-1] % PARTITIONS].append((keys[p], spoilt))
        return found

    def _change_conversations(self, generation: int) -> None:
        for p, tail in self._handoffs:
            before, _, rest = tail.partition(CONVERSATION)
            conversation, comma, after = rest.partition(b",")
            changed = int(conversation) + generation * self._stride
            self._tails[p] = before + CONVERSATION + b"%d" % changed + comma + after


def repeated(sample: Sample) -> BoolArray:
    """bool[n]: events that are sent once more in each round. Never hand-offs, whose text changes between rounds."""
    counted = np.array([name in REGISTRY.event_code for name in sample.names])[sample.name]
    handoff = np.array([name.encode() == MEMBER_EVENT for name in sample.names])[sample.name]
    chosen: BoolArray = (np.arange(len(sample)) % REPEAT_EVERY == REPEAT_EVERY // 2) & counted & ~handoff
    return chosen


def outcomes(sample: Sample) -> Outcomes:
    """What must become of the messages of one round."""
    counted = int(np.array([name in REGISTRY.event_code for name in sample.names])[sample.name].sum())
    again = int(repeated(sample).sum())
    bad = sum(p % BAD_EVERY == BAD_EVERY // 2 % len(sample) for p in range(len(sample)))
    return Outcomes(len(sample) + again + bad, counted, again, len(sample) - counted, bad)


def expected_rows(sample: Sample, rounds: int) -> dict[Key, Total]:
    """Every row that the rollup must have after so many rounds, and no other."""
    adds: Counter[tuple[Key, str]] = Counter()
    members: dict[Key, set[int]] = defaultdict(set)
    for name, day, account, value, business, columns in _events(sample):
        for metric in REGISTRY.metrics:
            if metric.event != name:
                continue
            for dimension in REGISTRY.dimensions:
                about = columns[dimension.column]
                if about is None:
                    continue
                key = Key(account, day, dimension.type, about, metric.metric)
                if metric.kind is Kind.DISTINCT:
                    member = columns[metric.member or ""]
                    members[key] |= set() if member is None else {member}
                    continue
                adds[key, "events"] += 1
                if metric.kind is Kind.DURATION:
                    adds[key, "sum_us"] += value
                    adds[key, "business_us"] += business
    found = {key: Total(*(rounds * adds[key, field] for field in Total._fields)) for key in {key for key, _ in adds}}
    generations = -(-rounds // SAME_CONVERSATIONS)
    found.update({key: Total(generations * len(those), 0, 0) for key, those in members.items()})
    return {key: total for key, total in found.items() if total.events}


def _events(sample: Sample) -> Iterator[tuple[str, date, int, int, int, dict[str, int | None]]]:
    """Name, local day, account, duration, business duration (µs), and the columns of ids: of every event."""
    zones = sorted(set(sample.workload.timezones.values()))
    index = {account: zones.index(zone) for account, zone in sample.workload.timezones.items()}
    days = local_days(np.array([index[a] for a in sample.account_id.tolist()]), zones, sample.created_us)
    dates = {number: day_date(number) for number in set(days.tolist())}
    for p in range(len(sample)):
        account = int(sample.account_id[p])
        yield (
            sample.names[sample.name[p]],
            dates[int(days[p])],
            account,
            int(sample.value_us[p]),
            0 if sample.business_null[p] else int(sample.business_us[p]),
            {
                "account_id": account,
                "user_id": None if sample.user_null[p] else int(sample.user_id[p]),
                "inbox_id": int(sample.inbox_id[p]),
                "conversation_id": int(sample.conversation_id[p]),
            },
        )
