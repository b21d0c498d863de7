"""Stored offsets outside a batch's transaction: where partitions start, and whether that still fits the topic."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg

from consumer.rollup.batch import Partition
from consumer.rollup.statements import STATEMENTS


@dataclass(frozen=True, slots=True)
class Stored:
    """A partition's row in `consumer_offsets`: the next offset to read, in the log of the topic with this id."""

    topic_id: str
    next: int


def stored_offsets(conn: psycopg.Connection, group_id: str, partitions: Iterable[Partition]) -> dict[Partition, Stored]:
    """The stored offsets of those partitions that the group has read before."""
    listed = sorted(partitions)
    parameters = {
        "group_id": group_id,
        "topics": [p.topic for p in listed],
        "partitions": [p.partition for p in listed],
    }
    rows = conn.execute(STATEMENTS["stored_offsets"], parameters).fetchall()
    return {Partition(topic, number): Stored(topic_id, offset) for topic, number, topic_id, offset in rows}


def adopt_partitions(conn: psycopg.Connection, group_id: str, starts: Mapping[Partition, Stored]) -> None:
    """Store first offsets; partitions that have one keep theirs."""
    listed = sorted(starts)
    parameters = {
        "group_id": group_id,
        "topics": [p.topic for p in listed],
        "partitions": [p.partition for p in listed],
        "topic_ids": [starts[p].topic_id for p in listed],
        "starts": [starts[p].next for p in listed],
    }
    conn.execute(STATEMENTS["adopt_partitions"], parameters)


def reset_offset(
    conn: psycopg.Connection, group_id: str, partition: Partition, expected: Stored, start: Stored
) -> bool:
    """Move a stored offset to where the log starts; False if somebody else moved it meanwhile."""
    parameters = {
        "group_id": group_id,
        "topic": partition.topic,
        "partition": partition.partition,
        "expected": expected.next,
        "expected_topic_id": expected.topic_id,
        "start": start.next,
        "topic_id": start.topic_id,
    }
    return conn.execute(STATEMENTS["reset_offset"], parameters).rowcount == 1


def gap(partition: Partition, stored: Stored, topic_id: str, low: int, high: int) -> str | None:
    """Why a stored offset does not fit the log [low, high) of the topic; None if it does."""
    name = str(partition)
    if stored.topic_id != topic_id:
        return (
            f"{name}: the topic was deleted and made again (its id was {stored.topic_id}, is {topic_id}); "
            f"the stored offset {stored.next} means nothing in the new log [{low}, {high})"
        )
    if stored.next < low:
        return (
            f"{name}: the stored offset {stored.next} lies before the log's start {low}; retention deleted up to "
            f"{low - stored.next} unread messages"
        )
    if stored.next > high:
        return f"{name}: the stored offset {stored.next} lies beyond the log's end {high}; the broker lost messages"
    return None
