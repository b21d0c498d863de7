"""Handlers: message values in, columns of events and rejects out. Pure: no clock, no Kafka, no PostgreSQL.

A handler is chosen by topic (`KAFKA_TOPICS=reporting_events:json`). It decodes and validates each message once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consumer.rollup.batch import Events, Int64Array, Reject


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a list of n messages: each is in exactly one of `events`, `rejects` and `skipped`.

    Attributes:
        events: the valid events that feed a metric, in message order; `events.source` is all 0 here.
        index: int64[len(events)], the position of each event's message in the list, rising.
        rejects: the messages that cannot be events, by rising index.
        skipped: reason (`tombstone`, `unknown_event`) -> int64 positions of the messages skipped for it.
    """

    events: Events
    index: Int64Array
    rejects: Sequence[Reject]
    skipped: Mapping[str, Int64Array]


class Handler(Protocol):
    """Turns the values of messages into events."""

    def decode(self, values: Sequence[bytes | None], now_us: int) -> Decoded:
        """Decode and validate `values`, one message each.

        `now_us` (microseconds since the epoch) is the present for rules about the future. Never raises for any
        bytes: what cannot be an event becomes a `Reject`. Does not block.
        """
        ...
