"""The growth of a trie: new items join the old arrays, and only what is new gets sorted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.errors import CatalogueError
from model_store.semantic_ids.arrays import check_codes, sort_by_semantic_id
from model_store.semantic_ids.trie import Int32Array, Trie, pad_child_codes

Places = npt.NDArray[np.int64]


def grow_trie(trie: Trie, codes: npt.NDArray[np.integer]) -> Trie:
    """Return the trie with more items: equal to :meth:`~model_store.semantic_ids.trie.Trie.build` of all semantic IDs.

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
    starts = []
    child_codes = []
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
        children = np.insert(np.diff(start), inserted, 0)
        np.add.at(children, new_node[is_new], 1)
        starts.append(np.append(0, np.cumsum(children)).astype(np.int32))
        code = np.insert(padded_code[: -trie.codebook_size], new_places, wanted[is_new])
        child_codes.append(pad_child_codes(code, trie.codebook_size))

        # New numbers: an old node moves by the new nodes before it, a new node also by its place among those.
        shift = np.where(exists, np.searchsorted(new_places, place, side="right"), np.cumsum(is_new) - 1)
        new_node = place + shift
        node = place
        inserted = new_places

    _check_free(trie, order, ranked, _Leaves(exists, is_first, node))
    leaf_item = np.insert(trie.leaf_item, inserted, trie.items + order)
    return Trie(trie.codebook_size, tuple(starts), tuple(child_codes), leaf_item)


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
