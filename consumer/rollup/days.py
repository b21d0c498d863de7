"""Local days of a time zone as UTC instants: the only place that decides where a day begins.

A day D of a zone is the half-open interval [start(D), start(D + 1)). It starts when the local clock first shows
D 00:00; where local midnight does not exist, at the first instant that does. So days tile time. They are 23, 24 or 25
hours long; since 2000 also 23.5 and 24.5 (Lord Howe), 21 to 27 (Antarctic stations that changed their zone) and 0: the
date that Apia left out, 2011-12-30, is empty. Zones come from the pinned `tzdata` package and never from the machine,
so that every process cuts days at the same instants.

Days are numbers here: days since 1970-01-01. Instants are microseconds since 1970-01-01T00:00:00Z.
"""

import difflib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from importlib import metadata, resources
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from consumer.errors import ConfigurationError
from consumer.rollup.batch import Int64Array

DAY_US = 86_400_000_000
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local midnights are naive
EPOCH_DAY = date(1970, 1, 1)
DENSE_TABLE = 1_000_000
"""Most (zone, UTC day) cells that `local_days` lays out flat (16 MB); beyond, it sorts the few that occur."""

Int32Array = npt.NDArray[np.int32]


def day_number(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - EPOCH_DAY).days


def day_date(number: int) -> date:
    """The date of a day number."""
    return EPOCH_DAY + timedelta(days=number)


def instant(us: int) -> datetime:
    """The aware datetime (UTC) of microseconds since 1970-01-01T00:00:00Z."""
    return (EPOCH + timedelta(microseconds=us)).replace(tzinfo=UTC)


def instant_if_any(us: int) -> datetime | None:
    """`instant`, None outside of the years 1 to 9999: a producer may stamp its messages as it likes."""
    try:
        return instant(us)
    except OverflowError:
        return None


@cache
def zone_names() -> tuple[str, ...]:
    """Every IANA name of the pinned tzdata, sorted."""
    return tuple(sorted(resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split()))


def tzdata_version() -> str:
    """The pinned tzdata's version, as `2026.6`."""
    return metadata.version("tzdata")


@cache
def zone(name: str) -> ZoneInfo:
    """The zone called `name`, from the pinned tzdata. Raises ConfigurationError, see `validate_timezone`."""
    validate_timezone(name)
    path = resources.files("tzdata.zoneinfo").joinpath(*name.split("/"))
    with path.open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def validate_timezone(name: str) -> str:
    """Return `name` if it is an IANA time zone of the pinned tzdata; else raise ConfigurationError that names the
    nearest ones."""
    if name in _name_set():
        return name
    nearest = nearest_timezones(name)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "names look like Europe/Paris or Asia/Kolkata"
    raise ConfigurationError(f"{name!r} is not an IANA time zone of tzdata {tzdata_version()}: {hint}")


def is_known(name: str) -> bool:
    """Whether `name` is a time zone of the pinned tzdata."""
    return name in _name_set()


def nearest_timezones(name: str, most: int = 3) -> tuple[str, ...]:
    """Up to `most` zone names that somebody who wrote `name` may have meant, likeliest first."""
    wanted = name.strip().lower().replace(" ", "_")
    lower = {n.lower(): n for n in zone_names()}
    cities: dict[str, str] = {}
    for n in zone_names():
        cities.setdefault(n.lower().rsplit("/", 1)[-1], n)
    found = [lower[wanted]] if wanted in lower else []
    last = wanted.rsplit("/", 1)[-1]
    found += [cities[c] for c in difflib.get_close_matches(last, cities, n=most, cutoff=0.75)]
    found += [lower[c] for c in difflib.get_close_matches(wanted, lower, n=most, cutoff=0.6)]
    return tuple(dict.fromkeys(found))[:most]


@lru_cache(maxsize=1 << 17)
def day_start_us(name: str, day: int) -> int:
    """When day number `day` begins in the zone called `name`."""
    tz = zone(name)
    midnight = EPOCH + timedelta(days=day)
    before, after = (midnight.replace(tzinfo=tz, fold=fold).utcoffset() or timedelta() for fold in (0, 1))
    # The offset of fold=0 is the one before a change: of two midnights it gives the first.
    first = _microseconds(midnight - before)
    if before >= after:
        return first
    # Midnight was left out. With the offset from after the gap we land at or before the gap: the gap's instant, the
    # first whose local time is past midnight, lies between the two. Gaps are at whole seconds.
    low, high = _microseconds(midnight - after) // 1_000_000, first // 1_000_000
    while low < high:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, tz).replace(tzinfo=None) >= midnight:
            high = middle
        else:
            low = middle + 1
    return low * 1_000_000


def local_day(name: str, instant_us: int) -> int:
    """The number of the day that an instant belongs to."""
    utc_day = instant_us // DAY_US
    # Offsets are less than a day: of the days that begin inside a UTC day, only these two can.
    starts = (day_start_us(name, utc_day), day_start_us(name, utc_day + 1))
    return utc_day - 1 + sum(instant_us >= start for start in starts)


def local_days(zone_index: npt.NDArray[np.integer], zones: Sequence[str], instants_us: Int64Array) -> Int32Array:
    """The day number of each instant in its own zone: `local_day`, for columns.

    Args:
        zone_index: integer[n], positions in `zones`.
        zones: IANA names.
        instants_us: int64[n].

    Returns:
        int32[n]. Time goes by the number of different (zone, UTC day) pairs, not by zone arithmetic an event.
    """
    if not len(instants_us):
        return np.empty(0, np.int32)
    utc_day = instants_us // DAY_US
    low = int(utc_day.min())
    span = int(utc_day.max()) - low + 1
    pair = zone_index.astype(np.int64) * span + (utc_day - low)
    if len(zones) * span <= DENSE_TABLE:
        occurring = np.flatnonzero(np.bincount(pair, minlength=1))
        cell, cells = pair, len(zones) * span
    else:
        occurring, cell = np.unique(pair, return_inverse=True)
        cells = len(occurring)
    today, tomorrow = np.zeros(cells, np.int64), np.zeros(cells, np.int64)
    for position, code in enumerate(occurring.tolist()):
        at = code if cells == len(zones) * span else position
        index, day = divmod(code, span)
        today[at] = day_start_us(zones[index], low + day)
        tomorrow[at] = day_start_us(zones[index], low + day + 1)
    begun = (instants_us >= today[cell]).astype(np.int64) + (instants_us >= tomorrow[cell])
    days: Int32Array = (utc_day - 1 + begun).astype(np.int32)
    return days


@cache
def _name_set() -> frozenset[str]:
    return frozenset(zone_names())


def _microseconds(utc: datetime) -> int:
    return (utc - EPOCH) // timedelta(microseconds=1)
