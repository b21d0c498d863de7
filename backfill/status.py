"""`python -m backfill status`: how the rollup stands, and what needs somebody.

The database is asked in one snapshot, the brokers afterwards: a lag may be a moment younger than the offsets beside it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Annotated

from confluent_kafka import KafkaException
from cyclopts import Parameter

from backfill.snapshot import Connection, open_snapshot
from backfill.status_findings import (
    LONG_SILENT,
    LONG_STALE,
    PartitionStatus,
    Status,
    WaitingDay,
    letter_problems,
    reading_problems,
    stale_problems,
)
from backfill.status_report import print_status
from backfill.topic_logs import TopicLog, first_unread, topic_logs
from consumer.rollup.batch import Partition
from consumer.rollup.statements import load_statements
from consumer.settings import DatabaseSettings, Settings
from consumer.tables import print_json

KAFKA_TIMEOUT_SECONDS = 3.0

TABLES = (
    "reporting_events_rollups",
    "rollup_days",
    "rollup_members",
    "counted_events",
    "late_events",
    "dead_letters",
)
STATEMENTS = load_statements("backfill", "status.sql")


def status(*, json: Annotated[bool, Parameter(help="One JSON object on one line.", negative=())] = False) -> int:
    """Show accounts, days by state, audits, late events, dead letters, sizes, and what consumers have read.

    Lag is shown when KAFKA_BOOTSTRAP_SERVERS is set and answers within 3 seconds. Writes nothing.

    Exit codes: 0 all is well, 1 something needs somebody (it says what, and what to do), 2 wrong use; 3 and 8 as in
    python -m backfill --help.

    For example:

    - python -m backfill status
    - python -m backfill status --json
    """
    properties = Settings.load().kafka_properties() if "KAFKA_BOOTSTRAP_SERVERS" in os.environ else None
    with open_snapshot(DatabaseSettings.load()) as conn:
        stored = read_status(conn)
    found = with_lag(stored, properties)
    print_json(found) if json else print_status(found)
    return 1 if found.problems else 0


def read_status(conn: Connection) -> Status:
    """What the database says, in the snapshot that `conn` is in; lags are unknown."""
    ask = conn.execute
    [(now, with_zone, without_zone)] = ask(STATEMENTS["accounts"]).fetchall()
    waiting = ask(STATEMENTS["waiting_days"], {"long": LONG_STALE}).fetchone()
    [(audited, last_audit, drift_days, drift_rows)] = ask(STATEMENTS["audits"]).fetchall()
    [(late, late_days, late_since)] = ask(STATEMENTS["late_events"]).fetchall()
    [(rows, bits, last_day)] = ask(STATEMENTS["bitmap"]).fetchall()
    oldest = WaitingDay(*waiting) if waiting else None
    letters = [
        {"error_class": kind, "count": count, "oldest": first, "last": last}
        for kind, count, first, last in ask(STATEMENTS["dead_letters"])
    ]
    return Status(
        checked_at=now,
        accounts={"with_timezone": with_zone, "without_timezone": without_zone},
        days=dict(ask(STATEMENTS["days_by_state"]).fetchall()),
        oldest_waiting=oldest,
        audits={"days": audited, "last": last_audit, "days_with_drift": drift_days, "drift_rows": drift_rows},
        late_events={"waiting": late, "days": late_days, "since": late_since},
        dead_letters=letters,
        bitmap={"rows": rows, "bits_bytes": bits, "last_day": last_day},
        sizes=[
            {"table": name, "table_bytes": table, "index_bytes": index}
            for name, table, index in ask(STATEMENTS["sizes"], {"tables": list(TABLES)})
        ],
        kafka="unknown: KAFKA_BOOTSTRAP_SERVERS is not set",
        partitions=[PartitionStatus(*row) for row in ask(STATEMENTS["partitions"])],
        problems=[*stale_problems(oldest), *letter_problems(letters)],
    )


def with_lag(status: Status, properties: Mapping[str, str | int] | None) -> Status:
    """The status with what the brokers say: ends, lags and their problems. Unchanged without `properties`.

    Takes a few seconds at most; a broker that does not answer leaves the lags unknown and says so in `kafka`.
    """
    if properties is None:
        return status
    servers = properties["bootstrap.servers"]
    try:
        logs = topic_logs(properties, sorted({p.topic for p in status.partitions}), KAFKA_TIMEOUT_SECONDS)
    except KafkaException as error:
        return replace(status, kafka=f"unknown: {servers} does not answer: {error.args[0].str()}")
    partitions = [_with_end(p, logs.get(Partition(p.topic, p.partition))) for p in status.partitions]
    partitions = list(_with_unread(partitions, properties))
    problems = [*status.problems, *reading_problems(partitions, logs, status.checked_at)]
    return replace(status, kafka=f"{servers} answered", partitions=partitions, problems=problems)


def _with_end(p: PartitionStatus, log: TopicLog | None) -> PartitionStatus:
    return p if log is None else replace(p, end_offset=log.high, lag=max(0, log.high - p.next_offset))


def _with_unread(
    partitions: Sequence[PartitionStatus], properties: Mapping[str, str | int]
) -> Iterator[PartitionStatus]:
    """Those that lag and have not committed for long, with the time of their first unread message."""
    for _, group in groupby(partitions, key=attrgetter("group_id")):
        listed = list(group)
        silent = {
            Partition(p.topic, p.partition): p.next_offset
            for p in listed
            if p.lag and p.age_seconds > LONG_SILENT.total_seconds()
        }
        unread = first_unread(properties, silent, KAFKA_TIMEOUT_SECONDS)
        for p in listed:
            yield replace(p, unread_since=unread.get(Partition(p.topic, p.partition)))
