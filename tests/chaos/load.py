"""The application under load: raw rows and messages, portion by portion, until it is told to end.

Among the messages are repeats (a little later, and much later in another partition), events of past days, unknown
events, and messages that cannot be events. Raw rows come before their messages or after them, as with applications
that publish before their own commit. It goes on while PostgreSQL or Kafka is away, and makes up for it later.
"""

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from local.events import Sample, Workload, generate, write_raw
from tests.chaos.sender import Sender
from tests.fixtures.events import ZONES

PORTION = 100
"""Events drawn, written and sent together."""
PAUSE_SECONDS = 0.12
"""Between portions, at first: about 800 messages a second."""
SLOWER_AFTER = 20
"""Portions after which the pause has doubled, and so on: a slow machine has more time, not more to do."""
AGAIN = 0.04
"""Share of messages that are sent once more, much later and to any partition."""
WITHHELD = 0.3
"""Share of portions whose raw rows come after their messages, up to `WITHHELD_PORTIONS` later."""
WITHHELD_PORTIONS = 3
END_SECONDS = 60.0
"""Until Kafka and PostgreSQL must have taken what was left at the end, once no fault holds them back."""


def drawn(chance: random.Random, events: int, first_id: int) -> Sample:
    """Events of the last 30 hours, by chance, among which everything happens."""
    return generate(
        Workload(
            end_us=time.time_ns() // 1000,
            seed=chance.randrange(2**32),
            events=events,
            accounts=12,
            agents=4,
            inboxes=3,
            zones=ZONES,
            first_id=first_id,
            duplicates=0.05,
            late=0.03,
            bad=0.02,
            unknown=0.02,
        )
    )


class Load:
    """A thread that writes and sends.

    Args:
        chance: its own, drawn from by nobody else.
        bootstrap, topic, partitions: where messages go; `partitions` are those that repeats are sent to.
        url: the database of the raw events.
        raw_first: whether every raw row comes before its message.

    Attributes:
        bad: the values sent that cannot be events.
        portions: what was drawn so far.
    """

    def __init__(
        self, chance: random.Random, bootstrap: str, topic: str, partitions: int, url: str, *, raw_first: bool = False
    ) -> None:
        self._chance = chance
        self._partitions = partitions
        self._url = url
        self._raw_first = raw_first
        self._sender = Sender(bootstrap, topic)
        self._ending = threading.Event()
        self._closing = threading.Event()
        self._resting = threading.Event()
        self._at_work = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="load")
        self._error: BaseException | None = None
        self._owed: list[tuple[int, Sample]] = []  # the portion before which raw rows are due, and whose they are
        self._sent: list[tuple[bytes, bytes]] = []
        self._conn: psycopg.Connection[Any] | None = None
        self.portions: list[Sample] = []
        self.bad: set[bytes] = set()

    def draw(self, events: int = PORTION) -> Sample:
        """The next events; nobody has written or sent them yet. While it runs, let it rest before."""
        sample = drawn(self._chance, events, 1 + sum(map(len, self.portions)))
        self.portions.append(sample)
        return sample

    def messages(self, sample: Sample) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of a portion's messages; notes those that cannot be events."""
        for message, fault in zip(sample.messages(), sample.fault.tolist(), strict=True):
            if fault >= 0:
                self.bad.add(message[1])
            yield message

    def send(self, sample: Sample) -> None:
        """Send a portion's messages, and some of earlier ones again."""
        for key, value in self.messages(sample):
            self._sender.send(key, value)
            if self._chance.random() < AGAIN:
                self._sent.append((key, value))
            if self._sent and self._chance.random() < AGAIN:
                key, value = self._sent.pop(self._chance.randrange(len(self._sent)))  # noqa: PLW2901
                self._sender.send(key, value, self._chance.randrange(self._partitions))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def rest(self) -> None:
        """Send nothing until `go_on`; what is being sent arrives first, and so do raw rows that were to come later."""
        self._resting.set()
        with self._at_work:
            self._flush()
            self._pay(None)

    def go_on(self) -> None:
        """Send again."""
        self._resting.clear()

    def end(self) -> None:
        """Stop, and wait until Kafka has every message and PostgreSQL every raw row, also those it has forgotten."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(END_SECONDS)
        if self._error is not None:
            raise self._error
        self._flush()
        assert self._sender.refused == []
        deadline = time.monotonic() + END_SECONDS
        self._owed = [(0, sample) for sample in self.portions]
        while not self._pay(None):
            assert time.monotonic() < deadline, "PostgreSQL does not take the application's raw rows"
            time.sleep(0.05)
        self.close()

    def close(self) -> None:
        """Leave everything as it is."""
        self._closing.set()
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(END_SECONDS)
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _run(self) -> None:
        try:
            while not self._ending.wait(PAUSE_SECONDS * (1 + len(self.portions) / SLOWER_AFTER)):
                with self._at_work:
                    if not self._resting.is_set():
                        self._turn()
                    self._pay(len(self.portions))
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it again
            self._error = error

    def _turn(self) -> None:
        sample = self.draw()
        withheld = not self._raw_first and self._chance.random() < WITHHELD
        later = self._chance.randint(1, WITHHELD_PORTIONS)
        self._owed.append((len(self.portions) + later if withheld else 0, sample))
        while not self._pay(len(self.portions)) and self._raw_first:
            if self._closing.wait(0.05):
                return
        self.send(sample)

    def _flush(self) -> None:
        assert self._sender.flush(END_SECONDS), "Kafka does not take the application's messages"

    def _pay(self, portion: int | None) -> bool:
        """Write the raw rows that are due before a portion (None: all); False if PostgreSQL is away."""
        while due := next((owed for owed in self._owed if portion is None or owed[0] <= portion), None):
            try:
                self._write(due[1])
            except psycopg.Error:
                if self._conn is not None:
                    self._conn.close()
                self._conn = None
                return False
            self._owed.remove(due)
        return True

    def _write(self, sample: Sample) -> None:
        """Raw rows, unless they are there: whether a lost COMMIT happened is not known before."""
        if self._conn is None:
            # It knows what is written once COMMIT was answered, even if the server crashes then.
            waiting = "-c synchronous_commit=on"
            self._conn = psycopg.connect(self._url, autocommit=True, connect_timeout=2, options=waiting)
        first = sample.workload.first_id
        with self._conn.transaction():
            found = self._conn.execute("SELECT EXISTS (SELECT FROM reporting_events WHERE id = %s)", (first,))
            if found.fetchone() == (False,):
                write_raw(self._conn, sample)
