"""A world to break: a topic and a database under load, a group of consumers, and what must hold in the end.

    world.begin()                    accounts, a first load, and until `settle` more of it, rebuilds, changes of zone
    consumer = world.start()         a member of the group
    ...                              whatever the scenario does to it
    world.settle()                   load and faults end; everything must come right, exactly

`settle` holds the promise to account, by the plain model and by what a plain client reads from the topic:

    1. offsets reach the topic's ends, and nothing ended but what the scenario ended
    2. `python -m backfill --stale` leaves no day stale
    3. the rollup is the plain model's, row by row; no event is held back
    4. every message has exactly one outcome, and each bad one is a dead letter, once
    5. `python -m backfill verify` agrees
    6. SIGTERM ends every consumer in time, with exit code 0
"""

import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

from tests.chaos.load import Load
from tests.chaos.reckoning import hold_to_account
from tests.chaos.topic import Position, Topic
from tests.chaos.unrest import Unrest
from tests.fixtures.events import prepare, read_messages, stored_offsets
from tests.fixtures.processes import Consumer, RunProgram, StartConsumer, wait_for

Connection = psycopg.Connection[Any]

FIRST_EVENTS = 1_500
"""Sent before the first consumer starts, so that there is lag from the beginning."""
SMALL = {"BATCH_MAX_EVENTS": 60, "FETCH_MAX_EVENTS": 30}
"""Transactions so small that a second of load is dozens of them."""
SETTLE_SECONDS = 60.0
"""Deadline of every wait once the faults have ended."""
SESSIONS = """
    SELECT concat_ws(
        ', ', pid, application_name, state, wait_event_type, wait_event, 'blocked by ' || pg_blocking_pids(pid)::text,
        'xid ' || backend_xid::text, 'statement of ' || (clock_timestamp() - query_start), left(query, 60)
    )
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
"""What a wait that fails tells about the database."""


class World:
    """One scenario's topic, database, load and consumers; see the head of this file.

    Args:
        chance: of the scenario.
        variables: settings of its consumers: DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS, KAFKA_GROUP_ID and so on.
        topic: its name; None to make one on that broker.
        partitions: how many the topic has, or gets.
        start_consumer, run_program: of the test.
        raw_first: whether the application writes every raw row before its message. If so, accounts' time zones change
            in the middle of everything: whoever changes one may not write rows of older messages later than it settles.

    Attributes:
        chance, topic, load, unrest: as they say.
        url, bootstrap, group: of the database, the broker and the consumers.
        consumers: those that were started and not ended by the scenario.
        gone: messages that the scenario has deleted.
        lost: positions of messages that nobody can have read, since the scenario deleted them unread.
        ids_are_whole: whether every id that a consumer counted is still marked, and in the balance.
        read_again: how many messages the scenario made consumers read, and account for, once more.
    """

    def __init__(
        self,
        chance: random.Random,
        variables: dict[str, str],
        topic: str | None,
        partitions: int,
        start_consumer: StartConsumer,
        run_program: RunProgram,
        *,
        raw_first: bool = False,
    ) -> None:
        self.chance = chance
        self.url = variables["DATABASE_URL"]
        self.bootstrap = variables["KAFKA_BOOTSTRAP_SERVERS"]
        self.group = variables["KAFKA_GROUP_ID"]
        self.partitions = partitions
        self.topic = Topic(self.bootstrap, topic or f"chaos_{uuid.uuid4().hex[:12]}")
        if topic is None:
            self.topic.make(partitions)
        load_chance = random.Random(chance.randrange(2**64))
        self.load = Load(load_chance, self.bootstrap, self.topic.name, partitions, self.url, raw_first=raw_first)
        self.unrest = Unrest(random.Random(chance.randrange(2**64)), self.url, zones=raw_first)
        self.consumers: list[Consumer] = []
        self.lost: set[Position] = set()
        self.ids_are_whole = True
        self.read_again = 0
        self._frozen: list[Consumer] = []
        self.gone: dict[Position, bytes | None] = {}
        self._start_consumer = start_consumer
        self._run_program = run_program
        self._conn: Connection | None = None

    # -- before

    def begin(self, *, unrest: bool = True) -> None:
        """Switch the accounts on, as if long ago, send a first load, and go on sending until `settle`; and rebuilding,
        and changing time zones, unless the scenario leaves it out."""
        first = self.load.draw(FIRST_EVENTS)
        prepare(self.conn, first)
        self.load.send(first)
        self.load.start()
        if unrest:
            self.unrest.start()

    def rest(self) -> None:
        """No load and no unrest until `go_on`; what was sent has arrived, and changes of time zone have settled."""
        self.load.rest()
        self.unrest.rest()
        self.until_settled()

    def go_on(self) -> None:
        """Load and unrest again."""
        self.load.go_on()
        self.unrest.go_on()

    @property
    def conn(self) -> Connection:
        """A connection to the database, in autocommit; made again if it broke."""
        if self._conn is None or self._conn.closed:
            self._conn = psycopg.connect(self.url, autocommit=True)
        return self._conn

    def close(self) -> None:
        """Stop the load and let go of the database. The consumers are the fixtures' to end."""
        self.load.close()
        self.unrest.close()
        if self._conn is not None:
            self._conn.close()

    # -- the consumers

    def start(self, **variables: str | int) -> Consumer:
        """Start a member of the group; settings go over the scenario's and `SMALL`."""
        ours = {"DATABASE_URL": self.url, "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap}
        self.consumers.append(self._start_consumer(self.topic.name, **{**ours, **SMALL, **variables}))
        return self.consumers[-1]

    def run(self, module: str, *words: str, **variables: str | int) -> tuple[int, str, str]:
        """Run a program to its end: exit code, standard output and standard error."""
        ours: dict[str, str | int] = {"DATABASE_URL": self.url, "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap}
        return self._run_program(module, *words, **{**ours, **variables})

    def kill(self, consumer: Consumer) -> None:
        """SIGKILL."""
        consumer.kill()
        self.forget(consumer)

    def terminate(self, consumer: Consumer) -> None:
        """SIGTERM; it must end in time, with 0."""
        assert consumer.terminate() == 0, consumer.tail()
        self.forget(consumer)

    def freeze(self, consumer: Consumer) -> None:
        """SIGSTOP."""
        consumer.freeze()
        self._frozen.append(consumer)

    def thaw(self, consumer: Consumer) -> None:
        """SIGCONT."""
        consumer.send(signal.SIGCONT)
        self._frozen.remove(consumer)

    def forget(self, consumer: Consumer) -> None:
        """It has ended, or may end, as the scenario wants it."""
        self.consumers.remove(consumer)
        if consumer in self._frozen:
            self._frozen.remove(consumer)

    def awake(self) -> list[Consumer]:
        """The consumers that run and are not frozen."""
        return [consumer for consumer in self.consumers if consumer not in self._frozen]

    # -- waiting

    def wait(self, seconds: float) -> None:
        """Let time pass: load goes on, and faults do their work. Not for a condition: see `until`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check_alive()
            time.sleep(min(0.05, left))

    def until(self, condition: Callable[[], object], what: str, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until something holds, while no consumer ends that nobody ended."""
        try:
            wait_for(lambda: bool(condition()), what, *self.consumers, seconds=seconds)
        except AssertionError as failure:
            failure.add_note(self._sessions())
            raise

    def _sessions(self) -> str:
        """Who does, and waits for, what in the database."""
        try:
            found = self.conn.execute(SESSIONS).fetchall()
        except psycopg.Error as error:
            return f"the sessions of the database cannot be had: {error}"
        return "\n".join(["sessions of the database:", *(str(row[0]) for row in found)])

    def until_settled(self) -> None:
        """Wait until no day is settling any more."""
        self.until(lambda: self.count("rollup_days WHERE settles_at > now()") == 0, "days that have settled")

    def until_read(self, messages: int) -> None:
        """Wait until so many more messages have an outcome."""
        enough = self.read() + messages
        self.until(lambda: self.read() >= enough, f"{enough} messages")

    def read(self) -> int:
        """How many messages have an outcome."""
        return read_messages(self.conn)

    def count(self, what: str) -> int:
        """How many rows: `what` is a table, with a condition if need be."""
        row = self.conn.execute(f"SELECT count(*) FROM {what}").fetchone()
        return int(row[0]) if row else 0

    def check_alive(self) -> None:
        """Raises AssertionError if a consumer has ended that nobody ended."""
        for consumer in self.consumers:
            assert consumer.code is None, f"a consumer ended with {consumer.code}:\n{consumer.tail()}"

    # -- what happens to the topic

    def remember(self) -> dict[Position, bytes | None]:
        """The topic's messages, which the scenario is about to delete; let everything `rest` before."""
        found = self.topic.messages()
        self.gone |= found
        return found

    def offsets(self) -> dict[int, int]:
        """The stored offsets."""
        return stored_offsets(self.conn, self.topic.name)

    def until_everything_is_read(self) -> None:
        """Wait until stored offsets are behind the last message of every partition; let everything `rest` before."""
        last: Counter[int] = Counter()
        for _, partition, offset in self.topic.messages():
            last[partition] = max(last[partition], offset + 1)

        def all_read() -> bool:
            stored = self.offsets()
            return all(stored.get(partition, 0) >= offset for partition, offset in last.items())

        self.until(all_read, f"offsets {dict(last)}")

    def rebuild_all_days(self) -> None:
        """What docs/operations.md says to do when messages are gone for good: rebuild every day from its raw events."""
        self.conn.execute("UPDATE rollup_days SET stale_since = coalesce(stale_since, now())")
        first, last = self.dates()
        code, out, err = self.run("backfill", "--all-accounts", "--date", f"{first}..{last}", "--quiet")
        assert code == 0, out + err

    def dates(self) -> tuple[date, date]:
        """The first and the last local date that an event can lie on."""
        today = datetime.now(UTC).date()
        return today - timedelta(days=12), today + timedelta(days=1)

    # -- after

    def settle(self, **variables: str | int) -> None:
        """End the load, let everything come to rest, and hold it to account. `variables`: for a consumer that is
        started if there is none left."""
        self.check_alive()
        for consumer in list(self._frozen):
            self.thaw(consumer)
        self.unrest.end()
        self.load.end()
        if not self.consumers:
            self.start(**variables)
        hold_to_account(self)
        for consumer in list(self.consumers):
            self.terminate(consumer)
