"""Leaves that move when others are inserted are those that a trie built anew would have."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.semantic_ids.item_leaves import MAX_INSERTED, ItemLeaves


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 5), max_size=6), st.integers(0, 2**32 - 1))
def test_any_insertions_give_the_inverse_of_the_rows_by_leaf(start: int, steps: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    leaf_item = rng.permutation(start).astype(np.int32)
    found = ItemLeaves.of(leaf_item)

    for count in steps:
        places = np.sort(rng.integers(0, len(leaf_item) + 1, count))
        order = rng.permutation(count)
        before, was = found, found[:]
        grown = found.insert(places, order)
        assert grown is not None
        found = grown
        leaf_item = np.insert(leaf_item, places, len(leaf_item) + order)
        np.testing.assert_array_equal(before[:], was)

        expected = np.argsort(leaf_item)
        assert len(found) == len(expected)
        np.testing.assert_array_equal(np.asarray(found), expected)
        asked = rng.integers(0, len(expected), (2, 3))
        np.testing.assert_array_equal(found[asked], expected[asked])
        assert [int(found[row]) for row in range(len(expected))] == expected.tolist()
        assert found[:].dtype == np.int32


def test_after_many_insertions_the_leaves_must_be_computed_anew() -> None:
    leaves = ItemLeaves.of(np.arange(10, dtype=np.int32))
    many = np.zeros(MAX_INSERTED, dtype=np.int64)
    grown = leaves.insert(many, np.arange(MAX_INSERTED))
    assert grown is not None
    assert int(grown[0]) == MAX_INSERTED
    assert grown.insert(many[:1], np.arange(1)) is None
