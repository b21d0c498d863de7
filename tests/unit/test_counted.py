"""The bitmap's arithmetic: chunks, bits, and bytes as PostgreSQL keeps them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from consumer.rollup import counted
from consumer.rollup.batch import Int64Array
from consumer.rollup.counted import (
    CHUNK,
    CHUNKS_AT_ONCE,
    chunk_of,
    contains,
    first_of_each,
    marked,
    pack,
    slices,
    unpack,
)

LEAST, MOST = -(2**63), 2**63 - 1
any_id = st.one_of(st.integers(-9000, 9000), st.integers(LEAST, MOST), st.sampled_from([LEAST, MOST, 0, -1]))
ids_of = st.lists(any_id, max_size=60)


def array(ids: list[int]) -> Int64Array:
    return np.array(ids, np.int64)


@pytest.mark.parametrize(
    ("identity", "chunk"),
    [(0, 0), (4095, 0), (4096, 1), (-1, -1), (-4096, -1), (-4097, -2), (MOST, 2**51 - 1), (LEAST, -(2**51))],
)
def test_a_chunk_is_the_floor_of_the_id(identity: int, chunk: int) -> None:
    assert chunk_of(array([identity])).tolist() == [chunk]


def test_where_an_ids_bit_lies() -> None:
    """As the table's comment says: bit (id % 4096), the lowest bit of a byte first, zero bytes cut off."""
    assert pack(marked(array([0]), array([0]))) == [b"\x01"]
    assert pack(marked(array([0]), array([9]))) == [b"\x00\x02"]
    assert pack(marked(array([-1]), array([-1]))) == [b"\x00" * 511 + b"\x80"]
    assert pack(marked(array([0, 1]), array([4096 + 7]))) == [b"", b"\x80"]


@given(ids_of)
def test_first_of_each_keeps_the_first_and_nothing_twice(ids: list[int]) -> None:
    kept = first_of_each(array(ids)).tolist()
    assert [identity for identity, keep in zip(ids, kept, strict=True) if keep] == list(dict.fromkeys(ids))


@given(ids_of, ids_of)
def test_what_was_marked_is_contained_and_nothing_else(ids: list[int], others: list[int]) -> None:
    chunks = np.unique(chunk_of(array([*ids, *others])))
    bits = marked(chunks, array(ids))
    assert contains(chunks, bits, array(others)).tolist() == [identity in ids for identity in others]
    assert contains(chunks, bits, array(ids)).all()


@given(ids_of, ids_of)
def test_rows_come_back_as_they_were_stored(first: list[int], second: list[int]) -> None:
    """Several shards of a chunk are united."""
    rows = []
    for ids in (first, second):
        own = np.unique(chunk_of(array(ids)))
        rows += list(zip(own.tolist(), pack(marked(own, array(ids))), strict=True))
    chunks = np.unique(chunk_of(array([*first, *second, 0])))
    united = unpack(chunks, rows)
    assert (united == marked(chunks, array([*first, *second]))).all()
    assert all(len(stored) <= counted.WIDTH and not stored.endswith(b"\0") for _, stored in rows)


@given(arrays(np.int64, st.integers(0, 80), elements=any_id))
def test_few_chunks_are_one_slice(ids: Int64Array) -> None:
    ((chunks, inside),) = slices(ids)
    assert chunks.tolist() == sorted({identity // CHUNK for identity in ids.tolist()})
    assert ids[inside].tolist() == ids.tolist()


def test_many_chunks_are_sliced_and_no_id_is_left_out() -> None:
    numbers = np.random.default_rng(5)
    ids = numbers.integers(LEAST, MOST, 3 * CHUNKS_AT_ONCE + 5, endpoint=True)
    ids = np.concatenate([ids, ids[::7] ^ 1])
    seen: list[int] = []
    last = LEAST
    for chunks, inside in slices(ids):
        assert len(chunks) <= CHUNKS_AT_ONCE
        assert int(chunks[0]) > last
        last = int(chunks[-1])
        assert set(chunk_of(ids[inside]).tolist()) == set(chunks.tolist())
        seen += ids[inside].tolist()
    assert sorted(seen) == sorted(ids.tolist())
