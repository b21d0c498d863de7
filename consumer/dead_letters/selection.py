"""Which letters a command is about: words of the command line -> a checked value. Pure: time is passed in."""

import difflib
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from consumer.errors import WrongUse
from consumer.metric_catalogue import ERROR_CLASSES

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=36_500)
_MOST_ID = 2**63 - 1


class State(StrEnum):
    """What became of a letter."""

    WAITING = "waiting"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Filters:
    """The letters asked for: those that fit every part. None fits all.

    Attributes:
        ids: their ids.
        causes: error classes.
        groups, topics, partitions: where they stood, and which consumer group set them aside.
        since, until: when they were set aside, [since, until).
        state: what became of them.
    """

    ids: tuple[int, ...] | None = None
    causes: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    topics: tuple[str, ...] | None = None
    partitions: tuple[int, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    state: State = State.WAITING

    def parameters(self) -> dict[str, Any]:
        """For the statements."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()} | {"state": str(self.state)}


def select(
    ids: tuple[int, ...] = (),
    *,
    cause: tuple[str, ...] = (),
    group: tuple[str, ...] = (),
    topic: tuple[str, ...] = (),
    partition: tuple[int, ...] = (),
    since: str | None = None,
    until: str | None = None,
    state: State = State.WAITING,
    now: datetime,
) -> Filters:
    """Check what was asked for.

    Raises:
        WrongUse: it cannot be; the message says what to write instead.
    """
    for number in ids:
        if not 1 <= number <= _MOST_ID:
            raise WrongUse(
                f"{number} cannot be the id of a dead letter: python -m consumer dead-letters list shows ids"
            )
    if any(not 0 <= number < 2**31 for number in partition):
        raise WrongUse("--partition takes the number of a partition, 0 or more")
    for word in cause:
        if word not in ERROR_CLASSES:
            near = difflib.get_close_matches(word, ERROR_CLASSES, n=1)
            meant = f"; did you mean {near[0]}?" if near else f": {', '.join(ERROR_CLASSES)}"
            raise WrongUse(f"--cause takes one of the error classes, and {word!r} is none{meant}")
    chosen = Filters(
        ids=tuple(dict.fromkeys(ids)) or None,
        causes=cause or None,
        groups=group or None,
        topics=topic or None,
        partitions=partition or None,
        since=None if since is None else parse_instant(since, now),
        until=None if until is None else parse_instant(until, now),
        state=state,
    )
    if chosen.since and chosen.until and chosen.since >= chosen.until:
        raise WrongUse("--since must be before --until")
    return chosen


def select_to_change(ids: tuple[int, ...], filters: Filters, *, every: bool) -> Filters:
    """The same, for commands that change letters: named by id, by filters or by --all, and never by none of them.

    Raises:
        WrongUse: it is none or more than one of them.
    """
    by_filters = filters != Filters(ids=filters.ids, state=filters.state)
    ways = [bool(ids), by_filters, every].count(True)
    if ways != 1:
        once = " in one way" if ways else ""
        raise WrongUse(
            f"name the letters{once}: either ids, or filters as --cause timestamp, or --all for all that wait"
        )
    return filters


def parse_instant(text: str, now: datetime) -> datetime:
    """An ISO 8601 instant (UTC unless it says otherwise) or date, or how long ago it was, as 90m, 2h, 3d.

    Raises:
        WrongUse: it is neither.
    """
    if ago := re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhdw])", text.strip()):
        length = timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        if length <= _LONGEST:
            return now - length
    try:
        instant = datetime.fromisoformat(text.strip())
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise WrongUse(f"{text!r} is no point in time: write 2026-02-11, 2026-02-11T09:30:00Z or 2h (ago)") from None
