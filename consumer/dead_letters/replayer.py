"""Replays many letters: in portions, each one transaction, each tried again while that can help."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import psycopg

from consumer.database import is_usable
from consumer.dead_letters.letters import Picked, portions_to_replay
from consumer.dead_letters.replay import DONE, Outcome, Replayed, replay
from consumer.dead_letters.selection import Filters
from consumer.dead_letters.session import LockedOut, Session
from consumer.errors import SettingsChanged
from consumer.handlers import Handler
from consumer.rollup.accounts import AccountZones
from consumer.rollup.registry import Registry
from consumer.rollup.store import Rules, account_zones


class Replayer:
    """Replays letters on a session.

    Args:
        session: the connection.
        handlers: by topic.
        registry, open_days: what to count by; `open_days` as the consumers have it.
        dry_run: tell what would become of them, and write nothing.
        now_us: the present, microseconds since the epoch.
    """

    def __init__(
        self,
        session: Session,
        handlers: Mapping[str, Handler],
        registry: Registry,
        open_days: int,
        *,
        dry_run: bool = False,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._session = session
        self._handlers = handlers
        self._registry = registry
        self._open_days = open_days
        self._dry_run = dry_run
        self._now_us = now_us
        self._accounts: AccountZones | None = None
        self._would_count: set[int] = set()

    def run(self, filters: Filters) -> Iterator[Replayed]:
        """Replay the letters asked for that were there when this began, and tell of each once its transaction is
        through. Ids that nobody has come last.

        Raises:
            SchemaError, DatabaseAway: nothing more was done.
        """
        seen: set[int] = set()
        for picked in self._session.pages(filters):
            seen.update(letter.id for letter in picked)
            for portion in portions_to_replay(picked):
                yield from self._portion(portion)
        for letter in filters.ids or ():
            if letter not in seen:
                yield Replayed(letter, None, None, None, Outcome.UNKNOWN, "there is no such letter")

    def _portion(self, portion: Sequence[Picked]) -> list[Replayed]:
        """One transaction for letters of one group and topic."""
        group_id, topic = portion[0].group_id, portion[0].topic
        ids = [letter.id for letter in portion]
        handler = self._handlers.get(topic)
        if handler is None:
            detail = f"name its topic and what its messages are: KAFKA_TOPICS={topic}:json"
            return [_not_tried(letter, Outcome.NO_HANDLER, detail) for letter in portion]
        rules = Rules(group_id, self._registry, self._open_days)
        lost = False

        def action(conn: psycopg.Connection) -> list[Replayed]:
            nonlocal lost
            try:
                return self._replay(conn, topic, ids, handler, rules)
            except psycopg.Error:
                lost |= not is_usable(conn)
                raise

        try:
            results = self._session.attempt(action)
        except LockedOut as error:
            return [_not_tried(letter, Outcome.BUSY, str(error)) for letter in portion]
        if lost:  # perhaps at our own COMMIT: its answer is what the letters say
            results = [_as_marked(letter) for letter in results]
        return [self._told_once(letter) for letter in results] if self._dry_run else results

    def _replay(
        self, conn: psycopg.Connection, topic: str, ids: Sequence[int], handler: Handler, rules: Rules
    ) -> list[Replayed]:
        while True:
            accounts = self._accounts = self._accounts or account_zones(conn)
            try:
                return replay(conn, topic, ids, handler, accounts, rules, self._now_us(), dry_run=self._dry_run)
            except SettingsChanged:
                self._accounts = None

    def _told_once(self, letter: Replayed) -> Replayed:
        """In a dry run nothing is left of the portion before: an event that it would have counted is a duplicate."""
        if letter.outcome is not Outcome.COUNTED or letter.event_id is None:
            return letter
        if letter.event_id in self._would_count:
            return replace(letter, outcome=Outcome.DUPLICATE, detail="a letter before it has the same event")
        self._would_count.add(letter.event_id)
        return letter


def _not_tried(letter: Picked, outcome: Outcome, detail: str) -> Replayed:
    return Replayed(letter.id, letter.topic, letter.partition, letter.offset, outcome, detail)


def _as_marked(letter: Replayed) -> Replayed:
    if letter.outcome is Outcome.ALREADY and letter.detail in DONE:
        return replace(letter, outcome=Outcome(letter.detail), detail="")
    return letter
