"""Sample events like a busy help desk's, the same ones for the same `Workload`: for the demo, tests and the benchmark.

    sample = generate(Workload(end_us=now_us, events=1_000_000))
    write_settings(conn, sample)                      # accounts and their time zones
    write_raw(conn, sample)                           # rows of reporting_events
    produce(servers, "reporting_events", sample.messages())

Columns are drawn with numpy and turned into text a slice at a time, so a million events take seconds and little
memory. Nothing here reads a clock: `Workload.end_us` says when the sample's present is.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psycopg
from confluent_kafka import KafkaError, KafkaException, Message, Producer

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

HOUR_US = 3_600_000_000
SLICE = 20_000
"""Rows turned into text at a time."""

# name, share of the events, median duration in seconds, spread of its logarithm, whether a bot did it
EVENT_MIX = (
    ("reply_time", 0.52, 300, 1.2, False),
    ("first_response", 0.18, 120, 1.3, False),
    ("conversation_resolved", 0.18, 6 * 3600, 1.5, False),
    ("conversation_bot_resolved", 0.07, 60, 0.9, True),
    ("conversation_bot_handoff", 0.05, 30, 0.8, True),
)
UNKNOWN_NAMES = ("conversation_opened", "csat_survey_sent")
"""Events an application writes and no metric reads."""

LONGEST_US = 30 * 24 * HOUR_US
NO_BUSINESS_HOURS = 0.03
"""Share of events whose value_in_business_hours is null: their inbox keeps no working hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What to generate. Equal workloads give equal events.

    Attributes:
        end_us: the sample's present, microseconds since 1970 UTC; the newest event is created just before it.
        hours: how long before `end_us` the events were created.
        accounts, agents, inboxes: account ids are 1 to `accounts`, each with so many agents and inboxes of its own.
            Some accounts are much larger than others.
        zones: reporting time zones, dealt to the accounts in turn.
        first_id: the lowest event id; ids are consecutive and rise with created_at, but for a little disorder.
        duplicates: messages sent again somewhat later, as a share of `events`.
        late: share of the events created 1 to `late_days` days before their message is sent.
        bad: further messages that cannot be an event, as a share of `events`.
        unknown: share of the events whose name feeds no metric.
    """

    end_us: int
    seed: int = 1
    events: int = 1_000_000
    hours: float = 30.0
    accounts: int = 500
    agents: int = 10
    inboxes: int = 5
    zones: tuple[str, ...] = ("America/New_York", "Europe/Berlin", "Asia/Kolkata", "America/Sao_Paulo")
    first_id: int = 1
    duplicates: float = 0.0
    late: float = 0.0
    late_days: int = 6
    bad: float = 0.0
    unknown: float = 0.0

    def __post_init__(self) -> None:
        for field in ("events", "hours", "accounts", "agents", "inboxes", "first_id", "late_days"):
            if getattr(self, field) <= 0:
                raise ValueError(f"Workload.{field} is {getattr(self, field)}; it must be above 0")
        for field in ("duplicates", "late", "bad", "unknown"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"Workload.{field} is {getattr(self, field)}; it is a share, from 0 to 1")
        if not self.zones:
            raise ValueError("Workload.zones is empty; name at least one IANA time zone")

    @property
    def timezones(self) -> dict[int, str]:
        """Account id -> its reporting time zone."""
        return {a: self.zones[(a - 1) % len(self.zones)] for a in range(1, self.accounts + 1)}


class RawRow(NamedTuple):
    """A row of `reporting_events`, its columns in their order. Durations in seconds, instants aware (UTC)."""

    id: int
    name: str
    value: float | None
    value_in_business_hours: float | None
    account_id: int
    inbox_id: int | None
    user_id: int | None
    conversation_id: int | None
    event_start_time: datetime
    event_end_time: datetime
    created_at: datetime
    updated_at: datetime


class Expected(NamedTuple):
    """What a consumer must make of a sample's messages: `events` and `late` are counted, now or by a rebuild.

    messages = events + duplicates + skipped + dead. `late` of the `events` were created a day or more before they
    are sent; whether their day is still open then is the consumer's affair.
    """

    messages: int
    events: int
    duplicates: int
    skipped: int
    dead: int
    late: int


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Generated events as columns of one length, in the order in which they are first sent.

    `name` is a position in `names`. `business_null` and `user_null` mark the rows where that column is null.
    `send` lists the messages: rows, some of them twice; `fault` says for each which of `FAULTS` spoils it, or -1.
    """

    workload: Workload
    names: tuple[str, ...]
    id: Int64Array
    name: Int64Array
    value_us: Int64Array
    business_us: Int64Array
    business_null: BoolArray
    account_id: Int64Array
    inbox_id: Int64Array
    user_id: Int64Array
    user_null: BoolArray
    conversation_id: Int64Array
    created_us: Int64Array
    late: BoolArray
    send: Int64Array
    fault: Int64Array

    def __len__(self) -> int:
        return len(self.id)

    @property
    def expected(self) -> Expected:
        """What must become of the messages."""
        known = self.name < len(EVENT_MIX)
        good = self.send[self.fault < 0]
        counted = int(known.sum())
        known_messages = int(known[good].sum())
        return Expected(
            messages=len(self.send),
            events=counted,
            duplicates=known_messages - counted,
            skipped=len(good) - known_messages,
            dead=len(self.send) - len(good),
            late=int((self.late & known).sum()),
        )

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of every message in the order to send them: the account's id, and the row as JSON."""
        for start in range(0, len(self.send), SLICE):
            rows, faults = self.send[start : start + SLICE], self.fault[start : start + SLICE]
            values = [(MESSAGE % row).encode() for row in self._text(rows, "Z", "null")]
            for i in np.flatnonzero(faults >= 0).tolist():
                values[i] = FAULTS[faults[i]](values[i])
            yield from zip((b"%d" % a for a in self.account_id[rows].tolist()), values, strict=True)

    def copy_text(self) -> Iterator[bytes]:
        """The raw table's rows, once each, as COPY text, a slice at a time."""
        for start in range(0, len(self), SLICE):
            rows = np.arange(start, min(start + SLICE, len(self)))
            yield "".join([COPY_LINE % row for row in self._text(rows, "+00", "\\N")]).encode()

    def raw_rows(self) -> Iterator[RawRow]:
        """The raw table's rows, once each, for a test to feed to a model."""
        for start in range(0, len(self), SLICE):
            rows = np.arange(start, min(start + SLICE, len(self)))
            for *columns, started, ended, created, updated in self._text(rows, "+00", None):
                yield RawRow(*columns, *map(datetime.fromisoformat, (started, ended, created, updated)))

    def _text(self, rows: Int64Array, utc: str, null: str | None) -> Iterator[tuple[Any, ...]]:
        """Some rows' columns as in RawRow, instants as text that ends in `utc`, nulls as `null`."""

        def nullable(column: npt.NDArray[Any], is_null: BoolArray) -> list[Any]:
            return [null if n else v for v, n in zip(column.tolist(), is_null.tolist(), strict=True)]

        def instants(column: Int64Array) -> list[str]:
            return [t + utc for t in np.datetime_as_string(column.view("datetime64[us]"), unit="us").tolist()]

        created = instants(self.created_us[rows])
        return zip(
            self.id[rows].tolist(),
            [self.names[n] for n in self.name[rows].tolist()],
            (self.value_us[rows] / 1e6).tolist(),
            nullable(self.business_us[rows] / 1e6, self.business_null[rows]),
            self.account_id[rows].tolist(),
            self.inbox_id[rows].tolist(),
            nullable(self.user_id[rows], self.user_null[rows]),
            self.conversation_id[rows].tolist(),
            instants(self.created_us[rows] - self.value_us[rows]),
            created,
            created,
            created,
            strict=True,
        )


MESSAGE = (
    '{"id":%d,"name":"%s","value":%r,"value_in_business_hours":%s,"account_id":%d,"inbox_id":%d,"user_id":%s,'
    '"conversation_id":%d,"event_start_time":"%s","event_end_time":"%s","created_at":"%s","updated_at":"%s"}'
)
COPY_LINE = "\t".join(["%s"] * len(RawRow._fields)) + "\n"

FAULTS: tuple[Callable[[bytes], bytes], ...] = (
    lambda good: good[: len(good) // 2],
    lambda good: good.replace(b'"account_id":', b'"account_id":"account ').replace(b',"inbox_id"', b'","inbox_id"'),
    lambda good: re.sub(rb'"created_at":"....', b'"created_at":"2099', good),
    lambda good: good.replace(b'{"id":', b'{"event_id":'),
    lambda good: re.sub(rb'"value":[^,]+', b'"value":NaN', good),
    lambda good: good.replace(b'"name":"', b'"name":"\xff\xfe'),
)
"""How senders spoil a message: cut off, text for a number, a clock in 2099, no id, NaN, not UTF-8."""


def generate(workload: Workload) -> Sample:
    """The events and messages that `workload` describes: columns only, about 150 bytes an event."""
    w, rng = workload, np.random.default_rng(workload.seed)
    sent_us = np.sort(rng.integers(w.end_us - int(w.hours * HOUR_US), w.end_us, w.events))
    late = rng.random(w.events) < w.late
    created_us = sent_us - np.where(late, rng.integers(24 * HOUR_US, w.late_days * 24 * HOUR_US + 1, w.events), 0)

    # Ids rise with created_at, but neighbours swap: overlapping transactions draw ids in one order, commit in another.
    by_creation = np.empty(w.events, np.int64)
    by_creation[np.argsort(created_us, kind="stable")] = np.arange(w.events)
    ids = np.empty(w.events, np.int64)
    ids[np.argsort(by_creation + rng.uniform(0, 4, w.events))] = w.first_id + np.arange(w.events)

    weights = 1.0 / (5 + np.arange(w.accounts)) ** 0.8
    accounts = rng.choice(rng.permutation(w.accounts) + 1, w.events, p=weights / weights.sum())

    shares, medians, spreads, bots = (np.array(column) for column in list(zip(*EVENT_MIX, strict=True))[1:])
    kind = rng.choice(len(EVENT_MIX), w.events, p=shares)
    value_us = medians[kind] * 1e6 * np.exp(rng.standard_normal(w.events) * spreads[kind])
    value_us = np.clip(value_us, 1, LONGEST_US).astype(np.int64)
    business_us = (value_us * np.clip(rng.uniform(0.2, 1.4, w.events), 0, 1)).astype(np.int64)
    unknown = rng.random(w.events) < w.unknown
    send, fault = _sending(w, rng)
    return Sample(
        workload=w,
        names=tuple(name for name, *_ in EVENT_MIX) + UNKNOWN_NAMES,
        id=ids,
        name=np.where(unknown, len(EVENT_MIX) + kind % len(UNKNOWN_NAMES), kind),
        value_us=value_us,
        business_us=business_us,
        business_null=rng.random(w.events) < NO_BUSINESS_HOURS,
        account_id=accounts,
        inbox_id=(accounts - 1) * w.inboxes + rng.integers(1, w.inboxes + 1, w.events),
        user_id=(accounts - 1) * w.agents + rng.integers(1, w.agents + 1, w.events),
        user_null=bots[kind].astype(np.bool_),
        # About three events a conversation, so that bots now and then hand one off twice.
        conversation_id=accounts + w.accounts * rng.integers(0, w.events // w.accounts // 3 + 1, w.events),
        created_us=created_us,
        late=late,
        send=send,
        fault=fault,
    )


def _sending(w: Workload, rng: np.random.Generator) -> tuple[Int64Array, Int64Array]:
    """Which row each message carries and what spoils it (-1: nothing). Repeats come up to 5,000 messages later;
    a bad message is a spoilt copy of the row sent before it."""
    repeated = rng.integers(0, w.events, round(w.events * w.duplicates))
    spoilt = rng.integers(0, w.events, round(w.events * w.bad))
    rows = np.concatenate([np.arange(w.events), repeated, spoilt])
    place = rows + np.concatenate(
        [np.zeros(w.events), rng.uniform(0.5, 5_000, len(repeated)), rng.uniform(0.1, 0.9, len(spoilt))]
    )
    fault = np.full(len(rows), -1)
    fault[len(rows) - len(spoilt) :] = np.arange(len(spoilt)) % len(FAULTS)
    order = np.argsort(place, kind="stable")
    return rows[order], fault[order]


def write_settings(conn: psycopg.Connection[Any], workload: Workload) -> None:
    """Give every account its reporting time zone, in the caller's transaction. Those that have it stay untouched."""
    timezones = workload.timezones
    conn.execute(
        "INSERT INTO account_settings AS s (account_id, reporting_timezone)"
        " SELECT * FROM unnest(%s::int[], %s::text[])"
        " ON CONFLICT (account_id) DO UPDATE SET reporting_timezone = excluded.reporting_timezone"
        " WHERE s.reporting_timezone IS DISTINCT FROM excluded.reporting_timezone",
        (list(timezones), list(timezones.values())),
    )


def write_raw(conn: psycopg.Connection[Any], sample: Sample) -> int:
    """Put the sample's rows into `reporting_events` with COPY, in the caller's transaction; returns how many.

    Raises psycopg.errors.UniqueViolation when one of the ids is there already.
    """
    columns = ", ".join(RawRow._fields)
    with conn.cursor() as cursor, cursor.copy(f"COPY reporting_events ({columns}) FROM STDIN") as copy:
        for lines in sample.copy_text():
            copy.write(lines)
    return len(sample)


def produce(bootstrap: str, topic: str, messages: Iterable[tuple[bytes, bytes]], timeout: float = 60.0) -> int:
    """Send (key, value) messages to `topic` and wait until the broker has them all; returns how many.

    Messages go to the partition that Java clients choose for the key. Blocks while the broker is slower than
    `messages`. Raises KafkaException for the first message that could not be delivered, also when the broker
    has not taken the last ones `timeout` seconds after they were handed over.
    """
    errors: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            errors.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": 1,
            "compression.type": "lz4",
            "linger.ms": 50,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
            "message.timeout.ms": int(timeout * 1000),
            "delivery.report.only.error": True,
            "topic.metadata.propagation.max.ms": 5_000,  # a topic that is not there is told after 5 s, not 30
        }
    )
    count = 0
    for key, value in messages:
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
        if errors:
            producer.purge()
            break
    left = producer.flush(timeout)
    if errors:
        raise KafkaException(errors[0])
    if left:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} of {count} messages not taken in {timeout} s"))
    return count
