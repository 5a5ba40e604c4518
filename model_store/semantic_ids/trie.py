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
from model_store.semantic_ids.arrays import by_semantic_id, check_codes

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
        check_codes(codes, codebook_size)
        order = by_semantic_id(codes, codebook_size)
        starts, child_codes = [], []
        parents = np.zeros(1, dtype=np.int64)  # leaves at which the nodes of this depth begin
        opens = np.zeros(len(codes), dtype=np.bool_)  # whether a leaf is the first below a node of this depth
        opens[0] = True
        for depth in range(codes.shape[1]):
            ranked = codes[:, depth][order]
            opens[1:] |= ranked[1:] != ranked[:-1]
            children = np.flatnonzero(opens)
            start = np.append(np.searchsorted(children, parents), len(children))
            starts.append(start.astype(np.int32))
            child_codes.append(padded(ranked[children], codebook_size))
            parents = children
        if not opens.all():
            leaf = int(np.argmin(opens))
            pair, shared = sorted(order[leaf - 1 : leaf + 1].tolist()), codes[order[leaf]].tolist()
            raise CatalogueError(f"items in rows {pair[0]} and {pair[1]} share the semantic ID {shared}")
        return cls(codebook_size, tuple(starts), tuple(child_codes), order)

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
    def parents(self) -> tuple[Int32Array, ...]:
        """Per depth 2 … L: the parent of each node, numbered within its depth, [n_depth]."""
        return tuple(
            np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start)) for start in self.child_start[1:]
        )

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """Per depth 0 … L - 1: slots that hold the children of any node, a power of two of at least 2, or K.

        Few nodes have K children; a search that looks at no more slots than this has a fraction of the work.
        """
        most = [int(np.diff(start).max()) for start in self.child_start]
        return tuple(min(self.codebook_size, max(2, 1 << (count - 1).bit_length())) for count in most)

    @property
    def leaf_nodes(self) -> Int32Array:
        """Nodes on the way to each leaf, ``[items, L]``, depth 1 … L, numbered within their depth; not kept."""
        path = np.empty((self.items, self.levels), dtype=np.int32)
        path[:, -1] = np.arange(self.items, dtype=np.int32)
        for depth in range(self.levels - 1, 0, -1):
            path[:, depth - 1] = self.parents[depth - 1][path[:, depth]]
        return path

    @cached_property
    def everything(self) -> RuleMask:
        """The mask that excludes nothing."""
        bits = np.packbits(np.ones(self.nodes, dtype=np.bool_), bitorder="little")
        return RuleMask(bits, tuple(np.diff(start) for start in self.child_start))

    @property
    def nbytes(self) -> int:
        """Memory of the trie while it is searched, in bytes; :attr:`leaf_nodes` is not part of it."""
        codes = sum(array.nbytes for array in self.child_code)
        arrays = (*self.child_start, *self.parents, self.leaf_item, self.item_leaf)
        return codes + sum(array.nbytes for array in arrays)

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
        """Node ids that excluding these catalogue rows closes: their leaves, and nodes left without an open leaf.

        Closing whole subtrees keeps beams from running into dead ends, so that the answer stays full. Of the inner
        nodes only the topmost of a closed subtree are listed, as no beam comes further: at most two nodes an item.
        """
        closed = np.sort(self.item_leaf[items]).astype(np.int64)
        closed = closed[_begins(closed)]
        closed = closed[self._is_open(rule, closed + self.node_offset[-2])]
        found = [closed + self.node_offset[-2]]
        for depth in range(self.levels - 1, 0, -1):
            parent = self.parents[depth - 1][closed]
            bounds = np.append(_begins(parent).nonzero()[0], len(parent))
            parents, count = parent[bounds[:-1]], bounds[1:] - bounds[:-1]
            is_closed = rule.open_children[depth][parents] == count
            if depth < self.levels - 1:  # all leaves are listed: dense candidates are leaves
                found.append(closed[np.repeat(~is_closed, count)] + self.node_offset[depth])
            closed = parents[is_closed]
            if not len(closed):
                break
        else:
            found.append(closed if self.levels > 1 else closed[:0])
        return np.concatenate(found)

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
        by_leaf = np.empty((self.items, self.levels), dtype=np.int16)
        node = np.arange(self.items, dtype=np.int32)
        for depth in range(self.levels - 1, -1, -1):
            by_leaf[:, depth] = self.child_code[depth][node]
            node = self.parents[depth - 1][node] if depth else node
        return by_leaf[self.item_leaf]

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
        levels = max(sum(name.startswith(kind) for name in arrays) for kind in ("child_start_", "child_code_"))
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
        is_named = np.zeros(parents, dtype=np.bool_)
        if len(self.leaf_item) == parents and self.leaf_item.min() >= 0 and self.leaf_item.max() < parents:
            is_named[self.leaf_item] = True
        if not is_named.all():
            raise CatalogueError("trie leaves and items are not one to one")

    @staticmethod
    def _is_open(rule: RuleMask, node: npt.NDArray[np.integer]) -> BoolArray:
        bit = (rule.bits[node >> 3] >> (node & 7).astype(np.uint8)) & 1
        return np.asarray(bit, dtype=np.bool_)


def padded(codes: npt.NDArray[np.integer], codebook_size: int) -> npt.NDArray[np.int16]:
    """Child codes of one level with the K spare entries behind them."""
    out = np.zeros(len(codes) + codebook_size, dtype=np.int16)
    out[: len(codes)] = codes
    return out


def _begins(ranked: npt.NDArray[np.integer]) -> BoolArray:
    """Whether each entry differs from the one before it."""
    begins = np.ones(len(ranked), dtype=np.bool_)
    np.not_equal(ranked[1:], ranked[:-1], out=begins[1:])
    return begins
