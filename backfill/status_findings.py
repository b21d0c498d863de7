"""What `status` found, and what of it needs somebody. Pure: it asks nobody and reads no clock."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from backfill.topic_logs import TopicLog
from consumer.rollup.batch import Partition
from consumer.rollup.offsets import Stored, gap
from consumer.tables import cell_text

LONG_STALE = timedelta(hours=1)
"""A worker that looks every few seconds rebuilds a day within minutes; one that waits for longer has no worker, or
cannot be rebuilt."""
LONG_SILENT = timedelta(minutes=5)
"""Consumers commit within seconds; rebalances and failovers take less than this. The alert on stuck partitions in
docs/operations.md waits as long."""


@dataclass(frozen=True, slots=True)
class WaitingDay:
    """The day that has waited longest for a rebuild, and how many wait for longer than `LONG_STALE`."""

    account_id: int
    date: date
    state: str
    since: datetime
    overdue: int


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A row of `consumer_offsets`. `age_seconds` since its last commit; `end_offset` and `lag` are None while unknown;
    `unread_since` is when the oldest unread message was written, looked up only if the last commit was long ago."""

    group_id: str
    topic: str
    partition: int
    topic_id: str
    next_offset: int
    messages: int
    counted: int
    duplicates: int
    late: int
    skipped: int
    dead: int
    updated_at: datetime
    age_seconds: float
    end_offset: int | None = None
    lag: int | None = None
    unread_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that needs somebody: what is wrong and where, and what to do."""

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Status:
    """What `--json` prints as one object. Counts are integers, sizes bytes, instants ISO 8601.

    Attributes:
        checked_at: the database's present.
        accounts: `with_timezone`, `without_timezone`.
        days: how many by the state that `rollup_coverage` gives them.
        oldest_waiting: the stale or settling day that waits longest.
        audits: `days` audited when they closed, `last`, and the drift ever found: `days_with_drift`, `drift_rows`.
        late_events: `waiting`, on how many `days`, `since`.
        dead_letters: those that wait, by class of error: `error_class`, `count`, `oldest`, `last`.
        bitmap: `rows`, `bits_bytes` of counted_events, and the `last_day` they reach to.
        sizes: of each table: `table`, `table_bytes`, `index_bytes`.
        kafka: where lags come from, or why they are unknown.
        partitions: what every group has read.
        problems: what needs somebody.
    """

    checked_at: datetime
    accounts: Mapping[str, int]
    days: Mapping[str, int]
    oldest_waiting: WaitingDay | None
    audits: Mapping[str, object]
    late_events: Mapping[str, object]
    dead_letters: Sequence[Mapping[str, object]]
    bitmap: Mapping[str, object]
    sizes: Sequence[Mapping[str, object]]
    kafka: str
    partitions: Sequence[PartitionStatus]
    problems: Sequence[Problem]


def stale_problems(oldest: WaitingDay | None) -> list[Problem]:
    """Days that wait for a rebuild longer than one takes to come."""
    if oldest is None or not oldest.overdue:
        return []
    many = "day waits" if oldest.overdue == 1 else "days wait"
    return [
        Problem(
            f"{oldest.overdue} {many} for a rebuild for longer than an hour; the oldest is account "
            f"{oldest.account_id}, {oldest.date} ({oldest.state} since {cell_text(oldest.since)})",
            "run `python -m backfill --stale`, and keep `python -m backfill --stale --watch 10` running; if "
            f"the day stays, `python -m backfill explain --account {oldest.account_id} --date {oldest.date}` tells why",
        )
    ]


def letter_problems(letters: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Dead letters that wait: each is an event that may be missing from reports, until somebody decides."""
    if not letters:
        return []
    count = sum(letter["count"] for letter in letters)
    oldest = min(letter["oldest"] for letter in letters)
    many = "dead letter waits" if count == 1 else "dead letters wait"
    return [
        Problem(
            f"{count} {many} for a decision, the oldest since {cell_text(oldest)}",
            "look at them: `python -m consumer dead-letters list`; then replay or discard them: docs/dead-letters.md",
        )
    ]


def reading_problems(
    partitions: Sequence[PartitionStatus], logs: Mapping[Partition, TopicLog], now: datetime
) -> Iterator[Problem]:
    """Partitions whose messages nobody reads, or can read: `logs` is what the brokers have."""
    for p in partitions:
        name = f"{p.topic}[{p.partition}], group {p.group_id}"
        log = logs.get(Partition(p.topic, p.partition))
        if log is None:
            yield Problem(
                f"{name}: the brokers know no such partition, or do not let us see it",
                "check KAFKA_BOOTSTRAP_SERVERS and this user's right to DESCRIBE the topic; if the topic is gone for "
                "good, delete its rows from consumer_offsets",
            )
        elif why := gap(Partition(p.topic, p.partition), _stored(p), log.topic_id, log.low, log.high):
            yield Problem(
                f"group {p.group_id}: {why}",
                "consumers stop with exit code 5 here: find the messages again, or set ON_OFFSET_GAP=reset once and "
                "rebuild the days the missing messages lie on",
            )
        elif p.unread_since is not None and now - p.unread_since > LONG_SILENT:
            yield Problem(
                f"{name}: {p.lag} messages are unread, the oldest since {cell_text(p.unread_since)}, and nothing was "
                f"committed for {round(p.age_seconds)} s",
                "see that `python -m consumer` runs with this group and what it logs last; if the group is not used "
                "any more, delete its rows from consumer_offsets",
            )
    read = {(p.group_id, p.topic, p.partition) for p in partitions}
    for group, topic in sorted({(p.group_id, p.topic) for p in partitions}):
        for source, log in sorted(logs.items()):
            if source.topic == topic and log.high > log.low and (group, topic, source.partition) not in read:
                yield Problem(
                    f"{topic}[{source.partition}], group {group}: it has messages, and the group has never read any",
                    "new partitions are found within five minutes; if this one is not, restart a consumer of the group",
                )


def _stored(p: PartitionStatus) -> Stored:
    return Stored(p.topic_id, p.next_offset)
