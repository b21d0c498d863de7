"""Handlers: message values in, columns of events and rejects out. Pure: no clock, no Kafka, no PostgreSQL.

A handler is chosen by topic (`KAFKA_TOPICS=reporting_events:json`). It decodes and validates each message once.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consumer.errors import ConfigurationError
from consumer.rollup.batch import Events, Int64Array, Reject
from consumer.rollup.registry import Registry


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


def _json(registry: Registry) -> Handler:
    from consumer.handlers.json_events import JsonEvents  # noqa: PLC0415 - it implements the contract above

    return JsonEvents(registry)


_HANDLERS: Mapping[str, Callable[[Registry], Handler]] = {"json": _json}

HANDLER_NAMES = tuple(_HANDLERS)
"""What the messages of a topic can be; the first is the default."""


def handler_for(name: str, registry: Registry) -> Handler:
    """The handler that `KAFKA_TOPICS` calls `name`; raises ConfigurationError that names the known ones."""
    if name in _HANDLERS:
        return _HANDLERS[name](registry)
    near = difflib.get_close_matches(name.lower(), _HANDLERS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigurationError(f"KAFKA_TOPICS: no handler {name!r}; there are: {', '.join(_HANDLERS)}{hint}")
