"""Whether this process is alive, ready and started.

What is known is a frozen `State`; each answer is a pure function of it and the present time. `Health` only keeps the
state between threads. Times are `time.monotonic()` seconds, passed in. `consumer.health_server` asks.

Alive means that the loop turned lately, and nothing else: a database that is away must not restart every process.
"""

import threading
from dataclasses import dataclass, replace
from typing import Any

from consumer.logs import redact

DEFAULT_TICK_LIMIT_SECONDS = 600.0
"""Twice librdkafka's default max.poll.interval.ms: by then the group has long given the partitions to others."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known about the process.

    Attributes:
        ticked_at: when the loop last turned; at first, when the process began.
        started: connections were made and the schema was found right, once.
        stopping: the process is on its way out.
        joined: a member of the group, with partitions or standing by.
        partitions: how many are owned.
        database_error: why PostgreSQL cannot be reached; None while it can.
        schema_error: why the schema is not the one this program needs; None when it is.
        kafka_error: why no broker can be asked; None while one answers, and before any was asked.
    """

    ticked_at: float
    started: bool = False
    stopping: bool = False
    joined: bool = False
    partitions: int = 0
    database_error: str | None = "not connected yet"
    schema_error: str | None = "not checked yet"
    kafka_error: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer to a probe: good, or the reasons why not, in words for people."""

    reasons: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the probe succeeds."""
        return not self.reasons


def alive(state: State, now: float, limit: float) -> Verdict:
    """Whether the loop turned within `limit` seconds before `now`. Idle or without a database it turns as well."""
    age = now - state.ticked_at
    if age <= limit:
        return Verdict(())
    return Verdict((f"the loop has not turned for {age:.0f} s; the limit is {limit:.0f} s",))


def ready(state: State) -> Verdict:
    """Whether the process does its work, or stands by in the group."""
    reasons = [*started(state).reasons]
    if state.stopping:
        reasons.append("stopping")
    if state.started and state.database_error:
        reasons.append(f"database: {state.database_error}")
    if state.started and state.schema_error:
        reasons.append(f"schema: {state.schema_error}")
    if state.started and state.kafka_error:
        reasons.append(f"kafka: {state.kafka_error}")
    if not state.joined:
        reasons.append("not a member of the consumer group")
    return Verdict(tuple(reasons))


def started(state: State) -> Verdict:
    """Whether start-up is over; while it is not, the reason is what it waits for."""
    if state.started:
        return Verdict(())
    if state.database_error:
        return Verdict((f"starting; database: {state.database_error}",))
    if state.schema_error:
        return Verdict((f"starting; schema: {state.schema_error}",))
    if state.kafka_error:
        return Verdict((f"starting; kafka: {state.kafka_error}",))
    return Verdict(("starting",))


class Health:
    """The state, shared between threads. Every method returns at once."""

    def __init__(self, now: float, tick_limit_seconds: float = DEFAULT_TICK_LIMIT_SECONDS) -> None:
        self.tick_limit_seconds = tick_limit_seconds
        self._lock = threading.Lock()
        self._state = State(ticked_at=now)

    @property
    def state(self) -> State:
        """What is known at this moment."""
        with self._lock:
            return self._state

    def _change(self, **changes: Any) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)

    def tick(self, now: float) -> None:
        """The loop turned. Call it once a turn, also while paused."""
        self._change(ticked_at=now)

    def mark_started(self) -> None:
        """Start-up is over; it stays so."""
        self._change(started=True)

    def mark_stopping(self) -> None:
        """No new work from now on: not ready, but alive until the end."""
        self._change(stopping=True)

    def joined_group(self, partitions: int) -> None:
        """The group gave this member so many partitions; 0 is standing by."""
        self._change(joined=True, partitions=partitions)

    def left_group(self) -> None:
        """The group dropped this member, or it left."""
        self._change(joined=False, partitions=0)

    def database(self, error: str | None) -> None:
        """Whether PostgreSQL can be reached: None, or a short reason."""
        self._change(database_error=error and redact(error))

    def schema(self, error: str | None) -> None:
        """Whether the schema is right: None, or a short reason."""
        self._change(schema_error=error and redact(error))

    def kafka(self, error: str | None) -> None:
        """Whether a broker answers: None, or a short reason."""
        self._change(kafka_error=error and redact(error))
