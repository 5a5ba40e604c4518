"""Changes of a rule's mask when few items join the trie, are hidden or shown, without a pass over all."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from model_store.semantic_ids.trie import RuleMask, Trie
from model_store.semantic_ids.trie_growth import GrownTrie, insert_at


def grow_mask(mask: RuleMask, before: Trie, grown: GrownTrie) -> RuleMask:
    """Return the mask for a trie that has grown; its new nodes are closed."""
    first_nodes = before.node_offset[:-1]
    places = np.concatenate([first + at for first, at in zip(first_nodes, grown.places, strict=True)])
    is_open = np.unpackbits(mask.bits, count=before.nodes, bitorder="little")
    bits = np.packbits(
        insert_at(is_open, places, np.zeros(len(places), dtype=np.uint8), before.memory), bitorder="little"
    )

    root, *inner = mask.open_children
    counts = (
        insert_at(count, at, np.zeros(len(at), dtype=np.int32), before.memory)
        for count, at in zip(inner, grown.places, strict=False)  # leaves have no children
    )
    return RuleMask(bits, (root, *counts))


def flip_leaves(mask: RuleMask, trie: Trie, leaves: Iterable[int]) -> RuleMask:
    """Return the mask with these leaves open if they were closed, and closed if they were open."""
    bits = mask.bits.copy()
    counts = [count.copy() for count in mask.open_children]

    for leaf in leaves:
        node = leaf
        for depth in range(trie.levels, 0, -1):
            node_id = trie.node_offset[depth - 1] + node
            bits[node_id >> 3] ^= np.uint8(1 << (node_id & 7))
            is_open = bool(bits[node_id >> 3] >> (node_id & 7) & 1)

            # The node above changes only if this was its first open child, or its last.
            node = int(trie.parents[depth - 2][node]) if depth > 1 else 0
            counts[depth - 1][node] += 1 if is_open else -1
            if counts[depth - 1][node] != int(is_open):
                break
    return RuleMask(bits, tuple(counts))
