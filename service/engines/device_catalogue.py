"""Catalogue on a device, padded so that it can grow without a change of any shape.

A captured search has the shapes of the catalogue's arrays built in, and its node ids depend on them. So arrays are
padded to a capacity for each depth of the trie, and node ids and masks are renumbered to match before they are copied
to the device. Nothing reaches the spare nodes: no node has them as children, and every mask has them closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import Tensor

from model_store.search.interface import catalogue_inputs, pool_vectors
from model_store.semantic_ids.trie import Trie

HEADROOM = 1 / 8
"""Spare nodes of a depth, as a share of those that exist."""

MIN_HEADROOM = 64
"""Spare nodes of a depth at least."""


@dataclass(frozen=True)
class PaddedLayout:
    """Capacity for nodes at each depth of a trie, and the node ids that follow from it.

    Attributes:
        codebook_size: K.
        nodes: Capacity of depths 1 … L.
        windows: For depths 0 … L - 1, slots for the children of a node.
    """

    codebook_size: int
    nodes: tuple[int, ...]
    windows: tuple[int, ...]

    @classmethod
    def with_headroom(cls, trie: Trie) -> PaddedLayout:
        """Return a layout for a trie and the nodes that it may grow by before new arrays are needed."""
        counts = np.diff(trie.node_offset).tolist()
        limits = [trie.codebook_size**depth for depth in range(1, trie.levels + 1)]
        capacities = tuple(
            min(limit, count + max(MIN_HEADROOM, int(count * HEADROOM)))
            for count, limit in zip(counts, limits, strict=True)
        )
        return cls(trie.codebook_size, capacities, trie.windows)

    def fits(self, trie: Trie) -> bool:
        """Return whether there is room for all nodes of a trie, at every depth and below every node."""
        counts = (*np.diff(trie.node_offset).tolist(), *trie.windows)
        capacities = (*self.nodes, *self.windows)
        return len(counts) == len(capacities) and all(
            count <= capacity for count, capacity in zip(counts, capacities, strict=True)
        )

    @cached_property
    def offset(self) -> tuple[int, ...]:
        """Number of the first node of each depth, then of all nodes, like ``Trie.node_offset``."""
        return (0, *np.cumsum(self.nodes).tolist())

    @property
    def mask_bytes(self) -> int:
        """Size of a mask over all nodes."""
        return -(-self.offset[-1] // 8)

    def pad_arrays(
        self, trie: Trie, vectors: npt.NDArray[np.float32] | None, embedding_dim: int, has_pool: bool
    ) -> list[npt.NDArray[np.generic]]:
        """Return the padded arrays of a catalogue.

        They are those of :func:`model_store.search.interface.catalogue_inputs`, then the pool, which has no rows if
        ``has_pool`` says so.
        """
        levels = trie.levels
        given = catalogue_inputs(trie, vectors, embedding_dim)
        starts = given[:levels]
        codes = given[levels : 2 * levels]
        parents = given[3 * levels : -2]
        leaf_row, by_row = given[-2:]
        pool = pool_vectors(trie, vectors, embedding_dim, has_pool)
        leaves = self.nodes[-1]

        return [
            *(_pad(array, capacity + 1) for array, capacity in zip(starts, (1, *self.nodes), strict=False)),
            *(_pad(array, capacity + self.codebook_size) for array, capacity in zip(codes, self.nodes, strict=True)),
            *(np.arange(size, dtype=np.int64) for size in self.windows),
            *(_pad(array, capacity) for array, capacity in zip(parents, self.nodes[1:], strict=True)),
            _pad(leaf_row, leaves),
            by_row if vectors is None else _pad(by_row, leaves),
            pool if vectors is None or not has_pool else _pad(pool, leaves),
        ]

    def renumber_nodes(self, trie: Trie, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the ids ``[…]`` of a trie's nodes in this layout; -1 stays -1."""
        depth = np.searchsorted(np.asarray(trie.node_offset[1:-1]), ids, side="right")
        shift = np.subtract(self.offset[:-1], trie.node_offset[:-1])
        return ids + shift[depth]

    def renumber_masks(self, trie: Trie, bits: Iterable[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """Return R masks over a trie's nodes in this layout, ``[R, mask_bytes]``; spare nodes are closed."""
        masks = list(bits)
        is_open = np.zeros((len(masks), self.offset[-1]), dtype=np.uint8)
        for row, mask in zip(is_open, masks, strict=True):
            node = np.unpackbits(mask, count=trie.nodes, bitorder="little")
            for begin, first, end in zip(self.offset, trie.node_offset, trie.node_offset[1:], strict=False):
                row[begin : begin + end - first] = node[first:end]
        return np.packbits(is_open, axis=1, bitorder="little")


@dataclass(frozen=True, eq=False)
class DeviceCatalogue:
    """A catalogue on the device."""

    trie: Trie
    tensors: tuple[Tensor, ...]  # as PaddedLayout.pad_arrays returns them
    everything: Tensor  # [1, mask_bytes], the mask that excludes nothing


def _pad(array: npt.NDArray[np.generic], length: int) -> npt.NDArray[np.generic]:
    """Return a copy of an array with zeros appended to its first axis."""
    out = np.zeros((length, *array.shape[1:]), dtype=array.dtype)
    out[: len(array)] = array
    return out
