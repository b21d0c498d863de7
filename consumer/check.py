"""`python -m consumer check`: is everything there that the consumer needs? One line each, before it is deployed."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from consumer import database
from consumer.access import Refusals
from consumer.errors import RollupError
from consumer.handlers import handler_for
from consumer.rollup.days import tzdata_version, zone_names
from consumer.rollup.registry import REGISTRY
from consumer.rollup.schema import check_schema
from consumer.settings import Settings
from consumer.source import connection_properties, make_consumer

CLOCK_TOLERANCE_SECONDS = 60.0
"""This machine and the database's may differ by so much. The clock decides which days are open and which events lie too
far in the future; a minute is far below both limits and far above what a synchronised clock shows."""

Finding = tuple[bool, str, str]
"""Whether it is good, what was checked, and what was found."""


def check(timeout: float, write: Callable[[str], object] = sys.stdout.write) -> bool:
    """Write a line for each finding; True if all are good. `timeout` in seconds is for each answer."""
    good = True
    for ok, subject, found in _findings(timeout):
        write(f"{'ok  ' if ok else 'FAIL'} {subject}: {found}\n")
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
    yield from _kafka(settings, timeout, silent)
    yield from _database(settings)


def _kafka(settings: Settings, timeout: float, silent: logging.Logger) -> Iterator[Finding]:
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
        return
    yield True, "broker", f"{servers} answers, {len(cluster.brokers)} in the cluster"
    topics = [topic.topic for topic in settings.kafka_topics]
    for name, future in admin.describe_topics(TopicCollection(topics), request_timeout=timeout).items():
        try:
            found = future.result(timeout)
        except KafkaException as error:
            yield False, f"topic {name}", f"{error.args[0].str()} Create it, or change KAFKA_TOPICS"
        else:
            yield True, f"topic {name}", f"{len(found.partitions)} partitions, id {found.topic_id}"


def _database(settings: Settings) -> Iterator[Finding]:
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
            try:
                yield True, "schema", f"migrated up to {check_schema(conn)}"
            except RollupError as error:
                yield False, "schema", str(error)
            ahead = (here - there).total_seconds()
            close = abs(ahead) <= CLOCK_TOLERANCE_SECONDS
            advice = "" if close else ". Synchronise both clocks (NTP)"
            yield close, "clock", f"{ahead:+.3f} s against the database's{advice}"
    except psycopg.Error as error:
        yield False, "database", f"{' '.join(str(error).split())}. Check DATABASE_URL"
