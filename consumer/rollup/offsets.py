"""Stored offsets: where partitions start, whether that still fits the topic, how a batch moves them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg

from consumer.errors import OffsetConflict
from consumer.rollup.batch import Batch, Partition
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


def lock_offsets(conn: psycopg.Connection, batch: Batch, group_id: str) -> list[int]:
    """Lock the stored offsets of a batch's partitions and compare each with the batch's start; return their shards.

    Raises OffsetConflict."""
    parameters = {
        "group_id": group_id,
        "topics": [span.source.topic for span in batch.spans],
        "partitions": [span.source.partition for span in batch.spans],
    }
    found = {
        Partition(topic, partition): (topic_id, offset, shard)
        for topic, partition, topic_id, offset, shard in conn.execute(STATEMENTS["lock_offsets"], parameters)
    }
    moved = [s for s in batch.spans if found.get(s.source, (None, None))[:2] != (s.topic_id, s.start)]
    if moved:
        raise OffsetConflict([str(span.source) for span in moved])
    return [found[span.source][2] for span in batch.spans]


def move_offsets(conn: psycopg.Connection, batch: Batch, balance: tuple[Mapping[str, int], ...], group_id: str) -> None:
    """Move them to the batch's end, and add its balance: for each of its spans, messages by outcome."""
    outcomes = {name: [row[name] for row in balance] for name in balance[0]}
    parameters = {
        "group_id": group_id,
        "topics": [span.source.topic for span in batch.spans],
        "partitions": [span.source.partition for span in batch.spans],
        "next_offsets": [span.next for span in batch.spans],
        "messages": [span.messages for span in batch.spans],
        **outcomes,
    }
    conn.execute(STATEMENTS["move_offsets"], parameters)
