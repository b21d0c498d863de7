"""`python -m consumer check`: is everything there that the consumer needs? One line each, before it is deployed."""

import logging
import os
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime

import psycopg
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from consumer import database
from consumer.access import Refusals, refused_by_database, refused_topic
from consumer.client import make_consumer
from consumer.errors import RollupError
from consumer.handlers import handler_for
from consumer.rights import missing
from consumer.rollup.batch import Partition
from consumer.rollup.days import tzdata_version, zone_names
from consumer.rollup.offsets import gap, stored_offsets
from consumer.rollup.registry import REGISTRY
from consumer.rollup.schema import check_schema, check_zones
from consumer.settings import Settings
from consumer.topics import connection_properties, topic_error

CLOCK_TOLERANCE_SECONDS = 60.0
"""This machine and the database's may differ by so much. The clock decides which days are open and which events lie too
far in the future; a minute is far below both limits and far above what a synchronised clock shows."""

GROUP_ANSWER_SHARE = 0.25
"""How much of the time for an answer one question for the group may take. In a new cluster the first one makes the
topic of offsets, and the client waits in vain for its answer; while that topic is made, brokers refuse."""

Finding = tuple[bool, str, str]
"""Whether it is good, what was checked, and what was found."""

Logs = Mapping[Partition, tuple[str, int, int]]
"""The topic's id, the first offset and the next one to be written, of each partition that could be asked for."""


def check(timeout: float) -> bool:
    """Write a line for each finding; True if all are good. `timeout` in seconds is for each answer."""
    good = True
    for ok, subject, found in _findings(timeout):
        sys.stdout.write(f"{'ok  ' if ok else 'FAIL'} {subject}: {found}\n")
        good = good and ok
    return good


def _findings(timeout: float) -> Iterator[Finding]:
    silent = logging.getLogger("consumer.check.librdkafka")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    try:
        settings = Settings.load()
        for topic in settings.kafka_topics:
            handler_for(topic.handler, REGISTRY)
        make_consumer(settings.kafka_properties(), silent).close()
    except RollupError as error:
        yield False, "configuration", str(error)
        return
    suspects = [f"; {warning}" for warning in settings.warnings(os.environ)]
    yield (
        True,
        "configuration",
        f"registry {REGISTRY.fingerprint}, {len(zone_names())} zones of tzdata "
        + (tzdata_version() + "".join(suspects)),
    )
    logs = yield from _kafka(settings, timeout, silent)
    yield from _database(settings, logs)


def _kafka(settings: Settings, timeout: float, silent: logging.Logger) -> Generator[Finding, None, Logs]:
    servers = settings.kafka_bootstrap_servers
    refusals = Refusals()
    admin = AdminClient(connection_properties(settings.kafka_properties()), logger=silent, error_cb=refusals)
    try:
        cluster = admin.list_topics(timeout=timeout)
    except KafkaException as error:
        admin.poll(0)  # it only tells in here why it could not connect
        if refusal := refusals.error():
            yield False, "broker", f"{servers}: {refusal}"
        else:
            yield False, "broker", f"{servers} does not answer: {error.args[0].str()}. Check KAFKA_BOOTSTRAP_SERVERS"
        return {}
    yield True, "broker", f"{servers} answers, {len(cluster.brokers)} in the cluster"
    logs: dict[Partition, tuple[str, int, int]] = {}
    reader = make_consumer(settings.kafka_properties(), silent)  # never joins the group
    topics = [topic.topic for topic in settings.kafka_topics]
    for name, future in admin.describe_topics(TopicCollection(topics), request_timeout=timeout).items():
        try:
            found = future.result()
            for partition in found.partitions:
                asked = TopicPartition(name, partition.id)
                low, high = reader.get_watermark_offsets(asked, timeout=timeout)
                logs[Partition(name, partition.id)] = str(found.topic_id), low, high
        except KafkaException as error:
            found_wrong = topic_error(name, error, refusals)
            waits = "" if isinstance(found_wrong, RollupError) else ". A consumer waits until a broker answers"
            yield False, f"topic {name}", f"{found_wrong}{waits}"
        else:
            yield True, f"topic {name}", f"{len(found.partitions)} partitions, id {found.topic_id}"
    reader.close()
    yield _group(admin, settings.kafka_group_id, timeout)
    return logs


def _group(admin: AdminClient, group: str, timeout: float) -> Finding:
    """Whether we may join: who may read a group may describe it. That it does not exist yet is no error."""
    subject = f"group {group}"
    backoff, failures, deadline = database.Backoff(), 0, time.monotonic() + timeout
    while True:
        try:
            admin.describe_consumer_groups([group], request_timeout=timeout * GROUP_ANSWER_SHARE)[group].result()
        except KafkaException as error:
            if refusal := refused_topic(subject, error.args[0]):
                return False, subject, str(refusal)
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                failures += 1
                if time.monotonic() < deadline:
                    time.sleep(backoff.delay(failures))
                    continue
                said = error.args[0].name()
                return False, subject, f"its coordinator does not answer ({said}). A consumer waits until it does"
        return True, subject, "may be joined"


def _database(settings: Settings, logs: Logs) -> Iterator[Finding]:
    try:
        with database.connect(
            settings.database_url,
            statement_timeout=settings.db_statement_timeout_seconds,
            application="reporting-rollup check",
        ) as conn:
            row = conn.execute("SELECT current_setting('server_version'), clock_timestamp()").fetchone()
            here = datetime.now(UTC)
            version, there = row or ("", here)
            yield True, "database", f"PostgreSQL {version} answers"
            ahead = (here - there).total_seconds()
            close = abs(ahead) <= CLOCK_TOLERANCE_SECONDS
            advice = "" if close else ". Synchronise both clocks (NTP)"
            yield close, "clock", f"{ahead:+.3f} s against the database's{advice}"
            yield from _tables(conn, settings, logs)
    except psycopg.Error as error:
        refusal = refused_by_database(error)
        yield False, "database", str(refusal or f"{database.one_line(error)}. Check DATABASE_URL")


def _tables(conn: psycopg.Connection, settings: Settings, logs: Logs) -> Iterator[Finding]:
    """What can only be asked of a schema that is right, and by one who may read it."""
    subject = "schema"
    try:
        yield True, subject, f"migrated up to {check_schema(conn)}"
        subject = "time zones"
        yield True, subject, f"{check_zones(conn)} in use, all known"
        subject = "rights"
        lacking = missing(conn)
        advice = f"missing: {', '.join(lacking)}. docs/security.md says which rights each program needs"
        yield not lacking, subject, advice if lacking else "all that a batch needs"
        subject = "stored offsets"
        if logs:  # else it was told already that there is no broker, or no topic, to compare with
            yield from _offsets(conn, settings, logs)
    except RollupError as error:
        yield False, subject, str(error)
    except psycopg.Error as error:
        if not (refusal := refused_by_database(error)):
            raise
        yield False, subject, str(refusal)


def _offsets(conn: psycopg.Connection, settings: Settings, logs: Logs) -> Iterator[Finding]:
    """Whether the stored offsets fit the topics' logs."""
    stored = stored_offsets(conn, settings.kafka_group_id, logs)
    resets = settings.on_offset_gap == "reset"
    fit = True
    for partition, row in sorted(stored.items()):
        if problem := gap(partition, row, *logs[partition]):
            fit = False
            advice = (
                "as ON_OFFSET_GAP=reset says, the consumer goes on" if resets else "set ON_OFFSET_GAP=reset to go on"
            )
            yield (
                resets,
                f"stored offset of {partition}",
                f"{problem}. If it cannot come back, {advice} from {logs[partition][1]}",
            )
    if fit:
        yield True, "stored offsets", f"{len(stored)}, all within their topics' logs"
