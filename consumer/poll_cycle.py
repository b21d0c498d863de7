"""From messages to batches, and when a batch is due: pure, time passed in.

What is read at once is decoded at once into a small batch. Small batches gather while the writer is busy, and leave
together as one transaction: they grow under lag, where rows per event is what counts, and stay small when caught up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message

from consumer.handlers import Decoded, Handler
from consumer.rollup.batch import Batch, DeadLetter, Events, Partition, Reject, Span, merge
from consumer.rollup.days import instant_if_any


@dataclass(frozen=True, slots=True)
class Policy:
    """When waiting batches leave.

    Attributes:
        most_events: no more in one transaction.
        lag_wait: seconds that batches may gather while the topic has more at hand than we read at once; larger
            transactions touch fewer rows an event.
    """

    most_events: int
    lag_wait: float = 1.0


@dataclass
class Gathering:
    """Batches that wait for the writer. Not thread-safe; the writer holds its lock around every call."""

    policy: Policy
    waiting: list[Batch] = field(default_factory=list)
    events: int = 0
    since: float = 0.0
    lagging: bool = False

    def add(self, batch: Batch, *, lagging: bool, now: float) -> None:
        """Put a batch behind the others. `lagging`: the topic had more at hand than was read. `now`: monotonic."""
        if not self.waiting:
            self.since = now
        self.waiting.append(batch)
        self.events += batch.weight
        self.lagging = lagging

    @property
    def full(self) -> bool:
        """Whether reading should stop until the writer has taken something."""
        return self.events >= self.policy.most_events

    def due_in(self, now: float) -> float | None:
        """Seconds until what waits should leave; None if nothing waits."""
        if not self.waiting:
            return None
        if self.full or not self.lagging:
            return 0.0
        return max(0.0, self.since + self.policy.lag_wait - now)

    def take(self, now: float) -> Batch:
        """All that waits up to the policy's size, oldest first, as one batch. At least one batch must wait."""
        taken: list[Batch] = []
        events = 0
        while self.waiting and (not taken or events + self.waiting[0].weight <= self.policy.most_events):
            taken.append(self.waiting.pop(0))
            events += taken[-1].weight
        self.events -= events
        self.since = now
        return merge(taken)

    def clear(self) -> None:
        """Forget everything that waits."""
        self.waiting.clear()
        self.events = 0


def assemble(
    messages: Sequence[Message],
    starts: Mapping[Partition, int],
    topic_ids: Mapping[str, str],
    handlers: Mapping[str, Handler],
    now_us: int,
) -> Batch:
    """Decode messages into a batch.

    Args:
        messages: from any of the topics, without errors, in order of offset within each partition.
        starts: the next offset to read of every partition among them.
        topic_ids: by topic.
        handlers: by topic.
        now_us: the present, microseconds since the epoch.
    """
    if len(handlers) == 1:
        (topic,) = handlers
        return _of_topic(topic, messages, starts, topic_ids[topic], handlers[topic], now_us)
    by_topic: dict[str, list[Message]] = {}
    for message in messages:
        by_topic.setdefault(str(message.topic()), []).append(message)
    return merge([_of_topic(t, ms, starts, topic_ids[t], handlers[t], now_us) for t, ms in by_topic.items()])


def _of_topic(
    topic: str,
    messages: Sequence[Message],
    starts: Mapping[Partition, int],
    topic_id: str,
    handler: Handler,
    now_us: int,
) -> Batch:
    decoded = handler.decode([m.value() for m in messages], now_us)
    numbers = np.array([m.partition() for m in messages], np.int32)
    present = np.bincount(numbers) > 0
    place = (np.cumsum(present) - 1)[numbers]
    names = [Partition(topic, number) for number in np.flatnonzero(present).tolist()]
    first, last = _ends(place, len(names))
    counts = _Counts(place, len(names))
    reject_places = counts.of(np.array([r.index for r in decoded.rejects], np.int64))
    skipped = {reason: counts.of(index) for reason, index in decoded.skipped.items()}
    received = counts.of(np.arange(len(messages)))
    spans = []
    for at, name in enumerate(names):
        start, offset = starts[name], messages[first[at]].offset()
        if offset is None or offset < start:
            raise ValueError(f"{name}: read offset {offset} where {start} or later is next")
        spans.append(
            Span(
                name,
                topic_id,
                start,
                (messages[last[at]].offset() or 0) + 1,
                received[at],
                {reason: numbers_of[at] for reason, numbers_of in skipped.items() if numbers_of[at]},
                reject_places[at],
                timestamp_us(messages[first[at]]),
            )
        )
    events = _with_source(decoded, place)
    dead = tuple(_dead_letter(messages[r.index], names[place[r.index]], r) for r in decoded.rejects)
    return Batch(tuple(spans), events, dead)


@dataclass(frozen=True, slots=True)
class _Counts:
    place: npt.NDArray[np.intp]
    size: int

    def of(self, index: npt.NDArray[np.int64]) -> list[int]:
        """How many of the messages at `index` each partition has."""
        counts: list[int] = np.bincount(self.place[index], minlength=self.size).tolist()
        return counts


def _ends(place: npt.NDArray[np.intp], size: int) -> tuple[list[int], list[int]]:
    """The positions of each partition's first and last message."""
    positions = np.arange(len(place))
    first, last = np.zeros(size, np.int64), np.zeros(size, np.int64)
    last[place] = positions  # of several assignments to one place the last one stays
    first[place[::-1]] = positions[::-1]
    return first.tolist(), last.tolist()


def _with_source(decoded: Decoded, place: npt.NDArray[np.intp]) -> Events:
    e = decoded.events
    source = place[decoded.index].astype(np.int16)
    return Events(e.id, e.account_id, e.name, e.created_us, e.value_us, e.business_us, e.ids, source)


def _dead_letter(message: Message, source: Partition, reject: Reject) -> DeadLetter:
    headers, note = _headers(message)
    stamp = timestamp_us(message)
    if stamp is not None and instant_if_any(stamp) is None:
        note += f"; its timestamp is left out: {stamp // 1000} ms since 1970 is no date"
        stamp = None
    return DeadLetter(
        source,
        message.offset() or 0,
        _bytes(message.key()),
        _bytes(message.value()),
        headers,
        stamp,
        reject.error_class,
        reject.reason + note,
    )


_UNREADABLE: list[tuple[str, str | bytes | None]] = []
"""Takes the place of headers that cannot be read; known by its identity."""


def _headers(message: Message) -> tuple[list[tuple[str, bytes | None]], str]:
    """The message's headers, and a note if they cannot be had: the client raises for a name that is not UTF-8.

    It raises once: asked again, it hands out a tuple with a hole in it, which crashes the interpreter. So whoever asks
    again gets `_UNREADABLE`.
    """
    try:
        headers = message.headers() or []
    except (SystemError, UnicodeDecodeError):
        message.set_headers(headers := _UNREADABLE)
    if headers is _UNREADABLE:
        return [], "; its headers are left out: a name is not UTF-8"
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(name, _bytes(value)) for name, value in pairs], ""


def size_beside_value(message: Message) -> int:
    """The bytes of a message's key and headers' values: `len(message)` is its value's alone."""
    headers, _ = _headers(message)
    return len(message.key() or b"") + sum(len(value or b"") for _, value in headers)


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def timestamp_us(message: Message) -> int | None:
    """The message's timestamp in microseconds since the epoch, None if it has none."""
    kind, milliseconds = message.timestamp()
    return milliseconds * 1000 if kind else None
