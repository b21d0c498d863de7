"""The one table of truth: which events feed which metrics, and by which dimensions they are counted.

The handlers, the live aggregation, the rebuild and the table in docs/design.md all follow from it. To add a
metric, an event or a dimension, add a line here and run `python -m backfill` over the days that should have it
(days counted under an older registry can be told by their `registry` fingerprint in `rollup_days`).

It knows nothing of Kafka, PostgreSQL or time.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Kind(StrEnum):
    """How events become a number.

    `COUNT` adds 1 an event and leaves the sums 0. `DURATION` adds 1 and the event's two durations; a null
    duration adds 0. `DISTINCT` is the number of different non-null values of one column.
    """

    COUNT = "count"
    DURATION = "duration"
    DISTINCT = "distinct"


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the registry: events called `event` feed `metric`.

    `member` names the integer column whose different values a `DISTINCT` metric counts; others have none.
    """

    event: str
    metric: str
    kind: Kind
    member: str | None = None

    def __post_init__(self) -> None:
        if (self.kind is Kind.DISTINCT) != (self.member is not None):
            raise ValueError(f"metric {self.metric}: a distinct metric, and no other, names its member column")


@dataclass(frozen=True, slots=True)
class Dimension:
    """A way to split an account's events: rows of `type` carry the value of `column` as `dimension_id`."""

    type: str
    column: str


@dataclass(frozen=True)
class Registry:
    """Metrics and dimensions, with the views on them that the rest of the code needs."""

    metrics: tuple[Metric, ...]
    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        kinds: dict[str, Metric] = {}
        for m in self.metrics:
            other = kinds.setdefault(m.metric, m)
            if (other.kind, other.member) != (m.kind, m.member):
                raise ValueError(f"metric {m.metric} has two kinds: {other.kind} and {m.kind}")
        pairs = [(m.event, m.metric) for m in self.metrics]
        if len(set(pairs)) != len(pairs):
            raise ValueError("the registry names an (event, metric) pair twice")
        types = [d.type for d in self.dimensions]
        if len(set(types)) != len(types):
            raise ValueError("the registry names a dimension type twice")
        columns = [d.column for d in self.dimensions]
        if len(set(columns)) != len(columns):
            raise ValueError("two dimensions of the registry read one column")

    @cached_property
    def event_names(self) -> tuple[str, ...]:
        """Every event that feeds a metric; an event's code is its position here."""
        return tuple(dict.fromkeys(m.event for m in self.metrics))

    @cached_property
    def event_code(self) -> dict[str, int]:
        """Event name -> its code."""
        return {name: code for code, name in enumerate(self.event_names)}

    @cached_property
    def id_columns(self) -> tuple[str, ...]:
        """The nullable integer columns of an event that dimensions and members read, `account_id` left out."""
        columns = [d.column for d in self.dimensions] + [m.member for m in self.metrics if m.member]
        return tuple(dict.fromkeys(c for c in columns if c != "account_id"))

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when any line of the registry does (the order of lines apart)."""
        lines = sorted(f"{m.event}|{m.metric}|{m.kind}|{m.member}" for m in self.metrics)
        lines += sorted(f"{d.type}|{d.column}" for d in self.dimensions)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


REGISTRY = Registry(
    metrics=(
        Metric("conversation_resolved", "resolutions_count", Kind.COUNT),
        Metric("conversation_resolved", "resolution_time", Kind.DURATION),
        Metric("first_response", "first_response", Kind.DURATION),
        Metric("reply_time", "reply_time", Kind.DURATION),
        Metric("conversation_bot_resolved", "bot_resolutions_count", Kind.COUNT),
        Metric("conversation_bot_handoff", "bot_handoffs_count", Kind.DISTINCT, member="conversation_id"),
    ),
    dimensions=(
        Dimension("account", "account_id"),
        Dimension("agent", "user_id"),
        Dimension("inbox", "inbox_id"),
    ),
)
