"""The ground that runs stand on: a database with accounts, topics with events, and the environment of a consumer."""

import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg import sql

from bench.programs import BenchError
from local.events import Workload, generate, produce, write_raw, write_settings
from local.migrate import migrate
from local.services import Services

PARTITIONS = 4
WRITTEN = (
    "consumer_offsets",
    "counted_events",
    "rollup_members",
    "reporting_events_rollups",
    "rollup_days",
    "dead_letters",
    "late_events",
)
"""Every table that a consumer writes."""

NOT_PASSED_ON = ("DATABASE_URL_FILE", "KAFKA_GROUP_INSTANCE_ID")


@dataclass(frozen=True)
class Ground:
    """Where a run takes place.

    Attributes:
        conn: to the run's own database, in autocommit.
        folder: for logs and files that processes hand over; deleted afterwards.
        workload: what is in `topic`, once `fill` has been called.
    """

    services: Services
    database_url: str
    conn: psycopg.Connection
    folder: Path
    workload: Workload
    topic: str
    steady_topic: str
    message_bytes: list[int] = field(default_factory=list)

    def environment(self, topic: str, group: str) -> dict[str, str]:
        """A consumer's: the caller's own, so that settings can be tried, but for what says where and what to read."""
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        return inherited | {
            "DATABASE_URL": self.database_url,
            "KAFKA_BOOTSTRAP_SERVERS": self.services.kafka_bootstrap,
            "KAFKA_TOPICS": topic,
            "KAFKA_GROUP_ID": group,
        }

    def fill(self, *, raw: bool) -> None:
        """Put the events into the topic, and with `raw` into the raw table too."""
        sample = generate(self.workload)
        if raw:
            write_raw(self.conn, sample)
        sizes = [0]

        def measured() -> Iterator[tuple[bytes, bytes]]:
            for key, value in sample.messages():
                sizes[0] += len(value)
                yield key, value

        sent = produce(self.services.kafka_bootstrap, self.topic, measured())
        self.message_bytes.append(round(sizes[0] / sent))

    def clear(self) -> None:
        """As before the first event: tables that consumers write are empty, and nothing is left to tidy up."""
        names = sql.SQL(", ").join(map(sql.Identifier, WRITTEN))
        self.conn.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(names))
        self.conn.execute("CHECKPOINT")
        self.conn.execute("VACUUM")


@contextmanager
def ground(services: Services, events: int) -> Iterator[Ground]:
    """A database and two topics of the run's own, gone afterwards; every account had its time zone long before."""
    name = f"bench_{uuid.uuid4().hex[:12]}"
    database_url = urlunsplit(urlsplit(services.database_url)._replace(path=f"/{name}"))
    workload = Workload(end_us=time.time_ns() // 1000, events=events)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reporting-rollup-bench-")))
        migrate(database_url)
        stack.callback(_drop, services.database_url, name)
        topics = (name, f"{name}_steady")
        stack.enter_context(_topics(services.kafka_bootstrap, topics))
        conn = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        write_settings(conn, workload)
        # Days count as ordinary ones only when the rollup was switched on before they began.
        conn.execute("UPDATE account_settings SET rollup_since = now() - interval '40 days'")
        made = Ground(services, database_url, conn, folder, workload, *topics)
        made.clear()
        yield made


@contextmanager
def _topics(bootstrap: str, names: Iterable[str]) -> Iterator[None]:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    wanted = [NewTopic(name, PARTITIONS, 1, config={"compression.type": "lz4"}) for name in names]
    for created in admin.create_topics(wanted).values():
        created.result(30)
    try:
        deadline = time.monotonic() + 30
        while not all(_has_leaders(admin, topic.topic) for topic in wanted):
            if time.monotonic() > deadline:
                raise BenchError("Kafka made topics without leaders for 30 s: look at the broker's log")
            time.sleep(0.02)
        yield
    finally:
        for deleted in admin.delete_topics([topic.topic for topic in wanted]).values():
            deleted.exception(30)  # a broker that has gone has taken them along


def _has_leaders(admin: AdminClient, topic: str) -> bool:
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions.values()
    return len(partitions) == PARTITIONS and all(partition.leader >= 0 for partition in partitions)


def _drop(database_url: str, name: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
