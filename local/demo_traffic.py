"""How the demo's messages arrive, and how it watches them being counted."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import psycopg

from local.demo_screen import Advance
from local.demo_stage import ConsumerProcess
from local.processes import LocalError

EVENTS_PER_SECOND = 40_000
"""So that there is something to see; two consumers keep up with it on two cores."""
PATIENCE_SECONDS = 60.0

Connection = psycopg.Connection[Any]


def paced(
    messages: Iterator[tuple[bytes, bytes]], hold_at: int, killed: threading.Event, ended: threading.Event
) -> Iterator[tuple[bytes, bytes]]:
    """The messages at `EVENTS_PER_SECOND`. Those after `hold_at` wait for the kill, so that it comes in between."""
    began, held = time.monotonic(), 0.0
    for at, message in enumerate(messages):
        if at == hold_at:
            wait = time.monotonic()
            killed.wait()
            held = time.monotonic() - wait
        if at % 1000 == 0:
            ended.wait(max(0.0, began + held + at / EVENTS_PER_SECOND - time.monotonic()))
        if ended.is_set():
            return
        yield message


def follow(
    conn: Connection, advance: Advance, until: int, members: list[ConsumerProcess], sending: Future[int]
) -> None:
    """Watch the stored offsets until so many messages are through."""
    deadline, before = time.monotonic() + PATIENCE_SECONDS, -1
    while True:
        row = conn.execute("SELECT coalesce(sum(messages), 0)::bigint FROM consumer_offsets").fetchone()
        done = int(row[0]) if row else 0
        advance(done)
        if done >= until:
            return
        for member in members:
            member.check()
        if sending.done():
            sending.result()  # raises if a message could not be sent
        if done > before:
            deadline, before = time.monotonic() + PATIENCE_SECONDS, done
        elif time.monotonic() > deadline:
            raise LocalError(f"no message was counted for {PATIENCE_SECONDS:.0f} s; {done:,} of {until:,} are")
        time.sleep(0.05)
