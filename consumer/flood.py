"""When too many messages of a partition are bad: pure bookkeeping of the reader, no Kafka, no database.

One bad message is a producer's slip, and is set aside. A producer that writes another format, or a topic with the wrong
handler, would empty the whole topic into `dead_letters`. So a partition's last messages are remembered: which of them
were bad. The first bad one that is more than the limits allow stops the consumer, and neither it nor anything after it
is stored.

What decides is the log alone: the messages before an offset, not how they came in reads and batches. A partition that
starts is told of the letters that were set aside just before its stored offset, so that a restart, or the member that
gets the partition next, stops at the same message. Letters that somebody has replayed or discarded do not count then.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import Message

from consumer.errors import DeadLetterFlood
from consumer.rollup.batch import Batch, DeadLetter, Partition


@dataclass(frozen=True, slots=True)
class Limits:
    """How many messages of a partition may be bad. Beyond any of these, somebody has to look.

    Attributes:
        max_ratio: of the last `window` messages, from 0 (none) to 1 (all: no limit). Stops at a producer that is wrong
            now and then; too low a limit stops reports for everybody whenever one producer slips.
        window: messages; larger ones let more pass before they stop, and forget later.
        max_consecutive: in a row; 0 is no limit. Stops at a topic that holds something else altogether, soon.
    """

    max_ratio: float
    window: int
    max_consecutive: int

    @property
    def most_in_window(self) -> int:
        """The most bad messages in a window."""
        return int(self.max_ratio * self.window + 1e-9)  # 0.29 * 100 is 28.999999999999996

    @property
    def look_back(self) -> int:
        """How many messages before an offset decide."""
        return max(self.window, self.max_consecutive)

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_ratio < 1 or self.max_consecutive > 0


class Recent(NamedTuple):
    """A letter before a partition's next offset: how far before (1 is the message just before), and its error class."""

    before: int
    cause: str


@dataclass(frozen=True, slots=True)
class Excess:
    """The first message of a partition that is too many.

    Attributes:
        letter: it; its offset is the first that is not stored.
        limit: which setting it breaks, with its value.
        measure: how many are bad of how many, in words.
        causes: error classes of those, the most frequent first.
    """

    letter: DeadLetter
    limit: str
    measure: str
    causes: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        causes = ", ".join(f"{number} {cause}" for cause, number in self.causes)
        return (
            f"{self.letter.source}: {self.measure} up to offset {self.letter.offset} cannot be events ({causes}), more "
            f"than {self.limit} allows"
        )


@dataclass(slots=True)
class _Partition:
    """The last messages of a partition, numbered from where it started; those before that have numbers below 0."""

    seen: int = 0
    """The number of the next message."""
    bad: deque[tuple[int, str]] = field(default_factory=deque)
    """Number and error class of the bad messages in the window."""
    run: int = 0
    """How many bad ones there are in a row up to the last bad one."""

    def add(self, number: int, cause: str, window: int) -> None:
        """Note a bad message; forget what has left the window that ends with it."""
        self.run = self.run + 1 if self.bad and self.bad[-1][0] == number - 1 else 1
        self.bad.append((number, cause))
        while self.bad[0][0] <= number - window:
            self.bad.popleft()


class FloodWatch:
    """Looks at every batch before it is written.

    Args:
        limits: how many may be bad.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._partitions: dict[Partition, _Partition] = {}

    def start(self, recent: Mapping[Partition, Sequence[Recent]]) -> None:
        """Partitions begin, or begin again, after these letters (the oldest first) that nobody has dealt with."""
        for source, letters in recent.items():
            state = self._partitions[source] = _Partition()
            for letter in letters:
                state.add(-letter.before, letter.cause, self.limits.window)

    def look(self, batch: Batch, messages: Sequence[Message]) -> list[Excess]:
        """Note a batch, of these messages; the first message of each partition that is too many.

        Batches come in order. After an excess the partitions' state means nothing any more.
        """
        if not self.limits.any:
            return []
        letters: dict[Partition, list[DeadLetter]] = {}
        for letter in batch.dead_letters:
            letters.setdefault(letter.source, []).append(letter)
        found = []
        for span in batch.spans:
            state = self._partitions.setdefault(span.source, _Partition())
            if listed := letters.get(span.source):
                # Compaction and transactions leave holes among offsets; then each message has to be asked.
                whole = span.next - span.start == span.messages
                place = None if whole else _places(messages, span.source)
                for letter in listed:
                    at = letter.offset - span.start if place is None else place[letter.offset]
                    if excess := self._note(state, state.seen + at, letter):
                        found.append(excess)
                        break
            state.seen += span.messages
        return found

    def _note(self, state: _Partition, number: int, letter: DeadLetter) -> Excess | None:
        limits = self.limits
        state.add(number, letter.error_class, limits.window)
        if limits.max_consecutive and state.run > limits.max_consecutive:
            causes = Counter(cause for _, cause in list(state.bad)[-state.run :])
            limit = f"DEAD_LETTER_MAX_CONSECUTIVE={limits.max_consecutive}"
            return Excess(letter, limit, f"{state.run} messages in a row", tuple(causes.most_common()))
        if len(state.bad) > limits.most_in_window:
            causes = Counter(cause for _, cause in state.bad)
            limit = f"DEAD_LETTER_MAX_RATIO={limits.max_ratio:g}"
            measure = f"{len(state.bad)} of the last {limits.window} messages"
            return Excess(letter, limit, measure, tuple(causes.most_common()))
        return None


def before(messages: Sequence[Message], excesses: Sequence[Excess]) -> list[Message]:
    """The messages without the first one of each partition that is too many, and without what follows it there."""
    ends = {excess.letter.source: excess.letter.offset for excess in excesses}
    return [m for m in messages if not (m.offset() or 0) >= ends.get(_source(m), 1 << 63)]


def flood(excesses: Sequence[Excess]) -> DeadLetterFlood:
    """The error to stop with."""
    topics = sorted({excess.letter.source.topic for excess in excesses})
    return DeadLetterFlood(
        f"{'. '.join(map(str, excesses))}. What came before is stored, this and what follows is not. Fix the producer, "
        f"or the handler of {', '.join(topics)} in KAFKA_TOPICS. To set such messages aside all the same, raise the "
        f"limit. Those before it: python -m consumer dead-letters list --topic {topics[0]}"
    )


def _places(messages: Sequence[Message], source: Partition) -> dict[int, int]:
    """The place of each offset among a partition's messages."""
    offsets = [m.offset() or 0 for m in messages if _source(m) == source]
    return {offset: place for place, offset in enumerate(offsets)}


def _source(message: Message) -> Partition:
    return Partition(message.topic() or "", message.partition() or 0)
