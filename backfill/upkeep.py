"""What keeps rollups right by itself: stale days are rebuilt, days that left the open window are audited and closed.

Any number of workers on any machines share the work: each takes days that nobody else holds (FOR UPDATE SKIP LOCKED).
A day that stays stale, because raw lacks events of it, is tried again later and later.
"""

import threading
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import psycopg

from backfill.plan import ACCOUNTS_AT_ONCE, Day
from backfill.run import Runner
from backfill.statements import STATEMENTS
from backfill.verdict import Verdict
from backfill.verify import Verifier
from backfill.work import Progress
from consumer.database import is_transient
from consumer.rollup.days import day_date, is_known, local_day
from consumer.rollup.rebuild import Audit, Rebuilt, Result
from consumer.rollup.registry import REGISTRY
from consumer.rollup.statements import STATEMENTS as ROLLUP

RETRY_SECONDS = 30.0
MOST_RETRY_SECONDS = 1800.0
"""A day that stays stale is tried again after this long, and twice as long each time, up to half an hour."""


class Upkeep:
    """Rebuilds and closes days on one connection.

    Args:
        runner: the connection.
        open_days: as the consumers have it.
        progress: told of every day.
        stop: set to end after the days in hand.
        clock: monotonic seconds.
        now_us: the present, microseconds since the epoch.
    """

    def __init__(
        self,
        runner: Runner,
        open_days: int,
        progress: Progress,
        stop: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._runner = runner
        self._open_days = open_days
        self._progress = progress
        self._stop = stop
        self._clock = clock
        self._now_us = now_us
        self._again: dict[Day, tuple[float, float]] = {}  # when to try a day again, and how long we waited for that
        self._most = ACCOUNTS_AT_ONCE
        self._picked: list[Day] = []

    @property
    def postponed(self) -> dict[str, list[Any]]:
        """Days that are not to be tried yet, as parameters of the statements that pick days."""
        now = self._clock()
        days = [day for day, (when, _) in self._again.items() if when > now]
        return {"left_accounts": [account for account, _ in days], "left_dates": [day for _, day in days]}

    def forget(self) -> None:
        """Try every day again at once."""
        self._again.clear()

    def rebuild_stale(self) -> None:
        """Rebuild every stale day that has settled and is not to be tried later."""
        self._runner.execute(STATEMENTS["stale_other_timezones"], {})
        self._sweep(lambda: self._pick("oldest_stale_date", "stale_accounts", {}))

    def close(self) -> tuple[int, int]:
        """Audit and close every day that has left the open window, and prune the bitmap.

        Returns:
            Days of accounts without a time zone that were closed as they are, and rows that the bitmap lost.
        """
        self._sweep(self._pick_to_close)
        oldest_zone = day_date(local_day("Etc/GMT+12", self._now_us()))  # the last place on earth where a day ends
        last_date = {"last_date": oldest_zone - timedelta(days=self._open_days)}
        off = self._runner.execute(STATEMENTS["close_days_switched_off"], last_date)
        return off, self._runner.execute(STATEMENTS["prune_bitmap"], last_date)

    def _sweep(self, pick: Callable[[], list[Rebuilt]]) -> None:
        """Rebuild what `pick` takes until it finds nothing more."""
        self._most = ACCOUNTS_AT_ONCE
        while not self._stop.is_set():
            try:
                results = self._runner.attempt(pick)
            except psycopg.Error as error:
                if not self._picked or (is_transient(error) and not self._runner.connected):
                    raise
                if len(self._picked) > 1:  # one of them spoils the transaction for all: each on its own
                    self._most = 1
                    continue
                self._later(self._picked[0])
                self._progress.failed(self._picked[0], " ".join(str(error).split()))
                continue
            if not results:
                return
            for result in results:
                day = (result.account_id, result.date)
                if result.result in (Result.REBUILT, Result.SETTLING):
                    self._again.pop(day, None)
                else:
                    self._later(day)
                self._progress.rebuilt(result)

    def _later(self, day: Day) -> None:
        _, waited = self._again.get(day, (0.0, RETRY_SECONDS / 2))
        wait = min(MOST_RETRY_SECONDS, waited * 2)
        self._again[day] = (self._clock() + wait, wait)

    def _pick(self, date_of: str, accounts_of: str, where: dict[str, Any], audit: Audit | None = None) -> list[Rebuilt]:
        """Rebuild some days of one date, in one transaction with picking them; nothing if there are none."""
        self._picked = []
        where = {**where, **self.postponed}
        conn, rebuilder = self._runner.ready()
        with conn.transaction():
            conn.execute(ROLLUP["share_settings"])
            row = conn.execute(STATEMENTS[date_of], where).fetchone()
            if row is None:
                return []
            day: date = row[0]
            rows = conn.execute(STATEMENTS[accounts_of], {**where, "date": day, "most": self._most})
            accounts = [account for (account,) in rows]
            self._picked = [(account, day) for account in accounts]
            return rebuilder.rebuild_many(accounts, day, self._now_us(), audit=audit)

    def _pick_to_close(self) -> list[Rebuilt]:
        conn, _ = self._runner.ready()
        now_us = self._now_us()
        found = {name for _, name in conn.execute(STATEMENTS["timezones"], {"accounts": None})}
        zones = sorted(filter(is_known, found))
        last_dates = [day_date(local_day(name, now_us) - self._open_days) for name in zones]
        verifier = Verifier(conn, REGISTRY, self._open_days)
        where = {"timezones": zones, "last_dates": last_dates}

        def audit(account_id: int, day: date) -> int:
            found = verifier.look(account_id, day, now_us)
            return max(1, found.differing) if found.verdict is Verdict.DRIFT else 0

        return self._pick("oldest_date_to_close", "accounts_to_close", where, audit)
