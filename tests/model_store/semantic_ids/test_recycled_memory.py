"""Memory is used again when nobody can read it any more, and never before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from model_store.semantic_ids.recycled_memory import MAX_FREE, SMALLEST, SPARE_SHARE, RecycledMemory
from model_store.semantic_ids.trie import Trie
from model_store.semantic_ids.trie_growth import grow_trie

COUNT = SMALLEST // 4


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_memory_comes_back_when_the_last_view_is_gone() -> None:
    memory = RecycledMemory()
    first = memory.empty(COUNT, np.int32)
    first[:] = 7
    where = address(first)
    view = first[10:20].reshape(2, 5)
    del first
    other = memory.empty(COUNT, np.int32)
    other[:] = 0
    assert address(other) != where
    assert (view == 7).all()

    del view
    again = memory.empty(COUNT + COUNT // SPARE_SHARE, np.int32)  # the spare part is enough for a longer array
    assert address(again) == where
    assert again.shape == (COUNT + COUNT // SPARE_SHARE,)
    assert again.dtype == np.int32


@pytest.mark.parametrize("length", [COUNT // 3, 3 * COUNT])
def test_a_block_of_another_size_is_left_to_others(length: int) -> None:
    memory = RecycledMemory()
    where = address(memory.empty(COUNT, np.int32))
    assert len(memory.empty(length, np.int32)) == length
    assert address(memory.empty(COUNT, np.int32)) == where


def test_no_more_than_a_few_blocks_wait() -> None:
    memory = RecycledMemory()
    made = [memory.empty(COUNT, np.int32) for _ in range(MAX_FREE + 3)]
    known = {address(array) for array in made}
    del made
    found = [memory.empty(COUNT, np.int32) for _ in range(MAX_FREE)]
    assert {address(array) for array in found} <= known
    assert len({address(array) for array in found}) == MAX_FREE


def test_threads_never_share_memory() -> None:
    memory = RecycledMemory()

    def work(number: int) -> bool:
        for _ in range(50):
            array = memory.empty(COUNT, np.int32)
            array[:] = number
            if not (array == number).all():
                return False
        return True

    with ThreadPoolExecutor(4) as workers:
        assert all(workers.map(work, range(4)))


def test_a_trie_that_somebody_holds_stays_as_it_is_while_others_grow() -> None:
    size = 700  # codes of two levels, so that the leaves' arrays are large enough to be recycled
    places = np.random.default_rng(3).permutation(size * size)
    codes = np.stack([places // size, places % size], axis=1)
    known = len(codes) - 12
    trie = Trie.build(codes[:known], size)
    _ = trie.parents, trie.item_leaf

    held = {}
    for items in range(known, len(codes)):
        trie = grow_trie(trie, codes[items : items + 1]).trie
        if items % 5 == 0:
            held[items + 1] = trie
    for items, one in {**held, len(codes): trie}.items():
        expected = Trie.build(codes[:items], size)
        np.testing.assert_array_equal(one.leaf_item, expected.leaf_item)
        np.testing.assert_array_equal(one.child_code[1], expected.child_code[1])
        np.testing.assert_array_equal(one.parents[0], expected.parents[0])
        np.testing.assert_array_equal(one.item_leaf[:], expected.item_leaf[:])
