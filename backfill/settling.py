"""Days that no rebuild completes yet: their account's time zone has changed, and raw events of messages that were read
before may still be on their way."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from backfill.due import Fetch
from backfill.statements import STATEMENTS


@dataclass(frozen=True, slots=True)
class Settling:
    """Stale days that have not settled.

    Attributes:
        days: how many.
        until: from this instant on a rebuild completes all of them; None without any.
    """

    days: int
    until: datetime | None

    @classmethod
    def of(cls, fetch: Fetch, accounts: Iterable[int] | None = None) -> "Settling":
        """Ask for those of some accounts, or with None of all."""
        [row] = fetch(STATEMENTS["settling"], {"accounts": None if accounts is None else list(accounts)})
        return cls(*row)

    def __str__(self) -> str:
        """What it means, and what to do; without the number of days."""
        if self.until is None:
            return "a change of time zone has settled by now; another rebuild completes its days"
        return (
            f"a change of time zone settles at {self.until.astimezone(UTC):%H:%M:%S} UTC; a rebuild after that "
            "completes its days: python -m backfill --stale"
        )
