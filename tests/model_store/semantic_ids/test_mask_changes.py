"""A mask that changes item by item is the mask that is made anew."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.semantic_ids.mask_changes import flip_leaves, grow_mask
from model_store.semantic_ids.trie import RuleMask, Trie
from model_store.semantic_ids.trie_growth import grow_trie

worlds = st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(2, 40), st.integers(0, 2**32 - 1))


def distinct_codes(size: int, levels: int, items: int, rng: np.random.Generator) -> np.ndarray:
    places = rng.permutation(size**levels)[:items]
    return np.stack([places // size**level % size for level in range(levels)], axis=1)


def assert_same(found: RuleMask, expected: RuleMask) -> None:
    np.testing.assert_array_equal(found.bits, expected.bits)
    for count, wanted in zip(found.open_children, expected.open_children, strict=True):
        np.testing.assert_array_equal(count, wanted)


@settings(max_examples=150, deadline=None)
@given(worlds)
def test_flipped_leaves_give_the_mask_made_anew(world: tuple[int, int, int, int]) -> None:
    size, levels, items, seed = world
    rng = np.random.default_rng(seed)
    trie = Trie.build(distinct_codes(size, levels, items, rng), size)
    is_open = rng.random(trie.items) < rng.random()
    flipped = np.flatnonzero(rng.random(trie.items) < rng.random())

    before = trie.mask(is_open)
    found = flip_leaves(before, trie, trie.item_leaf[flipped].tolist())
    assert_same(before, trie.mask(is_open))  # stays as it was
    is_open[flipped] ^= True
    assert_same(found, trie.mask(is_open))


@settings(max_examples=150, deadline=None)
@given(worlds, st.integers(1, 30))
def test_new_items_join_a_mask_as_closed_ones(world: tuple[int, int, int, int], new: int) -> None:
    size, levels, items, seed = world
    rng = np.random.default_rng(seed)
    codes = distinct_codes(size, levels, items, rng)
    known = max(1, len(codes) - new)
    if known == len(codes):
        return
    trie = Trie.build(codes[:known], size)
    is_open = rng.random(known) < rng.random()

    grown = grow_trie(trie, codes[known:])
    found = grow_mask(trie.mask(is_open), trie, grown)
    assert_same(found, grown.trie.mask(np.append(is_open, np.zeros(len(codes) - known, dtype=np.bool_))))
