"""What operators and applications do in the midst of every scenario: rebuild days, and change accounts' time zones.

It has no faults of its own. What it attempts may fail as long as the scenario's fault lasts, like everybody's attempts.
"""

import random
import threading
from datetime import UTC, datetime, timedelta

import psycopg

from backfill.run import Runner
from consumer.database import is_transient
from consumer.rollup.rebuild import Result
from consumer.settings import DatabaseSettings

ACCOUNTS = range(1, 13)
"""Those of the load."""
CHANGED_ZONES = (
    "Pacific/Kiritimati",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Pago_Pago",
)
"""Other ones than accounts begin with: as far apart as zones can be, and with odd offsets."""
SETTLE_SECONDS = 1
"""The application writes raw rows before their messages, where time zones change: there is nothing to wait for."""
PATIENCE_SECONDS = 3
"""Longest statement."""
PAUSES = (0.2, 1.5)
CHANGES = 0.25
"""Share of changes of time zone among the deeds, where there are any."""


def change_zone(conn: psycopg.Connection, chance: random.Random) -> None:
    """Give an account, or some at once, another time zone."""
    conn.execute(
        "UPDATE account_settings SET reporting_timezone = %s WHERE account_id = ANY(%s)",
        (chance.choice(CHANGED_ZONES), chance.sample(ACCOUNTS, chance.choice([1, 3]))),
    )


class Unrest:
    """A thread that rebuilds days of the last week, open and closed ones, and changes time zones.

    Args:
        chance: its own, drawn from by nobody else.
        url: the database.
        zones: whether it changes time zones.

    Attributes:
        zones: as it says; until it starts.
    """

    def __init__(self, chance: random.Random, url: str, *, zones: bool) -> None:
        self._chance = chance
        self._url = url
        self.zones = zones
        self._ending = threading.Event()
        self._resting = threading.Event()
        self._at_work = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="unrest")
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        if self.zones:
            with psycopg.connect(self._url, autocommit=True) as conn:
                conn.execute("UPDATE rollup_control SET settle_seconds = %s", (SETTLE_SECONDS,))
        self._thread.start()

    def rest(self) -> None:
        """Do nothing until `go_on`; what is being done ends first."""
        self._resting.set()
        with self._at_work:
            pass

    def go_on(self) -> None:
        """Rebuild and change again."""
        self._resting.clear()

    def end(self) -> None:
        """Stop. Raises what went wrong that no fault explains."""
        self.close()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        settings = DatabaseSettings(database_url=self._url, db_statement_timeout_seconds=PATIENCE_SECONDS)
        try:
            with Runner(settings, self._ending) as runner:
                while not self._ending.wait(self._chance.uniform(*PAUSES)):
                    with self._at_work:
                        if not self._resting.is_set():
                            self._attempt(runner)
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it again
            self._error = error

    def _attempt(self, runner: Runner) -> None:
        try:
            if self.zones and self._chance.random() < CHANGES:
                with psycopg.connect(self._url, autocommit=True, connect_timeout=2) as conn:
                    conn.execute(f"SET statement_timeout = '{PATIENCE_SECONDS}s'".encode())
                    change_zone(conn, self._chance)
            else:
                self._rebuild(runner)
        except psycopg.Error as error:
            if not is_transient(error):
                raise

    def _rebuild(self, runner: Runner) -> None:
        accounts = sorted(self._chance.sample(ACCOUNTS, self._chance.randint(1, len(ACCOUNTS))))
        day = datetime.now(UTC).date() + timedelta(days=self._chance.choice([-7, -4, -3, -2, -1, -1, 0, 0, 0, 1]))
        results = {each.result for each in runner.rebuild(accounts, day)}
        assert results <= {Result.REBUILT, Result.SETTLING, Result.MISSING, Result.LATE}, f"{day}: {results}"
