"""The bitmap of counted ids: which events were counted already, one bit each.

A chunk is 4,096 consecutive ids. PostgreSQL keeps one row per (chunk, shard) in `counted_events`; a shard is one
partition, or 0 for rebuilds, so that consumers never wait for each other's rows. An id is counted if any shard has
its bit. This file is arithmetic only; `bitmap.py` reads and writes the rows, under the locks of the ids' days.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from consumer.rollup.batch import BoolArray, Int64Array

CHUNK_BITS = 12
"""4,096 ids a chunk, 512 bytes a row. Larger rows leave the page's free space that in-page updates live on; smaller
ones are more rows an update."""
CHUNK = 1 << CHUNK_BITS
WIDTH = CHUNK // 8
CHUNKS_AT_ONCE = 4096
"""Chunks handled together: 16 MB of flags, however sparse the ids are."""

Bits = npt.NDArray[np.uint8]


def chunk_of(ids: Int64Array) -> Int64Array:
    """The chunk of each id: floor(id / 4096), for negative ids too."""
    chunks: Int64Array = ids >> CHUNK_BITS
    return chunks


def first_of_each(ids: Int64Array) -> BoolArray:
    """bool[n]: the first occurrence of each id in order. The common case, no repetition, costs one sort."""
    ordered = np.sort(ids)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.ones(len(ids), np.bool_)
    first = np.zeros(len(ids), np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    return first


def slices(ids: Int64Array) -> Iterator[tuple[Int64Array, BoolArray | slice]]:
    """Split the ids' chunks into groups of at most `CHUNKS_AT_ONCE`.

    Yields:
        (chunks, events): sorted chunk numbers int64[c], and which of `ids` lie in them.
    """
    chunk = chunk_of(ids)
    every = np.unique(chunk)
    if len(every) <= CHUNKS_AT_ONCE:
        yield every, slice(None)
        return
    for start in range(0, len(every), CHUNKS_AT_ONCE):
        group = every[start : start + CHUNKS_AT_ONCE]
        yield group, (chunk >= group[0]) & (chunk <= group[-1])


def marked(chunks: Int64Array, ids: Int64Array) -> Bits:
    """The ids as bits: uint8[len(chunks), 512]. `chunks` is sorted and holds every id's chunk."""
    flags = np.zeros((len(chunks), CHUNK), np.bool_)
    flags[np.searchsorted(chunks, chunk_of(ids)), ids & (CHUNK - 1)] = True
    return np.packbits(flags, axis=1, bitorder="little")


def contains(chunks: Int64Array, bits: Bits, ids: Int64Array) -> BoolArray:
    """bool[n]: which ids have their bit set in `bits` (uint8[len(chunks), 512])."""
    within = ids & (CHUNK - 1)
    byte = bits[np.searchsorted(chunks, chunk_of(ids)), within >> 3]
    found: BoolArray = (byte >> (within & 7).astype(np.uint8)) & 1 == 1
    return found


def unpack(chunks: Int64Array, rows: Sequence[tuple[int, bytes]]) -> Bits:
    """Rows of (chunk, bits) as uint8[len(chunks), 512]; several rows of a chunk are united."""
    bits = np.zeros((len(chunks), WIDTH), np.uint8)
    places = np.searchsorted(chunks, np.array([chunk for chunk, _ in rows], np.int64))
    for place, (_, stored) in zip(places.tolist(), rows, strict=True):
        bits[place, : len(stored)] |= np.frombuffer(stored, np.uint8)
    return bits


def pack(bits: Bits) -> list[bytes]:
    """Each row's bytes as they are stored: without the zero bytes at the end."""
    return [row.tobytes().rstrip(b"\0") for row in bits]
