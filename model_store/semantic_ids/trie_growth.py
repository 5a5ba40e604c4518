"""A trie with more items, made from the old arrays: what is there keeps its order, only what is new gets sorted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_store.errors import CatalogueError
from model_store.semantic_ids.arrays import by_semantic_id, check_codes
from model_store.semantic_ids.trie import Int32Array, Trie, padded

Places = npt.NDArray[np.int64]


def grown(trie: Trie, codes: npt.NDArray[np.integer]) -> Trie:
    """The trie with more items; the same as :meth:`~model_store.semantic_ids.trie.Trie.build` of all semantic IDs.

    Args:
        trie: Stays as it is.
        codes: Semantic IDs ``[new, L]`` of the new items, which get the next rows in this order.

    Raises:
        CatalogueError: A code out of range, or a semantic ID that is taken or given twice.
    """
    check_codes(codes, trie.codebook_size)
    if codes.shape[1] != trie.levels:
        raise CatalogueError(f"a new item has {codes.shape[1]} codes, the catalogue's have {trie.levels}")
    order = by_semantic_id(codes, trie.codebook_size)
    ranked = codes[order]
    begins = np.zeros(len(ranked), dtype=np.bool_)  # whether a new item is the first of them below its node
    begins[0] = True
    # For every new item the node it stands on, in old numbers (or where the node is to be put) and in new ones.
    node = np.zeros(len(ranked), dtype=np.int64)
    exists, renumbered = np.ones(len(ranked), dtype=np.bool_), node
    inserted = np.empty(0, dtype=np.int64)  # before which old nodes of this depth new ones were put
    starts, child_codes = [], []
    for depth in range(trie.levels):
        start, code = trie.child_start[depth], trie.child_code[depth][: -trie.codebook_size]
        begins[1:] |= ranked[1:, depth] != ranked[:-1, depth]
        end = np.where(exists, start[np.minimum(node + 1, len(start) - 1)], start[node])
        place = _lower_bound(trie.child_code[depth], start[node], end, ranked[:, depth])
        exists = (place < end) & (trie.child_code[depth][place] == ranked[:, depth])
        is_new = begins & ~exists
        at = place[is_new]
        children = np.insert(np.diff(start), inserted, 0)
        np.add.at(children, renumbered[is_new], 1)
        starts.append(np.append(0, np.cumsum(children)).astype(np.int32))
        child_codes.append(padded(np.insert(code, at, ranked[is_new, depth]), trie.codebook_size))
        moved = np.searchsorted(at, place, side="right")
        renumbered = place + np.where(exists, moved, np.cumsum(is_new) - 1)
        node, inserted = place, at
    _check_free(trie, order, ranked, exists, begins, node)
    leaf_item = np.insert(trie.leaf_item, inserted, trie.items + order)
    return Trie(trie.codebook_size, tuple(starts), tuple(child_codes), leaf_item)


def _lower_bound(
    codes: npt.NDArray[np.int16], first: Int32Array, end: Places, wanted: npt.NDArray[np.integer]
) -> Places:
    """First place in ``codes[first:end]``, which ascends, with at least the wanted code; for each new item."""
    low: Places = first.astype(np.int64)
    high: Places = end.astype(np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        goes_right = (low < high) & (codes[middle] < wanted)
        low, high = np.where(goes_right, middle + 1, low), np.where(goes_right, high, middle)
    return low


def _check_free(
    trie: Trie,
    order: Int32Array,
    ranked: npt.NDArray[np.integer],
    exists: npt.NDArray[np.bool_],
    begins: npt.NDArray[np.bool_],
    leaf: Places,
) -> None:
    if exists.any():
        taken = int(np.argmax(exists))
        row, codes = int(trie.leaf_item[leaf[taken]]), ranked[taken].tolist()
        raise CatalogueError(f"the item in row {row} has the semantic ID {codes} already")
    if not begins.all():
        second = int(np.argmin(begins))
        pair = sorted((trie.items + order[second - 1 : second + 1]).tolist())
        raise CatalogueError(f"items in rows {pair[0]} and {pair[1]} share the semantic ID {ranked[second].tolist()}")
