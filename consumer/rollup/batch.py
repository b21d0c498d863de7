"""What travels from the topic to the transaction: columns of events, and the messages they came from.

What is decoded at once is a small batch; the writer merges those that have gathered into the batch of a transaction.
Frozen values, checked where they are made. Columns are numpy arrays of one length; nothing here is per event.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Int16Array = npt.NDArray[np.int16]
Int8Array = npt.NDArray[np.int8]
BoolArray = npt.NDArray[np.bool_]

NULL = np.int64(-(2**63))
"""Stands for SQL null in an integer column. No id can be it: every nullable id is a 32-bit integer."""


@dataclass(frozen=True, slots=True)
class Events:
    """Valid events that feed at least one metric, as columns of one length n, in the order they were read.

    Attributes:
        id: int64[n], the raw event's id.
        account_id: int64[n].
        name: int8[n], the event's code: its position in `Registry.event_names`.
        created_us: int64[n], microseconds since 1970-01-01T00:00:00Z.
        value_us: int64[n], `value` in microseconds; a null is 0.
        business_us: int64[n], `value_in_business_hours` in microseconds; a null is 0.
        ids: nullable id columns by raw column name (`Registry.id_columns`), int64[n], null is `NULL`.
        source: int16[n], which of its chunk's (later: batch's) partitions the event was read from.
    """

    id: Int64Array
    account_id: Int64Array
    name: Int8Array
    created_us: Int64Array
    value_us: Int64Array
    business_us: Int64Array
    ids: Mapping[str, Int64Array]
    source: Int16Array

    def __post_init__(self) -> None:
        n = len(self.id)
        lengths = {len(self.account_id), len(self.name), len(self.created_us), len(self.value_us)}
        lengths |= {len(self.business_us), len(self.source), *map(len, self.ids.values())}
        if lengths != {n}:
            raise ValueError("columns of events differ in length")

    def __len__(self) -> int:
        return len(self.id)

    def take(self, keep: BoolArray) -> "Events":
        """The events whose flag in `keep` (bool[n]) is set."""
        return Events(
            self.id[keep],
            self.account_id[keep],
            self.name[keep],
            self.created_us[keep],
            self.value_us[keep],
            self.business_us[keep],
            {c: v[keep] for c, v in self.ids.items()},
            self.source[keep],
        )


EVENT_BYTES = 100
"""About what an event takes up in columns."""


class Partition(NamedTuple):
    """A topic partition; tuples sort as the transaction locks them."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


@dataclass(frozen=True, slots=True)
class Reject:
    """A message that cannot be an event: which one, what kind of error, and a sentence for people.

    Attributes:
        index: the message's position in the list that was decoded.
        error_class: a short bounded word for metrics and filters: `syntax`, `encoding`, `type`, `missing`,
            `range`, `timestamp`, `text`, `size` or `nesting`.
        reason: names the field and what was found, without the payload.
    """

    index: int
    error_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A rejected message as it stood on the topic; it becomes one row of `dead_letters`."""

    source: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp_us: int | None
    error_class: str
    reason: str

    @property
    def size(self) -> int:
        """About the bytes of memory that it takes up: a producer may fill keys and headers as well as values."""
        return len(self.key or b"") + len(self.value or b"") + headers_size(self.headers)


HEADER_BYTES = 150
"""About what a header takes up beside its name and value."""


def headers_size(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """About the bytes of memory that a message's headers take up, names and values."""
    return sum(HEADER_BYTES + len(name.encode()) + len(value or b"") for name, value in headers)


@dataclass(frozen=True, slots=True)
class Span:
    """The messages of one partition in a batch, and what is known of them before the transaction.

    An offset is always the next to read: the span covers [start, next), of which `messages` were delivered (compaction
    and aborted transactions leave gaps).
    """

    source: Partition
    topic_id: str
    start: int
    next: int
    messages: int
    skipped: Mapping[str, int]
    dead: int
    oldest_us: int | None
    """Broker timestamp of the span's first message, microseconds since the epoch; None if the broker gave none, or if
    there is no message."""

    def __post_init__(self) -> None:
        if not self.start < self.next:
            raise ValueError(f"offsets of {self.source} do not rise: {self.start} to {self.next}")

    def then(self, later: "Span") -> "Span":
        """This span and the one that follows it without a gap."""
        if (self.source, self.topic_id, self.next) != (later.source, later.topic_id, later.start):
            raise ValueError(f"{self.source}: a span from {later.start} does not follow one up to {self.next}")
        return Span(
            self.source,
            self.topic_id,
            self.start,
            later.next,
            self.messages + later.messages,
            Counter(self.skipped) + Counter(later.skipped),
            self.dead + later.dead,
            self.oldest_us if self.messages else later.oldest_us,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages that are counted together or not at all.

    Attributes:
        spans: one per partition, sorted by it.
        events: `events.source` is a position in `spans`.
        dead_letters: the messages that cannot be events.
    """

    spans: tuple[Span, ...]
    events: Events
    dead_letters: tuple[DeadLetter, ...]

    @property
    def messages(self) -> int:
        """How many messages it covers."""
        return sum(span.messages for span in self.spans)

    @property
    def weight(self) -> int:
        """Its share of the memory that may wait for the writer, in messages: dead letters weigh by their size."""
        return self.messages + sum(letter.size for letter in self.dead_letters) // EVENT_BYTES


def merge(batches: Sequence[Batch]) -> Batch:
    """One batch of several that were read one after the other. Raises ValueError if their offsets do not follow."""
    if len(batches) == 1:
        return batches[0]
    spans: dict[Partition, Span] = {}
    for batch in batches:
        for span in batch.spans:
            spans[span.source] = spans[span.source].then(span) if span.source in spans else span
    ordered = sorted(spans)
    place = {source: position for position, source in enumerate(ordered)}
    remap = [np.array([place[span.source] for span in batch.spans], np.int16) for batch in batches]
    every = [batch.events for batch in batches]
    events = Events(
        np.concatenate([e.id for e in every]),
        np.concatenate([e.account_id for e in every]),
        np.concatenate([e.name for e in every]),
        np.concatenate([e.created_us for e in every]),
        np.concatenate([e.value_us for e in every]),
        np.concatenate([e.business_us for e in every]),
        {column: np.concatenate([e.ids[column] for e in every]) for column in every[0].ids},
        np.concatenate([places[e.source] for places, e in zip(remap, every, strict=True)]),
    )
    dead = tuple(letter for batch in batches for letter in batch.dead_letters)
    return Batch(tuple(spans[source] for source in ordered), events, dead)
