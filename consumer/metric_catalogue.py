"""The catalogue of metrics: name, kind, unit, labels with their bounds, and what a person learns from each.

`CATALOGUE` is the one list: the Prometheus objects in `consumer.metrics`, docs/metrics.md and the tests follow from it.
No label may hold an id (account, event, offset): the number of time series depends on configuration and partitions
alone, never on data.
"""

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "reporting_rollup_"


class Kind(StrEnum):
    """How Prometheus keeps a metric. `INFO` is a gauge of 1 whose labels are the news."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


OTHER = "other"
"""Takes the place of a label value that is not in the catalogue, when the value comes from outside."""

OUTCOMES = ("counted", "duplicate", "late", "skipped", "dead")
SKIP_REASONS = ("tombstone", "unknown_event", "no_timezone", OTHER)
ERROR_CLASSES = ("syntax", "encoding", "type", "missing", "range", "timestamp", "text", "size", "nesting", OTHER)
REBALANCES = ("assigned", "revoked", "lost")
PAUSES = ("database", "backpressure")
FRESHNESS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZE_BUCKETS = (1, 10, 100, 1_000, 5_000, 20_000, 50_000, 100_000, 200_000, 400_000, 1_000_000)

STAGES = {
    "reader": ("poll", "decode", "backpressure", "paused", "idle"),
    "writer": ("waiting", "merge", "aggregate", "offsets", "days", "ids", "members", "upsert", "commit", "retry"),
}
"""What each of the two threads can be doing. A stage's word belongs to one thread."""

THREAD_OF = {stage: thread for thread, stages in STAGES.items() for stage in stages}
"""Which thread a stage is one of."""

SQLSTATES = {
    "none": "no answer: the connection is gone",
    "08000": "connection",
    "08001": "connection",
    "08003": "connection",
    "08006": "connection",
    "25006": "read-only: a standby, after a failover",
    "40001": "serialization",
    "40P01": "deadlock",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "55P03": "lock not available",
    "57014": "cancelled, or statement timeout",
    "57P01": "shutdown by the administrator",
    "57P02": "crash",
    "57P03": "starting up",
    OTHER: "any other",
}


@dataclass(frozen=True, slots=True)
class Label:
    """A label and its values: all of them, or (`values` empty) what bounds their number."""

    name: str
    values: tuple[str, ...] = ()
    bound: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric. `name` has no prefix; `meaning` is what a person at a dashboard learns from it."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()


_TOPIC = Label("topic", bound="configured topics")
_PARTITION = (_TOPIC, Label("partition", bound="partitions this process owns"))

CATALOGUE = (
    Row(
        "messages_consumed_total",
        Kind.COUNTER,
        "messages",
        "Read and decoded, whatever became of them. Its rate is the throughput; flat while lag grows: stuck.",
        (_TOPIC,),
    ),
    Row(
        "events_total",
        Kind.COUNTER,
        "messages",
        "What became of the messages of committed transactions. `late` ones wait for a rebuild of their day, "
        "`duplicate` ones had been counted before, `dead` ones lie in dead_letters.",
        (Label("outcome", OUTCOMES),),
    ),
    Row(
        "events_skipped_total",
        Kind.COUNTER,
        "messages",
        "Why messages were skipped: `unknown_event` feeds no metric, `no_timezone` belongs to an account that is not "
        "switched on, `tombstone` has no value.",
        (Label("reason", SKIP_REASONS),),
    ),
    Row(
        "dead_letters_total",
        Kind.COUNTER,
        "messages",
        "Messages that cannot be events, by what is wrong with them. Any at all deserve a look; a burst means that a "
        "producer changed its format.",
        (Label("error_class", ERROR_CLASSES),),
    ),
    Row(
        "batch_events",
        Kind.HISTOGRAM,
        "messages",
        "Messages in one transaction. Grows by itself under lag; at BATCH_MAX_EVENTS the database limits.",
        buckets=SIZE_BUCKETS,
    ),
    Row(
        "batch_duration_seconds",
        Kind.HISTOGRAM,
        "seconds",
        "From the start of a transaction to its commit.",
        buckets=DURATION_BUCKETS,
    ),
    Row(
        "stage_seconds_total",
        Kind.COUNTER,
        "seconds",
        "What the two threads spend their time on; the rates of one thread add up to about 1, so a stacked graph shows "
        "what limits. The reader mostly in `backpressure`: the writer limits, and its stages say where; mostly in "
        "`decode`: the CPU; mostly `idle`: nothing does.",
        (Label("thread", tuple(STAGES)), Label("stage", tuple(THREAD_OF))),
    ),
    Row(
        "pending_events",
        Kind.GAUGE,
        "messages",
        "Decoded, but not committed yet. Bounded by configuration.",
    ),
    Row(
        "rows_upserted_total",
        Kind.COUNTER,
        "rows",
        "Rollup rows written; per event, it tells how well batches aggregate.",
    ),
    Row("transactions_total", Kind.COUNTER, "transactions", "Committed transactions of the live path."),
    Row(
        "db_retries_total",
        Kind.COUNTER,
        "transactions",
        "Transactions that rolled back and were tried again, by PostgreSQL's error code: "
        + ", ".join(f"{code} {words}" for code, words in SQLSTATES.items())
        + ".",
        (Label("sqlstate", tuple(SQLSTATES)),),
    ),
    Row("db_up", Kind.GAUGE, "0 or 1", "Whether PostgreSQL answered the last time it was asked."),
    Row(
        "consumer_lag_messages",
        Kind.GAUGE,
        "messages",
        "Messages in a partition that no committed transaction has passed; absent until known.",
        _PARTITION,
    ),
    Row(
        "consumer_lag_seconds",
        Kind.GAUGE,
        "seconds",
        "Age of the oldest message that is not committed, by the broker's clock; 0 when there is none. Alert on this: "
        "it says how far reports are behind. Absent until known.",
        _PARTITION,
    ),
    Row(
        "freshness_seconds",
        Kind.HISTOGRAM,
        "seconds",
        "From an event's created_at to the commit that counted it; the oldest event of each transaction. High with "
        "little lag: producers are slow.",
        buckets=FRESHNESS_BUCKETS,
    ),
    Row(
        "broker_freshness_seconds",
        Kind.HISTOGRAM,
        "seconds",
        "From a message's timestamp in Kafka to the commit that counted it; the oldest message of each transaction. "
        "This service's own share.",
        buckets=FRESHNESS_BUCKETS,
    ),
    Row("assigned_partitions", Kind.GAUGE, "partitions", "Partitions this process owns; 0 in a member that stands by."),
    Row(
        "rebalances_total",
        Kind.COUNTER,
        "rebalances",
        "Changes of ownership. `lost`: the group gave this member up; it polled too late or was cut off.",
        (Label("kind", REBALANCES),),
    ),
    Row(
        "offset_conflicts_total",
        Kind.COUNTER,
        "transactions",
        "Transactions refused because stored offsets had moved: another member had taken over, or the database went "
        "back in time. Harmless now and then; steadily means two consumers believe they own a partition.",
    ),
    Row(
        "offset_gaps_total",
        Kind.COUNTER,
        "partitions",
        "Stored offsets no longer in the topic; reading went on after the gap (ON_OFFSET_GAP=reset): verify.",
    ),
    Row(
        "settings_reloads_total",
        Kind.COUNTER,
        "reloads",
        "Times that accounts' settings were read again because they had changed.",
    ),
    Row(
        "stale_days",
        Kind.GAUGE,
        "days",
        "Days that wait for a rebuild. Growing: nobody runs `python -m backfill --stale`.",
    ),
    Row(
        "last_commit_timestamp_seconds",
        Kind.GAUGE,
        "seconds since 1970",
        "When a transaction last passed messages of the partition; 0 if not since it was assigned.",
        _PARTITION,
    ),
    Row(
        "paused_seconds_total",
        Kind.COUNTER,
        "seconds",
        "Time in which partitions were not read: PostgreSQL away, or the writer behind.",
        (Label("reason", PAUSES),),
    ),
    Row(
        "build_info",
        Kind.INFO,
        "",
        "Versions of this program and of what its results rest on; tzdata decides where days begin.",
        tuple(Label(name, bound="one") for name in ("version", "python", "librdkafka", "tzdata")),
    ),
    Row(
        "registry_info",
        Kind.INFO,
        "",
        "The fingerprint of the metric registry, as in rollup_days. Two values at once: a rollout is under way.",
        (Label("fingerprint", bound="one"),),
    ),
)

BACKFILL_RESULTS = ("rebuilt", "settling", "late", "missing", "no timezone", "unknown timezone", "failed")

BACKFILL_CATALOGUE = (
    Row(
        "backfill_days_total",
        Kind.COUNTER,
        "days",
        "Account-days rebuilt or audited, by result. `missing` ones were left alone because raw lacks events that were "
        "counted, `late` and `settling` ones stay stale for now, `failed` ones are tried again.",
        (Label("result", BACKFILL_RESULTS),),
    ),
    Row("backfill_days_closed_total", Kind.COUNTER, "days", "Account-days audited and closed."),
    Row("backfill_raw_events_total", Kind.COUNTER, "events", "Raw events read by rebuilds and audits."),
    Row("backfill_rows_changed_total", Kind.COUNTER, "rows", "Rollup rows that rebuilds wrote or removed."),
    Row(
        "backfill_drift_rows_total",
        Kind.COUNTER,
        "rows",
        "Rollup rows that audits found wrong, and corrected. Above 0: a defect, or somebody wrote to the tables.",
    ),
    Row("backfill_bitmap_rows_pruned_total", Kind.COUNTER, "rows", "Rows of counted_events nobody needs any more."),
    Row("backfill_dead_letters_pruned_total", Kind.COUNTER, "letters", "Dead letters deleted, long after their end."),
    Row(
        "backfill_dead_letters_waiting",
        Kind.GAUGE,
        "letters",
        "Dead letters that were neither replayed nor discarded, of all groups, as of the last look.",
    ),
    Row("backfill_stale_days", Kind.GAUGE, "days", "Account-days behind their raw events, as of the last look."),
    Row(
        "backfill_oldest_stale_seconds",
        Kind.GAUGE,
        "seconds",
        "How long the oldest of them has been stale; 0 if there is none. Growing: it cannot be rebuilt, logs say why.",
    ),
    Row(
        "backfill_last_look_timestamp_seconds",
        Kind.GAUGE,
        "seconds since 1970",
        "When the last look for stale days and days to close ended well.",
    ),
)
"""Those of `python -m backfill --stale --watch`."""
