"""What a change of an account's time zone means for its reports: told to people, and to scripts."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import psycopg

from backfill.zone_change import COMMAND, Change, Waiting, first_raw_us, waiting_days
from backfill.zones import offset_at, offset_text
from consumer.rollup.days import day_date, local_day


@dataclass(frozen=True, slots=True)
class Consequences:
    """What a change means for the account's reports.

    Attributes:
        change: what was done.
        waiting: the account's stale days.
        raw_from: the local date of its first raw event; None if it has none, or no time zone.
    """

    change: Change
    waiting: Waiting
    raw_from: date | None

    @classmethod
    def of(cls, conn: psycopg.Connection, change: Change) -> "Consequences":
        """Look it up."""
        first_us = first_raw_us(conn, change.account_id) if change.after else None
        raw_from = day_date(local_day(change.after, first_us)) if change.after and first_us is not None else None
        return cls(change, waiting_days(conn, change.account_id), raw_from)

    @property
    def next_command(self) -> str | None:
        """What completes the reports; None if nothing waits."""
        if not self.waiting.days:
            return None
        return f"{COMMAND} --account {self.change.account_id} --timezone {self.change.after} --rebuild"

    def as_object(self) -> dict[str, object]:
        """As in the help of `set_timezone`."""
        change, waiting = self.change, self.waiting
        settles_at = waiting.settles_at if waiting.seconds > 0 else None
        return {
            "account_id": change.account_id,
            "before": change.before,
            "timezone": change.after,
            "changed": change.changed,
            "stale_days": waiting.days,
            "first_date": waiting.first,
            "last_date": waiting.last,
            "complete_from": settles_at and settles_at.astimezone(UTC),
            "settle_seconds": round(waiting.seconds, 1),
            "raw_from": self.raw_from,
            "lost_days": change.lost.days if change.lost else 0,
            "next": self.next_command,
        }

    def lines(self, *, rebuilds: bool) -> list[str]:
        """For people. `rebuilds`: a rebuild follows at once."""
        change, waiting = self.change, self.waiting
        told = [f"account {change.account_id}: {self._what_changed()}"]
        if change.after is None:
            if change.changed:
                told += [
                    "Its rollup is switched off: rows and days that it has stay as they are, and rollup_coverage says",
                    "'not covered' of them. Its messages are skipped from now on. Setting a zone again makes its days",
                    "stale, so that a rebuild adds what was skipped.",
                ]
            return told
        if change.lost:
            told.append(f"Given up by --force: {change.lost.days} days ({change.lost.first} to {change.lost.last})")
        if waiting.days:
            told.append(f"{waiting.days} days are stale until they are rebuilt: {waiting.first} to {waiting.last}")
            told.append(self._when_complete())
            if not rebuilds:
                told.append(f"Next: {self.next_command}")
        if self.raw_from and waiting.first and self.raw_from < waiting.first:
            told.append(
                f"Raw events go back to {self.raw_from}, before these days. For reports of that time as well: "
                f"python -m backfill --account {change.account_id} --all-dates"
            )
        return told

    def _what_changed(self) -> str:
        before, after = self.change.before, self.change.after
        if not self.change.changed:
            return f"{f'its time zone is {after} already' if after else 'it has no time zone'}; nothing changed"
        if after is None:
            return f"time zone cleared; it was {before}"
        now_there = f"{after} ({offset_text(offset_at(after, datetime.now(UTC)))} now)"
        return f"time zone {f'changed from {before} to {now_there}' if before else f'set to {now_there}; it had none'}"

    def _when_complete(self) -> str:
        waiting = self.waiting
        if waiting.settles_at is None or waiting.seconds <= 0:
            return "Reports are complete as soon as they are rebuilt"
        return (
            f"Reports are complete once they are rebuilt after {waiting.settles_at.astimezone(UTC):%H:%M:%S} UTC, "
            f"{waiting.seconds:.0f} s from now, when the change has settled"
        )
