"""The letters just before where partitions start: what `consumer.flood` has to know of them."""

from collections.abc import Mapping

import psycopg

from consumer.dead_letters.statements import STATEMENTS
from consumer.flood import Recent
from consumer.rollup.batch import Partition
from consumer.rollup.offsets import Stored


def recent_letters(
    conn: psycopg.Connection, group_id: str, starts: Mapping[Partition, Stored], most: int
) -> dict[Partition, list[Recent]]:
    """For every partition of `starts`, the letters of the last `most` offsets before its stored one, the oldest first.
    Those that somebody has replayed or discarded are left out."""
    listed = sorted(starts)
    parameters = {
        "group_id": group_id,
        "topics": [p.topic for p in listed],
        "partitions": [p.partition for p in listed],
        "topic_ids": [starts[p].topic_id for p in listed],
        "nexts": [starts[p].next for p in listed],
        "most": most,
    }
    recent: dict[Partition, list[Recent]] = {p: [] for p in listed}
    for topic, partition, distance, cause in conn.execute(STATEMENTS["recent"], parameters):
        recent[Partition(topic, partition)].append(Recent(distance, cause))
    return recent
