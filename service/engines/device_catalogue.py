"""Room to grow for a catalogue on a device, so that a live one changes without changing any shape.

A captured search has the shapes of the catalogue's arrays built in, and numbers nodes by them. So arrays are padded to
a capacity for each depth, and node ids and masks are renumbered accordingly, before they leave for the device. Nothing
reaches the spare nodes: no node has them as children, and every mask has them closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from model_store.search.interface import catalogue_inputs, pool_vectors
from model_store.semantic_ids.trie import Trie

SPARE = 1 / 8
"""Nodes of a depth that may come, as a share of those that are there."""

LEAST_SPARE = 64


@dataclass(frozen=True)
class PaddedLayout:
    """How many nodes each depth has room for.

    Attributes:
        codebook_size: K.
        nodes: For depths 1 … L.
        windows: For depths 0 … L - 1, slots for the children of a node.
    """

    codebook_size: int
    nodes: tuple[int, ...]
    windows: tuple[int, ...]

    @classmethod
    def over(cls, trie: Trie) -> PaddedLayout:
        """For a trie and what it may grow to before arrays must be made anew."""
        counts = np.diff(trie.node_offset).tolist()
        most = [trie.codebook_size**depth for depth in range(1, trie.levels + 1)]
        return cls(
            trie.codebook_size,
            tuple(
                min(limit, count + max(LEAST_SPARE, int(count * SPARE)))
                for count, limit in zip(counts, most, strict=True)
            ),
            trie.windows,
        )

    def holds(self, trie: Trie) -> bool:
        """Whether the trie has no more nodes than there is room for, at any depth and below any node."""
        counts = *np.diff(trie.node_offset).tolist(), *trie.windows
        rooms = *self.nodes, *self.windows
        return len(counts) == len(rooms) and all(count <= room for count, room in zip(counts, rooms, strict=True))

    @cached_property
    def offset(self) -> tuple[int, ...]:
        """Number of the first node of each depth, then of all nodes, like ``Trie.node_offset``."""
        return (0, *np.cumsum(self.nodes).tolist())

    @property
    def mask_bytes(self) -> int:
        """Size of a mask over all nodes."""
        return -(-self.offset[-1] // 8)

    def arrays(
        self, trie: Trie, vectors: npt.NDArray[np.float32] | None, embedding_dim: int, candidates: int
    ) -> list[npt.NDArray[np.generic]]:
        """The arrays of :func:`model_store.search.interface.catalogue_inputs` and the pool for n candidates, padded."""
        given, levels = catalogue_inputs(trie, vectors, embedding_dim), trie.levels
        starts, codes, parents = given[:levels], given[levels : 2 * levels], given[3 * levels : -2]
        *_, leaf_row, by_row = given
        pool, leaves = pool_vectors(trie, vectors, embedding_dim, candidates), self.nodes[-1]
        return [
            *(_padded(array, room + 1) for array, room in zip(starts, (1, *self.nodes), strict=False)),
            *(_padded(array, room + self.codebook_size) for array, room in zip(codes, self.nodes, strict=True)),
            *(np.arange(size, dtype=np.int64) for size in self.windows),
            *(_padded(array, room) for array, room in zip(parents, self.nodes[1:], strict=True)),
            _padded(leaf_row, leaves),
            by_row if vectors is None else _padded(by_row, leaves),
            pool if vectors is None or not candidates else _padded(pool, leaves),
        ]

    def node_ids(self, trie: Trie, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Node ids of the trie ``[…]``, renumbered; -1 stays what it is."""
        depth = np.searchsorted(np.asarray(trie.node_offset[1:-1]), ids, side="right")
        shift = np.subtract(self.offset[:-1], trie.node_offset[:-1])
        return ids + shift[depth]

    def masks(self, trie: Trie, bits: Iterable[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """Masks over the trie's nodes, renumbered, ``[R, mask_bytes]``; spare nodes are closed."""
        masks = list(bits)
        is_open = np.zeros((len(masks), self.offset[-1]), dtype=np.uint8)
        for row, mask in zip(is_open, masks, strict=True):
            node = np.unpackbits(mask, count=trie.nodes, bitorder="little")
            for begin, first, end in zip(self.offset, trie.node_offset, trie.node_offset[1:], strict=False):
                row[begin : begin + end - first] = node[first:end]
        return np.packbits(is_open, axis=1, bitorder="little")


def _padded(array: npt.NDArray[np.generic], length: int) -> npt.NDArray[np.generic]:
    out = np.zeros((length, *array.shape[1:]), dtype=array.dtype)
    out[: len(array)] = array
    return out
