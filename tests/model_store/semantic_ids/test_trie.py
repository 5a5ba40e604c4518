"""The trie and its masks against brute force over the list of semantic IDs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.errors import CatalogueError
from model_store.search.exclusions import closed_nodes
from model_store.semantic_ids.trie import Trie


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    size, levels = draw(st.integers(2, 9)), draw(st.integers(1, 4))
    flat = draw(st.lists(st.integers(0, size**levels - 1), min_size=1, max_size=60, unique=True))
    return np.stack([np.array(flat) // size**level % size for level in range(levels)], axis=1), size


def open_nodes(trie: Trie, bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, bitorder="little")[: trie.nodes].astype(bool)


@settings(max_examples=150, deadline=None)
@given(catalogues())
def test_codes_come_back_and_snapshots_round_trip(world: tuple[np.ndarray, int]) -> None:
    codes, size = world
    trie = Trie.build(codes, size)
    trie.check_integrity()
    np.testing.assert_array_equal(trie.codes(), codes)
    np.testing.assert_array_equal(Trie.from_arrays(trie.arrays(), size).codes(), codes)
    np.testing.assert_array_equal(trie.leaf_item[trie.item_leaf[:]], np.arange(len(codes)))


@settings(max_examples=150, deadline=None)
@given(catalogues())
def test_the_way_to_each_leaf_spells_its_semantic_id(world: tuple[np.ndarray, int]) -> None:
    codes, size = world
    trie = Trie.build(codes, size)
    path = trie.leaf_nodes
    assert path.shape == codes.shape
    np.testing.assert_array_equal(path[:, -1], np.arange(len(codes)))
    spelled = np.stack([code[path[:, depth]] for depth, code in enumerate(trie.child_code)], axis=1)
    np.testing.assert_array_equal(spelled, codes[trie.leaf_item])


@settings(max_examples=150, deadline=None)
@given(catalogues(), st.data())
def test_leaves_below_a_prefix_are_the_items_that_start_with_it(
    world: tuple[np.ndarray, int], data: st.DataObject
) -> None:
    codes, size = world
    trie = Trie.build(codes, size)
    prefix = data.draw(st.lists(st.integers(0, size), max_size=codes.shape[1] + 1))
    below = {int(trie.leaf_item[leaf]) for leaf in trie.leaves_below(prefix)}
    expected = {row for row, item in enumerate(codes.tolist()) if item[: len(prefix)] == prefix}
    assert below == expected


@settings(max_examples=150, deadline=None)
@given(catalogues(), st.data())
def test_a_mask_and_exclusions_leave_open_what_brute_force_does(
    world: tuple[np.ndarray, int], data: st.DataObject
) -> None:
    codes, size = world
    trie = Trie.build(codes, size)
    rows = st.lists(st.booleans(), min_size=len(codes), max_size=len(codes)).map(np.array)
    allowed, denied = data.draw(rows), data.draw(rows)
    mask = trie.mask(allowed)
    [excluded] = closed_nodes(trie, [mask], [0], [np.flatnonzero(denied)])
    excluded = excluded[excluded >= 0]
    assert len(excluded) <= 2 * denied.sum()
    nodes = open_nodes(trie, mask.bits)
    nodes[excluded] = False
    for depth, parents in enumerate(trie.parents):  # below a closed node, only leaves are listed again
        offset = trie.node_offset[depth]
        nodes[trie.node_offset[depth + 1] : trie.node_offset[depth + 2]] &= nodes[offset + parents]
    # A node is open if and only if an item below it is allowed and not denied.
    np.testing.assert_array_equal(nodes, open_nodes(trie, trie.mask(allowed & ~denied).bits))
    expected = {tuple(item[:depth]) for item in codes[allowed & ~denied].tolist() for depth in range(1, len(item) + 1)}
    assert nodes.sum() == len(expected)


def test_two_items_with_one_semantic_id_are_refused_by_row() -> None:
    with pytest.raises(CatalogueError, match=r"rows 0 and 2 share the semantic ID \[1, 2\]"):
        Trie.build(np.array([[1, 2], [0, 1], [1, 2]]), 4)


@pytest.mark.parametrize("codes", [[[0, 4]], [[-1, 0]], []])
def test_codes_out_of_range_are_refused(codes: list[list[int]]) -> None:
    with pytest.raises(CatalogueError):
        Trie.build(np.array(codes), 4)


@pytest.mark.parametrize("broken", ["leaf_item", "child_start_0", "child_start_1", "child_code_0", "child_code_1"])
def test_a_damaged_snapshot_is_refused(broken: str) -> None:
    arrays = Trie.build(np.array([[0, 1], [0, 2], [3, 1]]), 4).arrays()
    arrays[broken] = arrays[broken] + 3
    with pytest.raises(CatalogueError):
        Trie.from_arrays(arrays, 4)
    del arrays[broken]
    with pytest.raises(CatalogueError):
        Trie.from_arrays(arrays, 4)


@pytest.mark.parametrize(
    ("codes", "size", "windows"),
    [
        ([[0, 0], [0, 1], [0, 2], [1, 0]], 8, (2, 4)),
        ([[0, 0]], 8, (2, 2)),
        ([[code, 0] for code in range(5)], 5, (5, 2)),
        ([[0, code] for code in range(5)], 256, (2, 8)),
    ],
)
def test_windows_hold_the_children_of_every_node(codes: list[list[int]], size: int, windows: tuple[int, int]) -> None:
    trie = Trie.build(np.array(codes), size)
    assert trie.windows == windows
    assert all(np.diff(start).max() <= window for start, window in zip(trie.child_start, trie.windows, strict=True))
