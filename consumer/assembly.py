"""From messages to batches, and how many to read at once so that these stay small. Pure, time passed in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message

from consumer.handlers import Decoded, Handler
from consumer.rollup.batch import Batch, DeadLetter, Events, Partition, Reject, Span, headers_size, merge
from consumer.rollup.days import instant_if_any

FIRST_READ = 100
"""Messages of the first read, whose size nobody knows yet."""

FETCH_BYTES = 32_000_000
"""What one read may bring, by the size of the messages of the last one. 20,000 messages of the usual size are 8 MB."""


def next_read(messages: Sequence[Message], most: int) -> int:
    """How many messages to read next, `most` at the most, so that large ones do not fill the memory.

    Args:
        messages: the last read's, at least one.
        most: if they are small.
    """
    # Values are summed up, since a few large ones make all the difference; keys and headers are asked of some.
    sample = messages[:: max(1, len(messages) // 100)]
    size = sum(map(len, messages)) // len(messages) + sum(map(_size_beside_value, sample)) // len(sample)
    return max(1, min(most, FETCH_BYTES // max(1, size)))


def assemble(
    messages: Sequence[Message],
    starts: Mapping[Partition, int],
    topic_ids: Mapping[str, str],
    handlers: Mapping[str, Handler],
    now_us: int,
    ends: Mapping[Partition, int] = MappingProxyType({}),
) -> Batch:
    """Decode messages into a batch.

    Args:
        messages: from any of the topics, without errors, in order of offset within each partition.
        starts: the next offset to read of every partition among them, and in `ends`.
        topic_ids: by topic.
        handlers: by topic.
        now_us: the present, microseconds since the epoch.
        ends: offsets, beyond their starts, that partitions were read up to: their spans reach there, though no message
            may lie right before, or there is none at all.
    """
    if len(handlers) == 1:
        (topic,) = handlers
        return _of_topic(topic, messages, starts, topic_ids[topic], handlers[topic], now_us, ends)
    by_topic: dict[str, list[Message]] = {partition.topic: [] for partition in ends}
    for message in messages:
        by_topic.setdefault(str(message.topic()), []).append(message)
    return merge([_of_topic(t, ms, starts, topic_ids[t], handlers[t], now_us, ends) for t, ms in by_topic.items()])


def _of_topic(
    topic: str,
    messages: Sequence[Message],
    starts: Mapping[Partition, int],
    topic_id: str,
    handler: Handler,
    now_us: int,
    ends: Mapping[Partition, int],
) -> Batch:
    decoded = handler.decode([m.value() for m in messages], now_us)
    numbers = np.array([m.partition() for m in messages], np.int32)
    ended = {partition.partition: end for partition, end in ends.items() if partition.topic == topic}
    present = np.bincount(numbers, minlength=max(ended, default=-1) + 1) > 0
    present[list(ended)] = True
    place = (np.cumsum(present) - 1)[numbers]
    names = [Partition(topic, number) for number in np.flatnonzero(present).tolist()]
    first, last = _ends(place, len(names))
    counts = _Counts(place, len(names))
    reject_places = counts.of(np.array([r.index for r in decoded.rejects], np.int64))
    skipped = {reason: counts.of(index) for reason, index in decoded.skipped.items()}
    received = counts.of(np.arange(len(messages)))
    spans = []
    for at, name in enumerate(names):
        start, next_offset, oldest_us = starts[name], ended.get(name.partition, 0), None
        if received[at]:
            offset, oldest_us = messages[first[at]].offset(), timestamp_us(messages[first[at]])
            next_offset = max(next_offset, (messages[last[at]].offset() or 0) + 1)
            if offset is None or offset < start:
                raise ValueError(f"{name}: read offset {offset} where {start} or later is next")
        spans.append(
            Span(
                name,
                topic_id,
                start,
                next_offset,
                received[at],
                {reason: numbers_of[at] for reason, numbers_of in skipped.items() if numbers_of[at]},
                reject_places[at],
                oldest_us,
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
    """The positions of each partition's first and last message; of one without any they mean nothing."""
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


def _size_beside_value(message: Message) -> int:
    """The bytes of a message's key and headers' values: `len(message)` is its value's alone."""
    headers, _ = _headers(message)
    return len(message.key() or b"") + headers_size(headers)


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def timestamp_us(message: Message) -> int | None:
    """The message's timestamp in microseconds since the epoch, None if it has none."""
    kind, milliseconds = message.timestamp()
    return milliseconds * 1000 if kind else None
