"""The rebuild: days of one date recomputed from their raw events, in one transaction, while consumers go on.

1. share the settings lock
2. lock the days, sorted; live batches with events of these days wait from here, others do not
3. read the raw events once: all that follows comes from that snapshot, so no row can slip in between what is added up
   and what is claimed. Of days that are counted live they go into a temporary table
4. where ids were counted that raw does not have, replace nothing: the day stays stale
5. replace the days' rows and members, leaving those that are right alone; closed days, which need no members, in the
   statement of 3
6. of days that are counted live, claim the raw ids
7. drop the late events that raw has by now, or note them on the day they lie on; the days' new state; commit
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import numpy as np
import psycopg

from consumer.rollup.bitmap import REBUILD_SHARD, already_counted, claim
from consumer.rollup.days import day_number, is_known, local_day, validate_timezone
from consumer.rollup.late_events import Arrived, arrived, drop, forget, move
from consumer.rollup.raw_stage import RawStage, RebuildError
from consumer.rollup.registry import Registry
from consumer.rollup.statements import STATEMENTS

Audit = Callable[[int, date], int]
"""Called with an account id and its local date while that day is locked and untouched; says how many of its rows are
wrong."""


class Result(StrEnum):
    """How a rebuild ended."""

    REBUILT = "rebuilt"
    SETTLING = "settling"
    """Rebuilt, and to be rebuilt again once the account's change of time zone has settled."""
    MISSING = "missing"
    """Nothing was replaced: events that were counted are not in raw."""
    LATE = "late"
    """Rebuilt, but late events of the day are not in raw yet; it stays stale."""
    NO_TIMEZONE = "no timezone"
    """Nothing was done: without a time zone the account's days have no bounds."""
    UNKNOWN_TIMEZONE = "unknown timezone"
    """Nothing was done: the account's time zone is not in this program's tzdata, which is older than the schema's."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild found and did.

    Attributes:
        account_id, date, timezone: the day.
        result: how it ended.
        events: valid raw events of the day.
        invalid: raw events left out because a message could not have them either.
        missing: counted events that raw does not have.
        changed: rollup rows written or removed.
        closing: whether this closed the day.
        drift: rows that its audit found wrong; 0 without one.
    """

    account_id: int
    date: date
    timezone: str | None
    result: Result
    events: int = 0
    invalid: int = 0
    missing: int = 0
    changed: int = 0
    closing: bool = False
    drift: int = 0


@dataclass(slots=True)
class _Day:
    """A day that is being rebuilt."""

    account_id: int
    timezone: str
    in_window: bool
    known: bool
    """Whether what is counted of it is known: it is of the account's time zone, and has a number of events."""
    closed: bool
    counted: int
    settled: bool
    closing: bool = False
    """Whether this rebuild closes it."""
    events: int = 0
    invalid: int = 0
    missing: int = 0
    drift: int = 0

    @property
    def shut(self) -> bool:
        """Whether it is not counted live. A day of which nothing is known begins anew."""
        return self.closed if self.known else not self.in_window


class Rebuilder:
    """Rebuilds days on one connection.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        registry: what to count by.
        open_days: as the consumers have it.

    Raises:
        RebuildError: there is no table of raw events.
    """

    def __init__(self, conn: psycopg.Connection, registry: Registry, open_days: int) -> None:
        self._conn = conn
        self._registry = registry
        self._open_days = open_days
        self._stage = RawStage(conn, registry)

    def rebuild(self, account_id: int, day: date, now_us: int, *, force: bool = False) -> Rebuilt:
        """Rebuild one day, as `rebuild_many` does; raises RebuildError if the account has no time zone."""
        (rebuilt,) = self.rebuild_many([account_id], day, now_us, force=force)
        if rebuilt.result is Result.UNKNOWN_TIMEZONE:
            validate_timezone(rebuilt.timezone or "")
        if rebuilt.result is Result.NO_TIMEZONE:
            raise RebuildError(
                f"account {account_id} has no reporting_timezone, so its days have no bounds: set one in "
                "account_settings, for example Europe/Paris"
            )
        return rebuilt

    def rebuild_many(
        self, accounts: Sequence[int], day: date, now_us: int, *, force: bool = False, audit: Audit | None = None
    ) -> list[Rebuilt]:
        """Rebuild a local date of several accounts. Blocks while live batches or other rebuilds hold one of the days.

        Args:
            accounts: any, each once.
            day: the date.
            now_us: the present, microseconds since the epoch; decides whether a day never seen is open.
            force: take raw as the truth even if it lacks events that were counted, or that came late.
            audit: close the days that have left the open window, after they were compared by this.

        Returns:
            What became of each account's day, in the order of `accounts`.

        Raises:
            psycopg.Error: the database refused or is away; nothing was changed.
        """
        with self._conn.transaction():
            self._conn.execute(STATEMENTS["begin_rebuild"])  # 1
            parameters = {"accounts": list(accounts)}
            timezones: dict[int, str] = dict(self._conn.execute(STATEMENTS["timezones_of"], parameters).fetchall())
            unknown = {account: name for account, name in timezones.items() if not is_known(name)}
            timezones = {a: n for a, n in timezones.items() if a not in unknown}
            oldest = {name: local_day(name, now_us) - self._open_days + 1 for name in set(timezones.values())}
            days = self._lock(timezones, day, oldest)  # 2
            for it in days:
                if audit and it.known and it.settled and not it.closed and not it.in_window:
                    it.closing, it.drift = True, audit(it.account_id, day)
            late_events = arrived(self._conn, timezones, day)
            changed = self._replace_shut([d for d in days if d.shut], day, force=force)  # 3, 4, 5
            changed |= self._replace_live([d for d in days if not d.shut], day, force=force)
            good = [d for d in days if not d.missing]
            # A closed day whose raw events are gone is as right as it was.
            if broken := [d.account_id for d in days if d.missing and not d.shut]:
                self._conn.execute(STATEMENTS["mark_stale"], {"accounts": broken, "date": day})
            self._claim([d for d in good if not (d.shut or d.closing) and d.events], day)  # 6
            move(self._conn, late_events, day, timezones, oldest, self._registry.fingerprint)  # 7
            late = self._finish(good, day, late_events, force=force)
            if audited := [d for d in good if d.closing]:
                forgotten = {"accounts": [d.account_id for d in audited], "date": day}
                self._conn.execute(STATEMENTS["forget_members"], forgotten)
                drift = {"accounts": [d.account_id for d in audited], "drift": [d.drift for d in audited], "date": day}
                self._conn.execute(STATEMENTS["note_audit"], drift)
        by_account = {d.account_id: _rebuilt(d, day, changed.get(d.account_id, 0), d.account_id in late) for d in days}
        return [by_account.get(a) or _refused(a, day, unknown.get(a)) for a in accounts]

    def _lock(self, timezones: Mapping[int, str], day: date, oldest: Mapping[str, int]) -> list[_Day]:
        """Lock the day of each account, given with its time zone; `oldest`: where the open window begins."""
        in_window = {account: day_number(day) >= oldest[name] for account, name in timezones.items()}
        parameters = {
            "accounts": list(timezones),
            "timezones": list(timezones.values()),
            "in_window": list(in_window.values()),
            "date": day,
            "registry": self._registry.fingerprint,
        }
        return [
            _Day(
                account,
                timezones[account],
                in_window[account],
                recorded == timezones[account] and counted is not None,
                closed,
                counted or 0,
                settled,
            )
            for account, recorded, closed, counted, settled in self._conn.execute(
                STATEMENTS["lock_days_to_rebuild"], parameters
            )
        ]

    def _replace_shut(self, days: list[_Day], day: date, *, force: bool) -> dict[int, int]:
        """Replace days that are closed, where raw has as many events as were counted; rows changed by account."""
        counted: dict[str, dict[int, int]] = {}
        for it in days:
            counted.setdefault(it.timezone, {})[it.account_id] = it.counted if it.known and not force else 0
        found = self._stage.rebuild_closed(day, counted)
        for it in days:
            it.events, it.invalid, _ = found[it.account_id]
            it.missing = max(0, counted[it.timezone][it.account_id] - it.events)
        return {account: changed for account, (_, _, changed) in found.items()}

    def _replace_live(self, days: list[_Day], day: date, *, force: bool) -> dict[int, int]:
        """Replace days that are counted live, where raw has every event that was counted; rows changed by account."""
        if not days:
            return {}
        counts = self._stage.read(day, _by_timezone(days))
        for it in days:
            it.events, it.invalid = counts.get(it.account_id, (0, 0))
        known = [] if force else [d for d in days if d.known and d.counted]
        new = self._not_counted([d.account_id for d in known]) if known else {}
        for it in known:
            # Ids that are not counted yet come on top of those that were.
            it.missing = max(0, it.counted + new.get(it.account_id, 0) - it.events)
        self._stage.leave_out([d.account_id for d in known if d.missing])
        return self._stage.replace(day, [d.account_id for d in days if not d.missing])

    def _not_counted(self, accounts: Sequence[int]) -> dict[int, int]:
        """How many of each account's staged events have no bit yet."""
        owners, ids = self._stage.ids(accounts)
        different, numbers = np.unique(owners[~already_counted(self._conn, ids)], return_counts=True)
        return dict(zip(different.tolist(), numbers.tolist(), strict=True))

    def _claim(self, days: list[_Day], day: date) -> None:
        if days:
            self._conn.execute(STATEMENTS["lock_rebuild_bits"])
            _, ids = self._stage.ids([d.account_id for d in days])
            claim(self._conn, ids, np.zeros(len(ids), np.int16), [REBUILD_SHARD], day_number(day))

    def _finish(self, days: list[_Day], day: date, late_events: list[Arrived], *, force: bool) -> set[int]:
        """Drop late events and write the days' state; returns the accounts that still have late events."""
        rebuilt = {d.account_id for d in days}
        found = [event for event in late_events if event.account_id in rebuilt]
        if force:
            forget(self._conn, rebuilt, found, day)
        else:
            drop(self._conn, found, day)
        state = {
            "accounts": [d.account_id for d in days],
            "date": day,
            "timezones": [d.timezone for d in days],
            "closed": [d.shut or d.closing for d in days],
            "events": [d.events if d.known or d.settled else None for d in days],
            "settled": [d.settled for d in days],
            "registry": self._registry.fingerprint,
        }
        return {account for account, late in self._conn.execute(STATEMENTS["finish_rebuild"], state) if late}


def _refused(account_id: int, day: date, timezone: str | None) -> Rebuilt:
    return Rebuilt(account_id, day, timezone, Result.UNKNOWN_TIMEZONE if timezone else Result.NO_TIMEZONE)


def _by_timezone(days: Iterable[_Day]) -> dict[str, list[int]]:
    grouped: dict[str, list[int]] = {}
    for it in days:
        grouped.setdefault(it.timezone, []).append(it.account_id)
    return grouped


def _rebuilt(it: _Day, day: date, changed: int, late: bool) -> Rebuilt:
    result = Result.REBUILT if it.settled else Result.SETTLING
    if late and it.settled:
        result = Result.LATE
    if it.missing:
        return Rebuilt(it.account_id, day, it.timezone, Result.MISSING, it.events, it.invalid, it.missing)
    return Rebuilt(it.account_id, day, it.timezone, result, it.events, it.invalid, 0, changed, it.closing, it.drift)
