"""Whether a soak passed: a line for each thing that must not grow, and for exactness. Pure.

"Flat" compares the first and the last third of the soak, after the warm-up, by their medians: a leak shows in every
sample of the last third, a busy neighbour only in some.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

import numpy as np

from bench.results import percentile
from bench.soak_results import Arrival, Bloat, Check, Exactness, Sample, Soak

WARM_UP_SHARE, WARM_UP_SECONDS = 0.2, 120.0
"""What is left out at the start: that share of the soak, at most that long. Caches and the rollup's rows fill."""

MEMORY_GROWTH = 1.10
"""Batches differ in size, and the allocator keeps some of the largest; a leak of a byte an event would be 40 %."""

OVERLOAD_PEAK = 600_000_000
"""Bytes. A consumer a million messages behind takes 440 MB; how far it is behind must not matter."""

LATENCY_GROWTH = 1.5
LATENCY_P99_GROWTH = 2.0
"""The machine is shared with broker, database and producer; what grows with time (bloat, plans) grows further."""

RATE_LOSS = 0.75
"""Of the first third's rate the last one keeps at least this, on a machine that does other things too."""

TRANSACTION_GROWTH = 1.5
"""As for latency, which they are the largest part of."""

BLOAT = 3.0
"""Times the size after VACUUM FULL, table and indexes; fillfactor 50 is in both. A row that is written twice in every
transaction has three versions until it ends, and more while a snapshot is held: tables reach that size, and stay."""

BLOAT_FLOOR = 1_000_000
"""Bytes that no bloat is: a few pages more are many times the size of a table of four rows."""


def judge(soak: Soak, *, overloaded: bool) -> list[Check]:
    """All lines, those of the overload only if there was one."""
    found = [*flat(soak.samples, soak.arrivals)]
    if overloaded:
        found += overload(soak.samples)
    found += [check for each in soak.bloat if (check := of_bloat(each))]
    return [*found, *exact(soak.exactness)]


def flat(samples: Sequence[Sample], arrivals: Sequence[Arrival]) -> Iterator[Check]:
    """What must not grow while the load stays the same."""
    inside = [sample for sample in samples if sample.phase == "soak"]
    ends = inside[-1].at if inside else 0.0
    begins = min(WARM_UP_SHARE * ends, WARM_UP_SECONDS)
    third = (ends - begins) / 3
    first, last = ([sample for sample in inside if low <= sample.at <= low + third] for low in (begins, ends - third))
    if len(first) < 2 or len(last) < 2:
        yield Check("samples", f"{len(first)} and {len(last)} in the thirds", "at least 2: soak for longer", False)
        return
    yield _grows("memory", first, last, lambda s: s.rss / 1e6, "MB", MEMORY_GROWTH)
    yield _grows("threads", first, last, lambda s: s.threads, "", 1.0)
    yield _grows("open files", first, last, lambda s: s.files, "", 1.0)
    yield _grows("connections to PostgreSQL", first, last, lambda s: s.connections, "", 1.0)
    rates = [rate(third_of) for third_of in (first, last)]
    yield Check(
        "messages/s",
        f"{rates[0]:,.0f} → {rates[1]:,.0f}",
        f"at least {100 * RATE_LOSS:.0f} % of it",
        rates[1] >= rates[0] * RATE_LOSS,
    )
    waits = [[a.latency_ms for a in arrivals if low <= a.at <= low + third] for low in (begins, ends - third)]
    if not all(waits):
        yield Check("latency", "no message was noted in a third", "some: soak for longer", False)
    else:
        for what, percent, growth in (("p50", 50, LATENCY_GROWTH), ("p99", 99, LATENCY_P99_GROWTH)):
            before, after = (percentile(np.array(each), percent) for each in waits)
            yield _compared(f"latency {what}", before, after, "ms", growth)
    took = [transaction_seconds(third_of) for third_of in (first, last)]
    if took[0] is not None and took[1] is not None:
        yield _compared("a transaction takes", took[0] * 1e3, took[1] * 1e3, "ms", TRANSACTION_GROWTH)


def overload(samples: Sequence[Sample]) -> Iterator[Check]:
    """That there was one, that memory did not follow the backlog, and that the consumer caught up."""
    before = median([s.backlog for s in samples if s.phase == "soak"] or [0])
    most = max((s.backlog for s in samples if s.phase != "soak"), default=0)
    yield Check(
        "backlog under overload", f"{before:,.0f} → {most:,}", "must grow, to twice at least", most >= 2 * before > 0
    )
    peak = max(s.peak for s in samples)
    yield Check("peak memory", f"{peak / 1e6:,.0f} MB", f"{OVERLOAD_PEAK / 1e6:,.0f} MB", peak <= OVERLOAD_PEAK)
    left = samples[-1].backlog
    yield Check("backlog at the end", f"{left:,}", "0", left == 0)


def of_bloat(found: Bloat) -> Check | None:
    """Whether a table is much larger than what is in it; None for an empty one."""
    size, full = found.heap + found.indexes, found.full_heap + found.full_indexes
    if not found.rows:
        return None
    return Check(
        f"size of {found.table}",
        f"{size / 1e6:,.1f} MB, {found.ratio:.2f} times {full / 1e6:,.1f} MB",
        f"{BLOAT:g} times its size after VACUUM FULL, or {BLOAT_FLOOR / 1e6:g} MB more",
        found.ratio <= BLOAT or size - full <= BLOAT_FLOOR,
    )


def exact(e: Exactness) -> Iterator[Check]:
    """To the last digit."""
    yield Check("messages in the topic", f"{e.in_topic:,}", f"{e.sent:,} sent", e.in_topic == e.sent)
    for name, expected in e.expected.items():
        yield Check(name, f"{e.found[name]:,}", f"{expected:,}", e.found[name] == expected)
    yield Check("balance per partition", "adds up" if e.balanced else "DOES NOT ADD UP", "adds up", e.balanced)
    told = "".join(f"; {line}" for line in e.told)
    yield Check(
        "rollup rows that differ", f"{e.differences:,} of {e.rows:,}{told}", "0", not e.differences and e.rows > 0
    )


def rate(samples: Sequence[Sample]) -> float:
    """Messages committed a second from the first sample to the last."""
    seconds = samples[-1].at - samples[0].at
    return (samples[-1].messages - samples[0].messages) / seconds if seconds else 0.0


def transaction_seconds(samples: Sequence[Sample]) -> float | None:
    """The mean of the transactions between the first and the last sample that know; None if there were none."""
    known = [s.transactions for s in samples if s.transactions]
    count = known[-1][0] - known[0][0] if known else 0
    return (known[-1][1] - known[0][1]) / count if count else None


def _grows(
    what: str, first: Sequence[Sample], last: Sequence[Sample], of: Callable[[Sample], float], unit: str, growth: float
) -> Check:
    return _compared(what, median(map(of, first)), median(map(of, last)), unit, growth)


def _compared(what: str, before: float, after: float, unit: str, growth: float) -> Check:
    found = f"{before:,.0f} → {after:,.0f} {unit}".rstrip()
    bound = "no more than before" if growth == 1 else f"at most + {100 * (growth - 1):.0f} %"
    return Check(what, found, bound, after <= before * growth)
