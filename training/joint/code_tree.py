"""Trie of the current codes on the device, for losses over the codes that may come next.

Shapes: N rows (targets of a batch), L levels, K codes a level, D leaves (items).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.network.beams import Children, Span
from model_store.semantic_ids.trie import Trie
from training.loop.item_softmax import Proposal


class CodeTree:
    """Trie on the device, with the range of leaves below every node.

    Args:
        codes: Semantic IDs of all items, ``[items, L]``.
        codebook_size: K.
        vectors: Unit length, ``[items, d_s]``.
        proposal: Sampler of items, if they are too many to score all of them.
    """

    def __init__(
        self,
        codes: npt.NDArray[np.integer],
        codebook_size: int,
        vectors: Tensor,
        proposal: Proposal | None = None,
    ) -> None:
        trie = Trie.build(codes, codebook_size)
        device = vectors.device
        self.codebook_size = codebook_size
        self.proposal = proposal
        self.codes = _to_device(codes, device)
        """Semantic IDs ``[items, L]``."""
        self.vectors = vectors
        """Unit length, ``[items, d_s]``."""

        self._item_leaf = _to_device(trie.item_leaf[:], device)
        self._leaf_nodes = _to_device(trie.leaf_nodes, device)  # [D, L]
        self._child_start = [_to_device(array, device) for array in trie.child_start]
        self._child_code = [_to_device(array, device) for array in trie.child_code]
        self._window = torch.arange(codebook_size, device=device)  # every slot, as soft targets have
        self.leaf_vectors = vectors[_to_device(trie.leaf_item, device)]
        """Unit-length vectors in the order of leaves, ``[D, d_s]``."""

        # Leaves are sorted by semantic ID, so those below a node are neighbours.
        starts = [np.searchsorted(nodes, np.arange(nodes[-1] + 2)) for nodes in trie.leaf_nodes.T]
        self._first_leaf = [_to_device(start, device) for start in starts]

    @property
    def levels(self) -> int:
        """Number of levels L."""
        return len(self._child_start)

    def leaves(self, items: Tensor) -> Tensor:
        """Return the leaf of each item row."""
        return self._item_leaf[items]

    def children(self, leaves: Tensor, level: int, logits: Tensor) -> Children:
        """Return the codes that may come at a level on the way to each leaf ``[N]``, with log-softmax of their logits.

        Args:
            leaves: ``[N]``.
            level: 0 … L - 1.
            logits: Of all codes, ``[N, K]``.
        """
        node = self._leaf_nodes[leaves, level - 1] if level else torch.zeros_like(leaves)
        alive = torch.zeros_like(node, dtype=logits.dtype)[:, None]
        span = Span.of(node[:, None], alive, self._child_start[level])
        return Children.of(span, self._child_code[level], self._window, logits[:, None])

    def child(self, leaves: Tensor, level: int) -> Tensor:
        """Return the node that each leaf's own code leads to, ``[N, 1]``."""
        return self._leaf_nodes[leaves, level, None]

    def shares(self, leaves: Tensor, level: int, cumulative: Tensor) -> Tensor:
        """Split a distribution over all leaves among the children of a level on the way to each leaf.

        Args:
            leaves: ``[N]``.
            level: 0 … L - 1.
            cumulative: Cumulated probabilities ``[N, D]``: entry i is the mass of leaves 0 … i. In float64; in float32
                differences of unlikely neighbours would be rounding errors.

        Returns:
            ``[N, K]`` by child slot, summing to 1; slots without a child get 0.
        """
        node = self._leaf_nodes[leaves, level - 1] if level else torch.zeros_like(leaves)
        start = self._child_start[level]
        slot = torch.arange(self.codebook_size + 1, device=leaves.device)
        bounds = torch.minimum(start[node][:, None] + slot, start[node + 1][:, None])

        # The mass of a child is the difference of cumulated masses at both ends of its range of leaves.
        first = self._first_leaf[level][bounds]
        mass = (cumulative.gather(1, (first - 1).clamp(min=0)) * (first > 0)).diff(dim=1)
        return (mass / mass.sum(dim=1, keepdim=True).clamp(min=1e-30)).float()


class Teacher:
    """Soft targets for the decoder: probabilities of the dense head for every code on the way to each target.

    The dense head scores all items at once. Summed over the leaves below a node, its probabilities are those that the
    user wants an item below it. One-hot codes tell of one item only.

    Args:
        tree: The catalogue.
        leaves: Targets, ``[N]``.
    """

    def __init__(self, tree: CodeTree, leaves: Tensor) -> None:
        self._tree = tree
        self._leaves = leaves
        shape = (len(leaves), tree.codebook_size)
        self.shares = [tree.vectors.new_empty(shape) for _ in range(tree.levels)]
        """Soft targets per level, ``[N, K]`` by child slot; complete once all rows were observed."""

    def observe(self, start: int, probability: Tensor) -> None:
        """Add the probabilities ``[slice, D]`` of some rows, see :data:`training.loop.item_softmax.Observer`."""
        rows = slice(start, start + len(probability))
        cumulative = probability.cumsum(dim=1, dtype=torch.float64)
        for level, shares in enumerate(self.shares):
            shares[rows] = self._tree.shares(self._leaves[rows], level, cumulative)


def _to_device(array: npt.NDArray[np.integer], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)
