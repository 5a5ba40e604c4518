"""The growth of a trie: new items join the old arrays, and only what is new gets sorted.

Few new items are the usual case, and must cost no more than a copy of the arrays that they enter: a place to insert at
splits an array into two slices, which are copied as they are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.errors import CatalogueError
from model_store.semantic_ids.arrays import check_codes, sort_by_semantic_id
from model_store.semantic_ids.recycled_memory import RecycledMemory
from model_store.semantic_ids.trie import Int32Array, Trie

Places = npt.NDArray[np.int64]

_FEW = 16
"""Most new nodes of a depth that are inserted slice by slice; for more, array operations over everything are faster."""


class GrownTrie(NamedTuple):
    """A trie with more items, and where its new nodes are."""

    trie: Trie
    places: tuple[Places, ...]  # per depth 1 … L: old nodes before which new ones were inserted, ascending


def grow_trie(trie: Trie, codes: npt.NDArray[np.integer]) -> GrownTrie:
    """Return the trie with more items: equal to :meth:`~model_store.semantic_ids.trie.Trie.build` of all semantic IDs.

    What was derived from the old trie is not derived again, if few items are new.

    Args:
        trie: Stays as it is.
        codes: Semantic IDs ``[new, L]`` of the new items, which get the next rows in this order.

    Raises:
        CatalogueError: A code out of range, or a semantic ID that is taken or given twice.
    """
    check_codes(codes, trie.codebook_size)
    if codes.shape[1] != trie.levels:
        raise CatalogueError(f"a new item has {codes.shape[1]} codes, the catalogue's have {trie.levels}")
    order = sort_by_semantic_id(codes, trie.codebook_size)
    ranked = codes[order]

    # All new items walk down the trie together. For each of them:
    is_first = np.zeros(len(ranked), dtype=np.bool_)  # whether it is the first new item below its node
    is_first[0] = True
    node = np.zeros(len(ranked), dtype=np.int64)  # its node, in old numbers; or the place where the node is inserted
    new_node = node  # its node, in new numbers
    exists = np.ones(len(ranked), dtype=np.bool_)  # whether the old trie has its node

    inserted = np.empty(0, dtype=np.int64)  # old nodes of this depth before which new nodes are inserted
    levels: list[_Level] = []
    for depth in range(trie.levels):
        start = trie.child_start[depth]
        padded_code = trie.child_code[depth]
        wanted = ranked[:, depth]
        is_first[1:] |= wanted[1:] != wanted[:-1]

        # Where the code stands among the children of the item's node, or would have to stand.
        end = np.where(exists, start[np.minimum(node + 1, len(start) - 1)], start[node])
        place = _find_lower_bound(padded_code, start[node], end, wanted)
        exists = (place < end) & (padded_code[place] == wanted)

        # One new child for each code that is missing, however many new items share it.
        is_new = is_first & ~exists
        new_places = place[is_new]
        parent = new_node[is_new]
        new_start = _grow_start(start, inserted, parent, trie.memory)
        new_code = insert_at(padded_code, new_places, wanted[is_new].astype(np.int16), trie.memory)
        levels.append(_Level(new_start, new_code, new_places, parent))

        # New numbers: an old node moves by the new nodes before it, a new node also by its place among those.
        shift = np.where(exists, np.searchsorted(new_places, place, side="right"), np.cumsum(is_new) - 1)
        new_node = place + shift
        node = place
        inserted = new_places

    _check_free(trie, order, ranked, _Leaves(exists, is_first, node))
    leaf_item = insert_at(trie.leaf_item, inserted, trie.items + order, trie.memory)
    starts = tuple(level.child_start for level in levels)
    grown = Trie(trie.codebook_size, starts, tuple(level.child_code for level in levels), leaf_item)
    grown.__dict__["memory"] = trie.memory
    if len(order) <= _FEW:
        grown.__dict__.update(_grow_derived(trie, levels, order))  # cached properties
    return GrownTrie(grown, tuple(level.places for level in levels))


def insert_at(
    array: npt.NDArray[Any], places: Places, values: npt.NDArray[Any], memory: RecycledMemory
) -> npt.NDArray[Any]:
    """Return the array with values inserted before these places of it, ascending; it may be the same array."""
    if not len(places):
        return array
    if len(places) > _FEW:
        return np.insert(array, places, values)

    pieces = []
    for number, (start, end) in enumerate(pairwise([0, *places.tolist()])):
        pieces += [array[start:end], values[number : number + 1]]
    pieces.append(array[places[-1] :])
    return np.concatenate(pieces, out=memory.empty(len(array) + len(places), array.dtype), casting="same_kind")


class _Level(NamedTuple):
    """The children of one depth, with the new ones among them."""

    child_start: Int32Array
    child_code: npt.NDArray[np.int16]
    places: Places  # old children before which new ones were inserted
    parents: Places  # of the new children, in new numbers


def _grow_start(start: Int32Array, inserted: Places, parents: Places, memory: RecycledMemory) -> Int32Array:
    """Return ``child_start`` of a depth with nodes inserted before old ones, and one child more for each parent."""
    if max(len(inserted), len(parents)) > _FEW:
        children = np.insert(np.diff(start), inserted, 0)
        np.add.at(children, parents, 1)
        return np.append(0, np.cumsum(children)).astype(np.int32)

    grown = insert_at(start, inserted, start[inserted], memory) if len(inserted) else start.copy()
    for parent in parents.tolist():
        grown[parent + 1 :] += 1
    return grown


def _grow_derived(trie: Trie, levels: list[_Level], order: Int32Array) -> dict[str, Any]:
    """Return the cached properties that the old trie has, by name, for the trie with few more items."""
    derived: dict[str, Any] = {}
    if "parents" in trie.__dict__:
        derived["parents"] = tuple(
            np.repeat(np.arange(len(level.child_start) - 1, dtype=np.int32), np.diff(level.child_start))
            if len(above.places)  # then the parents have other numbers, too
            else insert_at(parents, level.places, level.parents, trie.memory)
            for parents, (above, level) in zip(trie.parents, pairwise(levels), strict=True)
        )

    if "windows" in trie.__dict__:
        most = [
            int((level.child_start[level.parents + 1] - level.child_start[level.parents]).max(initial=0))
            for level in levels
        ]
        derived["windows"] = tuple(
            max(window, trie.window_of(count)) for window, count in zip(trie.windows, most, strict=True)
        )

    if "item_leaf" in trie.__dict__:
        item_leaf = trie.item_leaf.insert(levels[-1].places, order)
        if item_leaf is not None:
            derived["item_leaf"] = item_leaf
    return derived


class _Leaves(NamedTuple):
    """The leaves of the new items, in the order of their semantic IDs."""

    exists: npt.NDArray[np.bool_]  # whether the old trie has the leaf
    is_first: npt.NDArray[np.bool_]  # whether no earlier new item has the same leaf
    leaf: Places  # in old numbers


def _find_lower_bound(
    codes: npt.NDArray[np.int16], first: Int32Array, end: Places, wanted: npt.NDArray[np.integer]
) -> Places:
    """Return, for each new item, the first place in the ascending ``codes[first:end]`` with at least the wanted code.

    This is a binary search of all items at once.
    """
    low: Places = first.astype(np.int64)
    high: Places = end.astype(np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        goes_right = (low < high) & (codes[middle] < wanted)
        low = np.where(goes_right, middle + 1, low)
        high = np.where(goes_right, high, middle)
    return low


def _check_free(trie: Trie, order: Int32Array, ranked: npt.NDArray[np.integer], leaves: _Leaves) -> None:
    """Raise :class:`CatalogueError` if a semantic ID is taken or given twice."""
    if leaves.exists.any():
        taken = int(np.argmax(leaves.exists))
        row = int(trie.leaf_item[leaves.leaf[taken]])
        raise CatalogueError(f"the item in row {row} has the semantic ID {ranked[taken].tolist()} already")
    if not leaves.is_first.all():
        second = int(np.argmin(leaves.is_first))
        pair = sorted((trie.items + order[second - 1 : second + 1]).tolist())
        raise CatalogueError(f"items in rows {pair[0]} and {pair[1]} share the semantic ID {ranked[second].tolist()}")
