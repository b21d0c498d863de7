"""The only user of the Kafka consumer: assignment, rebalances, pauses and seeks.

Offsets come from PostgreSQL, so a partition that the group assigns is not read at once: it is kept in `pending` until
whoever owns the stored offsets calls `start`. No callback waits for the database. The group only learns offsets for
the sake of lag tools (`mirror`). Only this file's caller thread may use it; librdkafka calls back from within `read`.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from consumer.client import Closer, Watch, make_consumer
from consumer.read_errors import is_log_end, is_name_taken, needs_somebody
from consumer.rollup.batch import Partition

LeavingHook = Callable[[Sequence[Partition], bool], None]
Rebalanced = Callable[[str, Sequence[Partition]], None]

JOIN_AGAIN_SECONDS = 2.0
"""Between two attempts to join while the group still has a dead member with our `group.instance.id`."""


class Read(NamedTuple):
    """What came at once.

    Attributes:
        messages: in order of offset within each partition.
        ends: up to which offset partitions were read whose log ended: what lies before it was handed out, with
            `messages` or earlier, or is no message.
        full: whether as much came as was asked for.
    """

    messages: list[Message]
    ends: dict[Partition, int]
    full: bool


class Source:
    """A member of the consumer group.

    Args:
        properties: librdkafka's.
        topics: their names.
        leaving: called with (partitions, lost) before partitions go to another member; it commits or abandons what was
            read from them. If `lost`, another member may have them already.
        rebalanced: told of (kind, partitions) for logs and metrics; kind is `assigned`, `revoked` or `lost`.
        logger: a standard logger for librdkafka's own lines.
    """

    def __init__(
        self,
        properties: Mapping[str, str | int],
        topics: Sequence[str],
        *,
        leaving: LeavingHook,
        rebalanced: Rebalanced,
        logger: Any,
    ) -> None:
        self._properties = properties
        self._consumer = make_consumer(properties, logger)
        self._logger = logger
        self._topics = list(topics)
        self._leaving = leaving
        self._rebalanced = rebalanced
        self._early: list[Message] = []
        """What came while fetching was stopped: messages and log ends."""
        self.owned: set[Partition] = set()
        """Partitions that are being read."""
        self.pending: set[Partition] = set()
        """Partitions that the group assigned and `start` has not been called for."""
        self._subscribed = False
        self._join_again_at: float | None = None
        self._member_since = 0.0
        self.paused = False
        """Whether fetching is stopped."""
        self._gave_away = False
        self._closer = Closer()
        self._watch = Watch()
        self._left = False

    def subscribe(self) -> None:
        """Join the group. Assignments arrive while reading."""
        self._subscribed = True
        self._consumer.subscribe(
            self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def end_offset(self, partition: Partition) -> int | None:
        """The next offset to be written as of the last fetch; None while unknown. Asks nobody."""
        watermarks = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
        return watermarks[1] if watermarks and watermarks[1] >= 0 else None

    def start(self, offsets: Mapping[Partition, int]) -> None:
        """Begin to read pending partitions at these offsets."""
        wanted = {p: offset for p, offset in offsets.items() if p in self.pending}
        self._consumer.incremental_assign([TopicPartition(*p, offset) for p, offset in wanted.items()])
        self.pending -= wanted.keys()
        self.owned |= wanted.keys()
        # A partition that was paused when it went away is still paused when it comes back.
        change = self._consumer.pause if self.paused else self._consumer.resume
        change([TopicPartition(*p) for p in wanted])

    def restart(self, offsets: Mapping[Partition, int]) -> None:
        """Go on reading owned partitions at these offsets; what was fetched before is dropped."""
        ours = [TopicPartition(*p, offset) for p, offset in offsets.items() if p in self.owned]
        self._early = [m for m in self._early if _partition(m) not in offsets]
        # Taking a partition away and giving it back always works; a seek fails while its fetcher is starting.
        self._consumer.incremental_unassign(ours)
        self._consumer.incremental_assign(ours)
        if self.paused:
            self._consumer.pause(ours)

    def read(self, most: int, idle_wait: float, gather_wait: float) -> Read:
        """Up to `most` messages and log ends.

        Waits up to `idle_wait` seconds for the first one and then up to `gather_wait` for others to come along; with
        enough messages at hand it does not wait. Rebalances happen in here.

        Raises:
            OffsetGapError, TopicError, AccessError, FencedError: reading can't go on without the operator.
            KafkaException: a fatal error of the client.
        """
        if self._join_again_at is not None:
            self._join_again(idle_wait)
            return Read([], {}, full=False)
        self._gave_away = False
        first = self._consumer.poll(idle_wait)
        messages, self._early = self._early, []
        if first is not None:
            self._watch.message_at = time.monotonic()
            messages.append(first)
            if most > 1 and not self.paused:
                messages += self._consumer.consume(most - 1, gather_wait)
        full = len(messages) >= most
        if others := [m for m in messages if m.error() is not None]:
            messages = [m for m in messages if m.error() is None]
            others = self._log_ends(others)
        if self._gave_away:  # between the first message and the last; whoever owns the partition now reads it again
            messages = [m for m in messages if _partition(m) in self.owned]
            others = [m for m in others if _partition(m) in self.owned]
        if self.paused:  # fetched before the pause: kept for later
            self._early, messages, others = messages + others, [], []
        return Read(messages, {_partition(m): m.offset() or 0 for m in others}, full)

    def pause(self) -> None:
        """Stop fetching; `read` goes on serving the group and returns nothing."""
        if not self.paused:
            self.paused = True
            self._consumer.pause([TopicPartition(*p) for p in self.owned])

    def resume(self) -> None:
        """Fetch again."""
        if self.paused:
            self.paused = False
            self._consumer.resume([TopicPartition(*p) for p in self.owned])

    def mirror(self, offsets: Mapping[Partition, int]) -> None:
        """Tell Kafka's group coordinator the next offsets, for lag tools. Returns at once; failures don't matter."""
        listed = [TopicPartition(*p, offset) for p, offset in offsets.items() if p in self.owned]
        if listed:
            with contextlib.suppress(KafkaException):
                self._consumer.commit(offsets=listed, asynchronous=True)

    def serve_logs(self) -> None:
        """Pass on what librdkafka logged; without it, lines pile up while nothing is read. Returns at once, and does
        nothing once subscribed: messages come the same way."""
        if not self._subscribed:
            self._consumer.poll(0)

    def renew_if_lost(self, brokers_answer: bool) -> None:
        """Join again with a new client if this one has lost its brokers, while others find them. Returns at once."""
        ours = self._subscribed and not self.refused
        if self._watch.is_lost(self._consumer, self._topics[0], brokers_answer=brokers_answer and ours):
            self._logger.warning("this Kafka client has lost its brokers, which answer others: joining again")
            self._replace()

    @property
    def is_member(self) -> bool:
        """Whether the group knows us, with partitions or standing by."""
        return self._subscribed and time.monotonic() >= self._member_since and bool(self._consumer.memberid())

    @property
    def refused(self) -> bool:
        """Whether the group did not let us in, and `read` waits to join again."""
        return self._join_again_at is not None

    def close(self, seconds: float) -> None:
        """Leave the group; partitions are revoked on the way. A client waits for minutes for brokers that do not answer
        to take its leave; after `seconds`, this goes on without, and `closing` stays true."""
        if not self._closer.close(self._consumer, seconds):
            self._logger.warning("no broker took our leave from the group: our session there times out")
            self._left = True

    @property
    def closing(self) -> bool:
        """Whether a client has not closed yet."""
        return self._closer.busy

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._ended(consumer):
            return
        self.pending |= _named(partitions)
        # An answer is due, or the rebalance would not end. What to read, and from where, follows with `start`.
        consumer.incremental_assign([])
        self._rebalanced("assigned", sorted(_named(partitions)))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._give_away(consumer, partitions, lost=False)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._give_away(consumer, partitions, lost=True)

    def _give_away(self, consumer: Consumer, partitions: list[TopicPartition], *, lost: bool) -> None:
        if self._ended(consumer):
            return
        named = _named(partitions)
        ours = named & self.owned
        self._hand_over(named, lost=lost)
        consumer.incremental_unassign([TopicPartition(*p) for p in ours])

    def _ended(self, consumer: Consumer) -> bool:
        """Whether nobody uses it any more; it may still be closing."""
        return self._left or consumer is not self._consumer

    def _hand_over(self, named: set[Partition], *, lost: bool) -> None:
        self._early = [m for m in self._early if _partition(m) not in named]
        self._gave_away = True
        self._leaving(sorted(named & self.owned), lost)
        self.owned -= named
        self.pending -= named
        self._rebalanced("lost" if lost else "revoked", sorted(named))

    def _log_ends(self, others: list[Message]) -> list[Message]:
        """Of what came instead of messages the ends of logs; errors that need somebody are raised, the others pass by
        themselves."""
        ends = []
        for other in others:
            error = other.error()
            if error is None or is_log_end(error):
                ends.append(other)
            elif is_name_taken(error):
                self._wait_for_name()
            elif problem := needs_somebody(error, other.topic(), other.partition()):
                raise problem
            else:
                where = f"{other.topic()}[{other.partition()}]: " if other.topic() else ""
                self._logger.warning("%s%s", where, error.str())
        return ends

    def _wait_for_name(self) -> None:
        self._logger.warning(
            "the group still has a member with this KAFKA_GROUP_INSTANCE_ID, alive or dead: joining again every %.0f s",
            JOIN_AGAIN_SECONDS,
        )
        self._join_again_at = time.monotonic() + JOIN_AGAIN_SECONDS
        self._member_since = float("inf")

    def _join_again(self, seconds: float) -> None:
        """With a new client, when it is time; until then wait, not longer than `seconds`."""
        left = (self._join_again_at or 0.0) - time.monotonic()
        if left > 0:
            time.sleep(min(left, seconds))
            return
        self._closer.close(self._consumer, JOIN_AGAIN_SECONDS)
        self._join_again_at = None
        self._join_anew()

    def _replace(self) -> None:
        """With a new client, at once; the old one waits for the brokers it lost."""
        old = self._consumer
        self._hand_over(self.owned | self.pending, lost=True)
        self._join_anew()
        self._closer.close(old, 0)

    def _join_anew(self) -> None:
        self._consumer = make_consumer(self._properties, self._logger)
        self.subscribe()
        # Whoever is refused hears of it at once; the client has an id of its own making before that.
        self._member_since = time.monotonic() + JOIN_AGAIN_SECONDS / 2


def _partition(message: Message) -> Partition:
    return Partition(message.topic() or "", message.partition() or 0)


def _named(partitions: Sequence[TopicPartition]) -> set[Partition]:
    return {Partition(p.topic, p.partition) for p in partitions}
