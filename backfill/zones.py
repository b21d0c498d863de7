"""From a UTC offset to the IANA time zones that have it at some instant: how somebody finds the name of a zone.

Reads no clock: the instant is passed in. Zones are those of the pinned tzdata (`consumer.rollup.days`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources

from consumer.rollup.days import nearest_timezones, zone, zone_names

OFFSET = re.compile(r"(?:UTC|GMT)?\s*(?P<sign>[+-])?\s*(?P<hours>\d{1,2})(?::?(?P<minutes>\d{2}))?", re.IGNORECASE)
HOW_TO_WRITE_OFFSETS = "write it as +05:30, -3 or UTC+2"
FURTHEST = timedelta(hours=15)
"""No zone has ever been further from UTC since 2000: +14:00 and -12:00 are the furthest now."""
LOOKS_AHEAD = timedelta(days=370)
"""How far ahead the next change of a clock is looked for: those that change at all do so every year."""
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ZoneNow:
    """A time zone at an instant.

    Attributes:
        name: IANA name.
        offset: what its clocks show more than UTC.
        present_name: whether tzdata lists it as the zone of a place today; the others are old names and `Etc/`.
        changes_on: the local date of its clocks' next change, None if there is none within a year.
        offset_then: the offset after that change.
    """

    name: str
    offset: timedelta
    present_name: bool
    changes_on: date | None
    offset_then: timedelta | None

    @property
    def clock(self) -> str:
        """What its clocks do next, in words."""
        if self.changes_on is None or self.offset_then is None:
            return "keeps this offset"
        return f"{offset_text(self.offset_then)} from {self.changes_on}"


def parse_offset(text: str) -> timedelta:
    """The UTC offset that somebody wrote, as `+05:30`, `-3`, `UTC+2`, `0530`.

    Raises:
        ValueError: it is none; says how to write one.
    """
    cleaned = text.strip().replace("\N{MINUS SIGN}", "-")
    if cleaned.upper() in {"UTC", "GMT", "Z"}:
        return timedelta(0)
    found = OFFSET.fullmatch(cleaned)
    if not found:
        raise ValueError(f"{text.strip()!r} is not a UTC offset: {HOW_TO_WRITE_OFFSETS}")
    minutes = int(found["minutes"] or 0)
    offset = timedelta(hours=int(found["hours"]), minutes=minutes)
    if minutes >= 60 or offset > FURTHEST:
        raise ValueError(f"{text.strip()!r} is no offset that clocks have: they lie between -12:00 and +14:00")
    return -offset if found["sign"] == "-" else offset


def offset_text(offset: timedelta) -> str:
    """As `UTC+05:30`."""
    sign, minutes = ("-" if offset < timedelta(0) else "+"), abs(offset) // timedelta(minutes=1)
    return f"UTC{sign}{minutes // 60:02}:{minutes % 60:02}"


def offset_at(name: str, instant: datetime) -> timedelta:
    """The offset of a zone at an aware instant. Raises ConfigurationError for a name that is none."""
    return instant.astimezone(zone(name)).utcoffset() or timedelta(0)


def zones_at_offset(offset: timedelta, instant: datetime) -> list[ZoneNow]:
    """The zones whose clocks are at `offset` at an aware instant: those of a place first, by region and name.

    Raises:
        ValueError: there is none; names the nearest offsets that some zone has.
    """
    offsets = {name: offset_at(name, instant) for name in zone_names() if name != "Factory"}  # a placeholder
    found = [name for name, has in offsets.items() if has == offset]
    if not found:
        below = max((o for o in offsets.values() if o < offset), default=None)
        above = min((o for o in offsets.values() if o > offset), default=None)
        near = " and ".join(offset_text(o) for o in (below, above) if o is not None)
        raise ValueError(f"no time zone is at {offset_text(offset)} now; the nearest that exist are {near}")
    return sorted((_zone_now(name, instant) for name in found), key=lambda z: (not z.present_name, z.name))


def named_zone(text: str) -> str | None:
    """The zone whose name somebody wrote, whatever its capitals and with spaces for underscores; None if none is."""
    return _by_plain_name().get(_plain(text))


def containing(zones: Sequence[ZoneNow], part: str) -> list[ZoneNow]:
    """Those zones whose name has `part` in it, whatever its capitals and with spaces for underscores."""
    wanted = _plain(part)
    return [each for each in zones if wanted in each.name.lower()]


def suggestion(text: str) -> str:
    """` Did you mean …?` with the names nearest to what somebody wrote, or nothing."""
    nearest = nearest_timezones(text)
    return f" Did you mean {' or '.join(nearest)}?" if nearest else ""


def _zone_now(name: str, instant: datetime) -> ZoneNow:
    offset = offset_at(name, instant)
    changes_on, offset_then = _next_change(name, instant.astimezone(UTC), offset)
    return ZoneNow(name, offset, name in _present_names(), changes_on, offset_then)


def _next_change(name: str, instant: datetime, offset: timedelta) -> tuple[date, timedelta] | tuple[None, None]:
    before = instant
    while offset_at(name, before + DAY) == offset:
        before += DAY
        if before - instant > LOOKS_AHEAD:
            return None, None
    low, high = before, before + DAY
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if offset_at(name, middle) == offset:
            low = middle
        else:
            high = middle
    return high.astimezone(zone(name)).date(), offset_at(name, high)


@cache
def _present_names() -> frozenset[str]:
    """Names of `zone.tab`: every country's own, without the old names that only link to them; and UTC."""
    table = resources.files("tzdata.zoneinfo").joinpath("zone.tab").read_text(encoding="utf-8")
    return frozenset(line.split("\t")[2] for line in table.splitlines() if not line.startswith("#")) | {"UTC"}


@cache
def _by_plain_name() -> dict[str, str]:
    return {name.lower(): name for name in zone_names()}


def _plain(text: str) -> str:
    return text.strip().lower().replace(" ", "_")
