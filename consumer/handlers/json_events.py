"""Plain JSON rows: the value of a message is the raw event as an object.

What such a message may be, and what is wrong with one that is no event, is told in `json_strict`. Most messages are
good: `json_fast` reads many of them at once, and what it does not vouch for goes through `json_strict`. So the result
is that of `json_strict` alone, whatever the bytes; a property test holds that it is.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from consumer.handlers import Decoded
from consumer.handlers.json_fast import FastJson, Read
from consumer.handlers.json_strict import StrictJson
from consumer.rollup.batch import Events, Int64Array, Reject
from consumer.rollup.registry import REGISTRY, Registry

FEWEST = 500
"""Messages from which on the fast path pays: its calls of polars cost as much as some hundred messages one by one."""
_SLICE = 500
"""Messages tried together when polars refuses all for one that fits: the strict decoder gets a slice, not all."""


class JsonEvents:
    """The handler `json`: an implementation of `Handler` without state between calls.

    `fewest` and `slice_size` are for tests, which take both paths at any size.
    """

    def __init__(self, registry: Registry = REGISTRY, *, fewest: int = FEWEST, slice_size: int = _SLICE) -> None:
        self._strict = StrictJson(registry)
        self._fast = FastJson(registry)
        self._fewest = fewest
        self._slice_size = slice_size

    def decode(self, values: Sequence[bytes | None], now_us: int) -> Decoded:
        """Decode and validate `values`; see `Handler.decode`."""
        if len(values) < self._fewest:
            return self._strict.decode(values, now_us)
        reads: list[tuple[Int64Array, Read]] = []
        strictly: list[Int64Array] = []
        for where, read in self._reads(values, now_us):
            if read is None:
                strictly.append(where)
            else:
                reads.append((where, read))
                strictly.append(where[read.doubtful])
        rest = np.sort(np.concatenate(strictly))
        strict = self._strict.decode([values[i] for i in rest.tolist()], now_us)
        return _together(reads, strict, rest)

    def _reads(self, values: Sequence[bytes | None], now_us: int) -> Iterator[tuple[Int64Array, Read | None]]:
        """Positions in `values`, all of them once, and what the fast path read there; None for nothing."""
        everywhere = np.arange(len(values))
        read = self._fast.read(values, now_us)
        if read is not None:
            yield everywhere, read
            return
        # One bad message spoils them all. To find the bad ones costs less than to try parts again and again.
        fits = np.array(list(map(self._strict.fits, values)), np.bool_)
        yield everywhere[~fits], None
        good = everywhere[fits]
        read = None if fits.all() else self._fast.read([values[i] for i in good.tolist()], now_us)
        if read is not None:
            yield good, read
            return
        for part in np.split(good, range(self._slice_size, len(good), self._slice_size)):
            yield part, self._fast.read([values[i] for i in part.tolist()], now_us)


def _together(reads: Sequence[tuple[Int64Array, Read]], strict: Decoded, rest: Int64Array) -> Decoded:
    """What both paths found, in message order. `rest` is where the messages of `strict` stood."""
    rejects = [Reject(int(rest[r.index]), r.error_class, r.reason) for r in strict.rejects]
    skipped = {why: rest[where] for why, where in strict.skipped.items()}
    unknown = [where[read.unknown] for where, read in reads if len(read.unknown)]
    if unknown:
        unknown.append(skipped.get("unknown_event", np.zeros(0, np.int64)))
        skipped["unknown_event"] = np.sort(np.concatenate(unknown))
    index = [where[read.index] for where, read in reads] + [rest[strict.index]]
    events = [read.events for _, read in reads] + [strict.events]
    if len(reads) == 1 and not len(strict.events):
        return Decoded(events[0], index[0], rejects, skipped)
    position = np.concatenate(index)
    order = np.argsort(position, kind="stable")
    return Decoded(_merged(events, order), position[order], rejects, skipped)


def _merged(parts: Sequence[Events], order: Int64Array) -> Events:
    """The events of all parts, those at `order` of them one after the other."""
    return Events(
        np.concatenate([e.id for e in parts])[order],
        np.concatenate([e.account_id for e in parts])[order],
        np.concatenate([e.name for e in parts])[order],
        np.concatenate([e.created_us for e in parts])[order],
        np.concatenate([e.value_us for e in parts])[order],
        np.concatenate([e.business_us for e in parts])[order],
        {column: np.concatenate([e.ids[column] for e in parts])[order] for column in parts[0].ids},
        np.concatenate([e.source for e in parts])[order],
    )
