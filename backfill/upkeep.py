"""What keeps rollups right by itself: stale days are rebuilt, days that left the open window are audited and closed.

Any number of workers on any machines share the work: each takes days that nobody else holds (FOR UPDATE SKIP LOCKED).
A sweep tries each day once: first those that never failed, then those that stayed stale before and are due again.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from itertools import chain
from typing import Any

import psycopg

from backfill.due import Later, days_to_close, days_to_rebuild, together
from backfill.plan import Day, Unit
from backfill.run import Runner
from backfill.statements import STATEMENTS
from backfill.verdict import Verdict
from backfill.verify import Verifier
from backfill.work import Progress
from consumer.access import refused_by_database
from consumer.database import is_transient, one_line
from consumer.rollup.days import day_date, is_known, local_day
from consumer.rollup.rebuild import Audit, Rebuilt, Result
from consumer.rollup.registry import REGISTRY
from consumer.rollup.statements import STATEMENTS as ROLLUP

OTHER_ZONES_SECONDS = 600.0
"""How often days of another zone than their account's are looked for: that reads every day there is, and finds only
what got past the trigger on account_settings."""


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
        self._later = Later()
        self._other_zones_at: float | None = None
        self._picked: list[int] = []
        self.behind = False
        """Whether the last sweep ended for want of time, so that the next one has something to do at once."""

    def forget(self) -> None:
        """Try every day again at once."""
        self._later.clear()

    def rebuild_stale(self, most_seconds: float | None = None) -> None:
        """Rebuild every stale day that has settled and is not to be tried later, each once.

        Args:
            most_seconds: begin nothing more after so long; None goes on to the end.
        """
        now = self._clock()
        if self._other_zones_at is None or now - self._other_zones_at >= OTHER_ZONES_SECONDS:
            self._runner.execute(STATEMENTS["stale_other_timezones"], {})
            self._other_zones_at = now
        self._sweep(days_to_rebuild(self._runner.fetch), self._pick_to_rebuild, most_seconds)

    def passed_over(self) -> Iterator[Day]:
        """Stale days that the last sweep did not try: somebody held them, for an instant or for longer."""
        return (day for day in days_to_rebuild(self._runner.fetch) if day not in self._later)

    def close(self, most_seconds: float | None = None) -> tuple[int, int]:
        """Audit and close every day that has left the open window, each tried once, and prune the bitmap.

        Args:
            most_seconds: audit nothing more after so long; None goes on to the end.

        Returns:
            Days of accounts without a time zone that were closed as they are, and rows that the bitmap lost.
        """
        last_dates = self._last_dates()

        def pick(unit: Unit) -> list[Rebuilt]:
            return self._pick_to_close(unit, last_dates)

        self._sweep(days_to_close(self._runner.fetch, last_dates), pick, most_seconds)
        oldest_zone = day_date(local_day("Etc/GMT+12", self._now_us()))  # the last place on earth where a day ends
        last_date = {"last_date": oldest_zone - timedelta(days=self._open_days)}
        off = self._runner.execute(STATEMENTS["close_days_switched_off"], last_date)
        return off, self._runner.execute(STATEMENTS["prune_bitmap"], last_date)

    def _sweep(
        self, days: Iterator[Day], pick: Callable[[Unit], list[Rebuilt]], most_seconds: float | None = None
    ) -> None:
        """Try each of `days` once, by what `pick` does to those of a unit that nobody holds."""
        began, self.behind = self._clock(), False
        self._later.forgive(self._runner.fetch)
        failed_before = self._later.days()
        never_failed = (day for day in days if day not in self._later)
        # Asked for when the others have been tried: some fall due meanwhile.
        due_again = (day for _ in (1,) for day in self._later.due(self._clock()) if day in failed_before)
        for unit in chain(together(never_failed), together(due_again)):
            self.behind = most_seconds is not None and self._clock() - began >= most_seconds
            if self._stop.is_set() or self.behind:
                return
            self._try(unit, pick)

    def _try(self, unit: Unit, pick: Callable[[Unit], list[Rebuilt]]) -> None:
        self._picked = []
        try:
            results = self._runner.attempt(lambda: pick(unit))
        except psycopg.Error as error:
            if self._stop.is_set() and is_transient(error):
                return
            lost = is_transient(error) and not self._runner.connected
            if not self._picked or lost or refused_by_database(error):
                raise
            if len(self._picked) > 1:  # one of them spoils the transaction for all: each on its own
                for account in self._picked:
                    self._try(Unit(unit.date, (account,)), pick)
                return
            day = (self._picked[0], unit.date)
            self._later.put_off(day, self._clock())
            self._progress.failed(day, one_line(error))
            return
        for result in results:
            day = (result.account_id, result.date)
            if result.result in (Result.REBUILT, Result.SETTLING):
                self._later.done(day)
            else:
                self._later.put_off(day, self._clock())
            self._progress.rebuilt(result)

    def _pick_to_rebuild(self, unit: Unit) -> list[Rebuilt]:
        return self._pick(unit, "accounts_to_rebuild", {}, None)

    def _pick_to_close(self, unit: Unit, last_dates: Mapping[str, date]) -> list[Rebuilt]:
        conn, _ = self._runner.ready()
        now_us = self._now_us()
        verifier = Verifier(conn, REGISTRY, self._open_days)
        where = {"timezones": list(last_dates), "last_dates": list(last_dates.values())}

        def audit(account_id: int, day: date) -> int:
            found = verifier.look(account_id, day, now_us)
            return max(1, found.differing) if found.verdict is Verdict.DRIFT else 0

        return self._pick(unit, "accounts_to_close", where, audit)

    def _pick(self, unit: Unit, accounts_of: str, where: Mapping[str, Any], audit: Audit | None) -> list[Rebuilt]:
        """Rebuild the days of a unit that nobody holds and that still need it, in one transaction with picking them."""
        conn, rebuilder = self._runner.ready()
        with conn.transaction():
            conn.execute(ROLLUP["share_settings"])
            asked = {**where, "date": unit.date, "accounts": list(unit.accounts)}
            self._picked = [account for (account,) in conn.execute(STATEMENTS[accounts_of], asked)]
            if not self._picked:
                return []
            return rebuilder.rebuild_many(self._picked, unit.date, self._now_us(), audit=audit)

    def _last_dates(self) -> dict[str, date]:
        """The newest date that has left the open window, by the time zones in use."""
        now_us = self._now_us()
        found = {name for _, name in self._runner.fetch(STATEMENTS["timezones"], {"accounts": None})}
        return {name: day_date(local_day(name, now_us) - self._open_days) for name in sorted(filter(is_known, found))}
