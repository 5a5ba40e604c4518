"""Exclusion of items from the search: seen and denied items of a whole batch as closed nodes of the trie.

Training, evaluation and service exclude items through here. Requests are small and many: to walk the trie once for all
of them costs a tenth of one walk for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model_store.semantic_ids.trie import RuleMask, Trie

EXCLUDED_SIZES = (16, 128, 1024, 8192, 16384, 32768, 65536)
"""Numbers of excluded nodes that a batch is padded to, so that few distinct shapes reach the engine."""

Int64Array = npt.NDArray[np.int64]


def closed_nodes(
    trie: Trie, rules: Sequence[RuleMask], rule_of: Sequence[int], excluded: Sequence[npt.NDArray[np.integer]]
) -> Int64Array:
    """Return the node ids that each request's excluded items close, ``[B, E]``, padded with -1.

    These are the leaves of the items, and the nodes left without an open leaf. Closed subtrees keep beams from running
    into dead ends, so that the answer stays full. Of the inner nodes only the topmost of a closed subtree is listed,
    because no beam gets below it: at most two nodes an item.

    Args:
        trie: The trie of the catalogue.
        rules: R distinct masks.
        rule_of: Mask of each of the B requests.
        excluded: Catalogue rows that each request must not receive.

    Returns:
        E is one of :data:`EXCLUDED_SIZES`.

    Raises:
        ValueError: A request excludes more nodes than the largest size.
    """
    owner = np.repeat(np.arange(len(excluded)), [len(rows) for rows in excluded])
    rows = np.concatenate([*excluded, np.empty(0, dtype=np.int64)]).astype(np.int64, copy=False)
    if len(rules) == 1:
        owner, nodes = _close(trie, rules[0], owner, rows)
        return _pad(owner, nodes, len(excluded))

    rule = np.asarray(rule_of, dtype=np.int64)[owner]
    parts = [_close(trie, mask, owner[rule == number], rows[rule == number]) for number, mask in enumerate(rules)]
    owner, nodes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _pad(owner, nodes, len(excluded))


def no_nodes(requests: int) -> Int64Array:
    """Return what :func:`closed_nodes` returns for requests that exclude nothing."""
    return np.full((requests, EXCLUDED_SIZES[0]), -1, dtype=np.int64)


def _close(trie: Trie, rule: RuleMask, owner: Int64Array, rows: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return pairs of request and node id that excluding these pairs of request and row closes under one rule."""
    pair = np.unique(owner * trie.items + trie.item_leaf[rows])  # sorted by request, then by leaf
    owner, node = np.divmod(pair, trie.items)
    node_id = trie.node_offset[-2] + node
    is_open = (rule.bits[node_id >> 3] >> (node_id & 7).astype(np.uint8)) & 1 == 1
    owner = owner[is_open]
    node = node[is_open]
    owners = [owner]
    nodes = [node_id[is_open]]

    # Go up: a parent is closed if as many of its children were closed as the rule leaves open.
    for depth in range(trie.levels - 1, 0, -1):
        parent = trie.parents[depth - 1][node]
        is_first = np.ones(len(parent), dtype=np.bool_)  # pairs are sorted: equal parents stand together
        is_first[1:] = (parent[1:] != parent[:-1]) | (owner[1:] != owner[:-1])
        first = np.flatnonzero(is_first)
        count = np.diff(first, append=len(parent))
        is_closed = count == rule.open_children[depth][parent[first]]

        # All leaves are listed, because dense candidates are leaves; inner nodes only if their parent stays open.
        if depth < trie.levels - 1:
            is_topmost = np.repeat(~is_closed, count)
            owners.append(owner[is_topmost])
            nodes.append(trie.node_offset[depth] + node[is_topmost])

        owner = owner[first][is_closed]
        node = parent[first][is_closed]

    if trie.levels > 1:  # what is left are nodes of depth 1, whose ids are their numbers
        owners.append(owner)
        nodes.append(node)
    return np.concatenate(owners), np.concatenate(nodes)


def _pad(owner: Int64Array, nodes: Int64Array, requests: int) -> Int64Array:
    """Arrange pairs of request and node id in a row a request."""
    counts = np.bincount(owner, minlength=requests)
    most = int(counts.max(initial=0))
    if most > EXCLUDED_SIZES[-1]:
        raise ValueError(f"a request excludes {most} nodes, the limit is {EXCLUDED_SIZES[-1]}")

    padded = np.full((requests, next(size for size in EXCLUDED_SIZES if size >= most)), -1, dtype=np.int64)
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    place = np.arange(len(order)) - (np.cumsum(counts) - counts)[owner]
    padded[owner, place] = nodes[order]
    return padded
