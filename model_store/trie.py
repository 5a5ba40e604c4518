"""The trie over the catalogue's semantic IDs, as flat arrays that a graph can gather from.

Depth 0 is the root; a node at depth L is a leaf and stands for exactly one item. The children of node i of depth l
are the nodes ``child_start[l][i] … child_start[l][i+1] - 1`` of depth l + 1, in ascending code order (CSR, one row
of arrays per level). ``child_code[l]`` ends with K spare entries: a window of K codes can be read from any start.

A *node id* counts all nodes below the root, depth by depth; masks and exclusions speak in node ids. The layout
follows the idea of STATIC (CSR trie on accelerators); see DESIGN in docs/ARCHITECTURE.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.errors import CatalogueError

Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


class RuleMask(NamedTuple):
    """Which nodes a rule leaves open; a node is open if at least one item below it is."""

    bits: npt.NDArray[np.uint8]  # [ceil(nodes / 8)], little-endian bit per node id
    open_children: tuple[Int32Array, ...]  # per depth 0..L-1: open children of each node, [n_depth]


@dataclass(frozen=True)
class Trie:
    """Semantic IDs of a catalogue. Immutable: a changed catalogue is a new trie."""

    codebook_size: int
    child_start: tuple[Int32Array, ...]  # per depth 0..L-1: [n_depth + 1]
    child_code: tuple[npt.NDArray[np.int16], ...]  # per depth 0..L-1: [n_(depth+1) + K]
    leaf_item: Int32Array  # [n_L], catalogue row of each leaf

    @classmethod
    def build(cls, codes: npt.NDArray[np.integer], codebook_size: int) -> Trie:
        """Build from semantic IDs ``[items, L]``.

        Raises:
            CatalogueError: No items, a code outside ``0 … codebook_size - 1``, or two items with one semantic ID.
        """
        if codes.ndim != 2 or not codes.size:
            raise CatalogueError(f"a trie needs codes of shape [items, L], got {codes.shape}")
        if codes.min() < 0 or codes.max() >= codebook_size:
            raise CatalogueError(f"codes must lie in 0 … {codebook_size - 1}, found {codes.min()} … {codes.max()}")
        order = np.lexsort(codes.T[::-1])
        ranked = codes[order]
        # first[i, d]: row i opens a new node at depth d + 1
        first = np.ones(ranked.shape, dtype=np.bool_)
        first[1:] = np.logical_or.accumulate(ranked[1:] != ranked[:-1], axis=1)
        if not first[:, -1].all():
            row = int(np.argmin(first[:, -1]))
            pair = sorted((int(order[row - 1]), int(order[row])))
            raise CatalogueError(f"items in rows {pair[0]} and {pair[1]} share the semantic ID {ranked[row].tolist()}")
        starts, child_codes = [], []
        parents = np.zeros(1, dtype=np.int64)  # rows at which the nodes of this depth begin
        for depth in range(codes.shape[1]):
            children = np.flatnonzero(first[:, depth])
            start = np.append(np.searchsorted(children, parents), len(children))
            starts.append(start.astype(np.int32))
            code = np.zeros(len(children) + codebook_size, dtype=np.int16)
            code[: len(children)] = ranked[children, depth]
            child_codes.append(code)
            parents = children
        return cls(codebook_size, tuple(starts), tuple(child_codes), order.astype(np.int32))

    @property
    def levels(self) -> int:
        """L, codes of a semantic ID."""
        return len(self.child_start)

    @property
    def items(self) -> int:
        """Number of leaves, one per item."""
        return len(self.leaf_item)

    @cached_property
    def node_offset(self) -> tuple[int, ...]:
        """Node id of the first node at depth 1 … L, then the number of all nodes."""
        counts = [len(code) - self.codebook_size for code in self.child_code]
        return (0, *np.cumsum(counts).tolist())

    @property
    def nodes(self) -> int:
        """Nodes below the root."""
        return self.node_offset[-1]

    @cached_property
    def item_leaf(self) -> Int32Array:
        """Leaf of each catalogue row, [items]."""
        leaf = np.empty(self.items, dtype=np.int32)
        leaf[self.leaf_item] = np.arange(self.items, dtype=np.int32)
        return leaf

    @cached_property
    def leaf_nodes(self) -> Int32Array:
        """Nodes on the way to each leaf, ``[items, L]``, depth 1 … L, numbered within their depth."""
        path = np.empty((self.items, self.levels), dtype=np.int32)
        below = np.ones(self.items, dtype=np.int64)  # leaves below each node, from the bottom up
        for depth in range(self.levels - 1, -1, -1):
            path[:, depth] = np.repeat(np.arange(len(below), dtype=np.int32), below)
            below = np.add.reduceat(below, self.child_start[depth][:-1])
        return path

    @cached_property
    def everything(self) -> RuleMask:
        """The mask that excludes nothing."""
        return self.mask(np.ones(self.items, dtype=np.bool_))

    def mask(self, open_items: BoolArray) -> RuleMask:
        """Compile the catalogue rows that a rule allows, ``[items]``, into a mask over nodes."""
        is_open = open_items[self.leaf_item]
        by_depth, counts = [is_open], []
        for start in reversed(self.child_start):
            count = np.add.reduceat(is_open, start[:-1], dtype=np.int32)
            counts.append(count)
            is_open = count > 0
            by_depth.append(is_open)
        nodes = np.concatenate(by_depth[-2::-1])  # depths 1 … L; the root has no node id
        return RuleMask(np.packbits(nodes, bitorder="little"), tuple(reversed(counts)))

    def excluded_nodes(self, items: npt.NDArray[np.integer], rule: RuleMask) -> npt.NDArray[np.int64]:
        """Node ids that excluding these catalogue rows closes: their leaves, and each node left without an open leaf.

        Closing whole subtrees keeps beams from running into dead ends, so that the answer stays full.
        """
        closed = np.unique(self.item_leaf[items]).astype(np.int64)
        closed = closed[self._is_open(rule, self.node_offset[-2] + closed)]
        found = [self.node_offset[-2] + closed]
        for depth in range(self.levels - 1, 0, -1):
            parent = np.searchsorted(self.child_start[depth], closed, side="right") - 1
            parents, count = np.unique(parent, return_counts=True)
            closed = parents[count == rule.open_children[depth][parents]]
            found.append(self.node_offset[depth - 1] + closed)
        return np.concatenate(found[::-1])

    def leaves_below(self, prefix: Sequence[int]) -> range:
        """Leaves under a code prefix; empty if the catalogue has none."""
        if len(prefix) > self.levels:
            return range(0)
        low, high = 0, 1
        for depth, code in enumerate(prefix):
            start = int(self.child_start[depth][low])
            window = self.child_code[depth][start : int(self.child_start[depth][high])]
            low = start + int(np.searchsorted(window, code))
            if low - start == len(window) or window[low - start] != code:
                return range(0)
            high = low + 1
        for start_at in self.child_start[len(prefix) :]:
            low, high = int(start_at[low]), int(start_at[high])
        return range(low, high)

    def codes(self) -> npt.NDArray[np.int16]:
        """Semantic IDs by catalogue row, [items, L]: the inverse of :meth:`build`."""
        out = np.empty((self.items, self.levels), dtype=np.int16)
        width = np.ones(self.items, dtype=np.int64)  # leaves below each node, from the bottom up
        for depth in range(self.levels - 1, -1, -1):
            node_codes = self.child_code[depth][: len(width)]
            out[self.leaf_item, depth] = np.repeat(node_codes, width)
            width = np.add.reduceat(width, self.child_start[depth][:-1])
        return out

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Flat named arrays, for a snapshot; :meth:`from_arrays` takes them back."""
        named: dict[str, npt.NDArray[np.generic]] = {"leaf_item": self.leaf_item}
        for depth in range(self.levels):
            named[f"child_start_{depth}"] = self.child_start[depth]
            named[f"child_code_{depth}"] = self.child_code[depth]
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]], codebook_size: int) -> Trie:
        """Rebuild from :meth:`arrays`, checked.

        Raises:
            CatalogueError: An array is missing or they contradict each other.
        """
        levels = sum(name.startswith("child_start_") for name in arrays)
        try:
            trie = cls(
                codebook_size,
                tuple(arrays[f"child_start_{depth}"].astype(np.int32, copy=False) for depth in range(levels)),
                tuple(arrays[f"child_code_{depth}"].astype(np.int16, copy=False) for depth in range(levels)),
                arrays["leaf_item"].astype(np.int32, copy=False),
            )
        except KeyError as missing:
            raise CatalogueError(f"the trie snapshot lacks the array {missing}") from missing
        trie.check_integrity()
        return trie

    def check_integrity(self) -> None:
        """Raise :class:`CatalogueError` unless the arrays describe a trie with one leaf per item."""
        if not self.levels:
            raise CatalogueError("the trie has no levels")
        parents = 1
        for depth, (start, code) in enumerate(zip(self.child_start, self.child_code, strict=True)):
            children = len(code) - self.codebook_size
            if len(start) != parents + 1 or start[0] != 0 or start[-1] != children or (np.diff(start) < 1).any():
                raise CatalogueError(f"trie level {depth}: child offsets do not partition its {children} children")
            used = code[:children]
            if used.min() < 0 or used.max() >= self.codebook_size:
                raise CatalogueError(f"trie level {depth}: a code lies outside 0 … {self.codebook_size - 1}")
            new_node = np.zeros(children, dtype=np.bool_)
            new_node[start[:-1]] = True
            if ((np.diff(used) <= 0) & ~new_node[1:]).any():
                raise CatalogueError(f"trie level {depth}: children are not in ascending code order")
            parents = children
        if len(self.leaf_item) != parents or not np.array_equal(np.sort(self.leaf_item), np.arange(parents)):
            raise CatalogueError("trie leaves and items are not one to one")

    @staticmethod
    def _is_open(rule: RuleMask, node: npt.NDArray[np.int64]) -> BoolArray:
        bit = (rule.bits[node >> 3] >> (node & 7).astype(np.uint8)) & 1
        return np.asarray(bit, dtype=np.bool_)
