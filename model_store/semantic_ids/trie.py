"""The trie over the catalogue's semantic IDs, as flat arrays that a graph can gather from.

Depth 0 is the root; a node at depth L is a leaf and stands for exactly one item. The children of node i of depth l
are the nodes ``child_start[l][i] … child_start[l][i+1] - 1`` of depth l + 1, in ascending code order (CSR, one pair
of arrays per level). ``child_code[l]`` ends with K spare entries, so that a window of K codes can be read from any
start.

A *node id* numbers all nodes below the root, depth by depth; masks and exclusions use node ids. The layout follows
STATIC (a CSR trie on accelerators); docs/ARCHITECTURE.md describes how the search uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.errors import CatalogueError
from model_store.semantic_ids.arrays import check_codes, sort_by_semantic_id
from model_store.semantic_ids.item_leaves import ItemLeaves
from model_store.semantic_ids.recycled_memory import RecycledMemory

Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


class RuleMask(NamedTuple):
    """The nodes that a rule leaves open; a node is open if at least one item below it is open."""

    bits: npt.NDArray[np.uint8]  # [ceil(nodes / 8)], little-endian bit per node id
    open_children: tuple[Int32Array, ...]  # per depth 0..L-1: open children of each node, [n_depth]


@dataclass(frozen=True)
class Trie:
    """The trie of a catalogue's semantic IDs. Immutable: a changed catalogue has a new trie."""

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
        order = sort_by_semantic_id(codes, codebook_size)

        starts = []
        child_codes = []
        parents = np.zeros(1, dtype=np.int64)  # leaves at which the nodes of this depth begin
        begins_node = np.zeros(len(codes), dtype=np.bool_)  # whether a leaf is the first one below a node of this depth
        begins_node[0] = True
        for depth in range(codes.shape[1]):
            ranked = codes[:, depth][order]
            begins_node[1:] |= ranked[1:] != ranked[:-1]
            children = np.flatnonzero(begins_node)
            start = np.append(np.searchsorted(children, parents), len(children))
            starts.append(start.astype(np.int32))
            child_codes.append(pad_child_codes(ranked[children], codebook_size))
            parents = children

        if not begins_node.all():
            leaf = int(np.argmin(begins_node))
            pair = sorted(order[leaf - 1 : leaf + 1].tolist())
            shared = codes[order[leaf]].tolist()
            raise CatalogueError(f"items in rows {pair[0]} and {pair[1]} share the semantic ID {shared}")
        return cls(codebook_size, tuple(starts), tuple(child_codes), order)

    @property
    def levels(self) -> int:
        """Number of codes of a semantic ID, L."""
        return len(self.child_start)

    @property
    def items(self) -> int:
        """Number of items, one per leaf."""
        return len(self.leaf_item)

    @cached_property
    def node_offset(self) -> tuple[int, ...]:
        """Node ids of the first nodes at depths 1 … L, then the number of all nodes."""
        counts = [len(code) - self.codebook_size for code in self.child_code]
        return (0, *np.cumsum(counts).tolist())

    @property
    def nodes(self) -> int:
        """Number of nodes below the root."""
        return self.node_offset[-1]

    @cached_property
    def item_leaf(self) -> ItemLeaves:
        """Leaves by catalogue row, ``[items]``."""
        return ItemLeaves.of(self.leaf_item)

    @cached_property
    def parents(self) -> tuple[Int32Array, ...]:
        """Parents of all nodes, per depth 2 … L, numbered within their depth: ``[n_depth]``."""
        return tuple(
            np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start)) for start in self.child_start[1:]
        )

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """Slots that hold the children of any node, per depth 0 … L - 1: a power of two of at least 2, or K.

        Few nodes have K children, so a search that reads only these slots does a fraction of the work.
        """
        most_children = [int(np.diff(start).max()) for start in self.child_start]
        return tuple(self.window_of(count) for count in most_children)

    def window_of(self, children: int) -> int:
        """Return the slots that hold so many children, see :attr:`windows`."""
        return min(self.codebook_size, max(2, 1 << (children - 1).bit_length()))

    @cached_property
    def memory(self) -> RecycledMemory:
        """Memory for the arrays of the tries that grow from this one."""
        return RecycledMemory()

    @property
    def leaf_nodes(self) -> Int32Array:
        """Nodes on the path to each leaf at depths 1 … L, numbered within their depth: ``[items, L]``; not cached."""
        path = np.empty((self.items, self.levels), dtype=np.int32)
        path[:, -1] = np.arange(self.items, dtype=np.int32)
        for depth in range(self.levels - 1, 0, -1):
            path[:, depth - 1] = self.parents[depth - 1][path[:, depth]]
        return path

    @cached_property
    def everything(self) -> RuleMask:
        """Mask that leaves every node open."""
        bits = np.packbits(np.ones(self.nodes, dtype=np.bool_), bitorder="little")
        return RuleMask(bits, tuple(np.diff(start) for start in self.child_start))

    @property
    def nbytes(self) -> int:
        """Memory of the trie during a search, in bytes; :attr:`leaf_nodes` is not part of it."""
        codes = sum(array.nbytes for array in self.child_code)
        arrays = (*self.child_start, *self.parents, self.leaf_item)
        return codes + sum(array.nbytes for array in arrays) + self.item_leaf.nbytes

    def mask(self, open_items: BoolArray) -> RuleMask:
        """Compile the catalogue rows that a rule allows, ``[items]``, into a mask over nodes."""
        is_open = open_items[self.leaf_item]
        by_depth = [is_open]
        counts = []
        for start in reversed(self.child_start):
            count = np.add.reduceat(is_open, start[:-1], dtype=np.int32)
            counts.append(count)
            is_open = count > 0
            by_depth.append(is_open)

        nodes = np.concatenate(by_depth[-2::-1])  # depths 1 … L; the root has no node id
        return RuleMask(np.packbits(nodes, bitorder="little"), tuple(reversed(counts)))

    def leaves_below(self, prefix: Sequence[int]) -> range:
        """Return the leaves under a code prefix; empty if the catalogue has none."""
        node = self._find_node(prefix)
        if node is None:
            return range(0)

        # The range of nodes below the prefix, one depth further down each time.
        low = node
        high = node + 1
        for child_start in self.child_start[len(prefix) :]:
            low = int(child_start[low])
            high = int(child_start[high])
        return range(low, high)

    def node_id(self, prefix: Sequence[int]) -> int | None:
        """Return the node id of a prefix of at least one code; ``None`` if the catalogue has none."""
        node = self._find_node(prefix)
        return None if node is None else self.node_offset[len(prefix) - 1] + node

    def _find_node(self, prefix: Sequence[int]) -> int | None:
        """Return the node of a prefix, numbered within its depth."""
        if len(prefix) > self.levels:
            return None

        node = 0
        for depth, code in enumerate(prefix):
            start = int(self.child_start[depth][node])
            children = self.child_code[depth][start : int(self.child_start[depth][node + 1])]
            place = int(np.searchsorted(children, code))
            if place == len(children) or children[place] != code:
                return None
            node = start + place
        return node

    def codes(self) -> npt.NDArray[np.int16]:
        """Return the semantic IDs by catalogue row, ``[items, L]``: the inverse of :meth:`build`."""
        by_leaf = np.empty((self.items, self.levels), dtype=np.int16)
        first_leaf = np.arange(self.items + 1)  # of each node of the depth below
        for depth in range(self.levels - 1, -1, -1):
            nodes = len(first_leaf) - 1
            by_leaf[:, depth] = np.repeat(self.child_code[depth][:nodes], np.diff(first_leaf))
            first_leaf = first_leaf[self.child_start[depth]]
        return by_leaf.take(self.item_leaf[:], axis=0)  # faster than an index: whole rows are copied

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return flat named arrays, for a snapshot; :meth:`from_arrays` takes them back."""
        named: dict[str, npt.NDArray[np.generic]] = {"leaf_item": self.leaf_item}
        for depth in range(self.levels):
            named[f"child_start_{depth}"] = self.child_start[depth]
            named[f"child_code_{depth}"] = self.child_code[depth]
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]], codebook_size: int) -> Trie:
        """Rebuild and check a trie from :meth:`arrays`.

        Raises:
            CatalogueError: An array is missing, or the arrays contradict each other.
        """
        levels = max(sum(name.startswith(kind) for name in arrays) for kind in ("child_start_", "child_code_"))
        try:
            starts = tuple(arrays[f"child_start_{depth}"].astype(np.int32, copy=False) for depth in range(levels))
            codes = tuple(arrays[f"child_code_{depth}"].astype(np.int16, copy=False) for depth in range(levels))
            leaf_item = arrays["leaf_item"].astype(np.int32, copy=False)
        except KeyError as missing:
            raise CatalogueError(f"the trie snapshot lacks the array {missing}") from missing

        trie = cls(codebook_size, starts, codes, leaf_item)
        trie.check_integrity()
        return trie

    def check_integrity(self) -> None:
        """Raise :class:`CatalogueError` unless the arrays describe a trie with one leaf per item."""
        if not self.levels:
            raise CatalogueError("the trie has no levels")

        nodes = 1
        for depth in range(self.levels):
            nodes = self._check_level(depth, nodes)

        is_named = np.zeros(nodes, dtype=np.bool_)
        if len(self.leaf_item) == nodes and self.leaf_item.min() >= 0 and self.leaf_item.max() < nodes:
            is_named[self.leaf_item] = True
        if not is_named.all():
            raise CatalogueError("trie leaves and items are not one to one")

    def _check_level(self, depth: int, nodes: int) -> int:
        """Check the arrays of one depth, which has so many nodes; return the number of their children."""
        start = self.child_start[depth]
        children = len(self.child_code[depth]) - self.codebook_size
        if len(start) != nodes + 1 or start[0] != 0 or start[-1] != children or (np.diff(start) < 1).any():
            raise CatalogueError(f"trie level {depth}: child offsets do not partition its {children} children")

        used = self.child_code[depth][:children]
        if used.min() < 0 or used.max() >= self.codebook_size:
            raise CatalogueError(f"trie level {depth}: a code lies outside 0 … {self.codebook_size - 1}")

        is_first_child = np.zeros(children, dtype=np.bool_)
        is_first_child[start[:-1]] = True
        if ((np.diff(used) <= 0) & ~is_first_child[1:]).any():
            raise CatalogueError(f"trie level {depth}: children are not in ascending code order")
        return children


def pad_child_codes(codes: npt.NDArray[np.integer], codebook_size: int) -> npt.NDArray[np.int16]:
    """Return the child codes of one level with the K spare entries after them."""
    padded = np.zeros(len(codes) + codebook_size, dtype=np.int16)
    padded[: len(codes)] = codes
    return padded
