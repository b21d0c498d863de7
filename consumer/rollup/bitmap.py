"""Reads and writes `counted_events` for a transaction that holds the locks of its events' days."""

from collections.abc import Sequence

import numpy as np
import psycopg

from consumer.rollup.batch import BoolArray, Int16Array, Int64Array
from consumer.rollup.counted import contains, marked, pack, slices, unpack
from consumer.rollup.days import day_date
from consumer.rollup.statements import STATEMENTS

REBUILD_SHARD = 0
"""The shard that rebuilds claim ids in."""

Row = tuple[int, int, bytes]


def already_counted(conn: psycopg.Connection, ids: Int64Array) -> BoolArray:
    """bool[n]: which ids have a bit in any shard."""
    found = np.zeros(len(ids), np.bool_)
    for chunks, inside in slices(ids):
        rows = _stored(conn, chunks)
        if rows:
            bits = unpack(chunks, [(chunk, stored) for chunk, _, stored in rows])
            found[inside] = contains(chunks, bits, ids[inside])
    return found


def claim(
    conn: psycopg.Connection, ids: Int64Array, source: Int16Array, shards: Sequence[int], last_day: int
) -> BoolArray:
    """Set the bits of the ids that have none yet; say which those were.

    Args:
        conn: in a transaction that holds the ids' day locks and the shards.
        ids: int64[n], without repetition.
        source: int16[n], positions in `shards`: where each id's bit is set.
        shards: shard numbers; several may be the same.
        last_day: day number that none of the ids' days lies after.

    Returns:
        bool[n]: ids that were not counted before. The others' bits stay as they are.
    """
    fresh = np.ones(len(ids), np.bool_)
    owners = np.array(shards, np.int64)[source]
    for chunks, inside in slices(ids):
        rows = _stored(conn, chunks)
        mine, owner = ids[inside], owners[inside]
        new = np.ones(len(mine), np.bool_)
        if rows:
            new = ~contains(chunks, unpack(chunks, [(chunk, stored) for chunk, _, stored in rows]), mine)
            fresh[inside] = new
        columns: tuple[list[int], list[int], list[bytes]] = ([], [], [])
        for shard in dict.fromkeys(shards):
            added = mine[new & (owner == shard)]
            if not len(added):
                continue
            own = [(chunk, stored) for chunk, holder, stored in rows if holder == shard]
            bits = marked(chunks, added)
            touched = bits.any(axis=1)
            if own:
                bits |= unpack(chunks, own)
            columns[0].extend(chunks[touched].tolist())
            columns[1].extend([shard] * int(touched.sum()))
            columns[2].extend(pack(bits[touched]))
        if columns[0]:
            days = [day_date(last_day)] * len(columns[0])
            parameters = {"chunks": columns[0], "shards": columns[1], "bits": columns[2], "last_days": days}
            conn.execute(STATEMENTS["store_bits"], parameters)
    return fresh


def _stored(conn: psycopg.Connection, chunks: Int64Array) -> list[Row]:
    with conn.cursor(binary=True) as cursor:
        return cursor.execute(STATEMENTS["counted_bits"], {"chunks": chunks.tolist()}).fetchall()
