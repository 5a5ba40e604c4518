"""Seen and denied items of a whole batch as closed nodes of the trie, in a few array operations.

The batch's counterpart of :meth:`model_store.semantic_ids.trie.Trie.excluded_nodes`: requests are small and many, so
that walking the trie once for all of them costs a tenth of once for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model_store.search.interface import EXCLUDED_SIZES
from model_store.semantic_ids.trie import RuleMask, Trie

Int64Array = npt.NDArray[np.int64]


def closed_nodes(
    trie: Trie, rules: Sequence[RuleMask], rule_of: Sequence[int], excluded: Sequence[npt.NDArray[np.integer]]
) -> Int64Array:
    """Node ids that each request's excluded items close, ``[B, E]``, padded with -1 to one of the usual sizes.

    Args:
        trie: The catalogue that everything here speaks of.
        rules: R distinct masks.
        rule_of: Mask of each of the B requests.
        excluded: Catalogue rows each request must not receive.

    Raises:
        ValueError: A request excludes more nodes than the largest size.
    """
    owner = np.repeat(np.arange(len(excluded)), [len(rows) for rows in excluded])
    rows = np.concatenate([*excluded, np.empty(0, dtype=np.int64)]).astype(np.int64, copy=False)
    if len(rules) == 1:
        owner, nodes = _closed(trie, rules[0], owner, rows)
        return _padded(owner, nodes, len(excluded))
    rule = np.asarray(rule_of, dtype=np.int64)[owner]
    parts = [_closed(trie, mask, owner[rule == row], rows[rule == row]) for row, mask in enumerate(rules)]
    owner, nodes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _padded(owner, nodes, len(excluded))


def _closed(trie: Trie, rule: RuleMask, owner: Int64Array, rows: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Requests and node ids, in pairs: the leaves of the rows, and the topmost nodes left without an open leaf."""
    leaf = np.unique(owner * trie.items + trie.item_leaf[rows])  # sorted by request, then by leaf
    owner, node = np.divmod(leaf, trie.items)
    place = trie.node_offset[-2] + node
    is_open = (rule.bits[place >> 3] >> (place & 7).astype(np.uint8)) & 1 == 1
    owner, node = owner[is_open], node[is_open]
    owners, nodes = [owner], [place[is_open]]
    for depth in range(trie.levels - 1, 0, -1):
        parent = trie.parents[depth - 1][node]
        begins = np.ones(len(parent), dtype=np.bool_)  # pairs are sorted: equal parents stand together
        begins[1:] = (parent[1:] != parent[:-1]) | (owner[1:] != owner[:-1])
        first = np.flatnonzero(begins)
        count = np.diff(first, append=len(parent))
        is_closed = count == rule.open_children[depth][parent[first]]
        if depth < trie.levels - 1:  # all leaves are listed, inner nodes only if what is above them stays open
            is_topmost = np.repeat(~is_closed, count)
            owners.append(owner[is_topmost])
            nodes.append(trie.node_offset[depth] + node[is_topmost])
        owner, node = owner[first][is_closed], parent[first][is_closed]
    if trie.levels > 1:
        owners.append(owner)
        nodes.append(node)
    return np.concatenate(owners), np.concatenate(nodes)


def _padded(owner: Int64Array, nodes: Int64Array, requests: int) -> Int64Array:
    counts = np.bincount(owner, minlength=requests)
    most = int(counts.max(initial=0))
    if most > EXCLUDED_SIZES[-1]:
        raise ValueError(f"a request excludes {most} nodes, the limit is {EXCLUDED_SIZES[-1]}")
    padded = np.full((requests, next(size for size in EXCLUDED_SIZES if size >= most)), -1, dtype=np.int64)
    order = np.argsort(owner, kind="stable")
    before = np.cumsum(counts) - counts
    padded[owner[order], np.arange(len(order)) - before[owner[order]]] = nodes[order]
    return padded
