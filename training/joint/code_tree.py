"""The current codes as the trie that the search walks, for losses that only weigh codes which can come next.

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
    """A trie on the device, with the range of leaves below every node.

    Args:
        codes: Semantic IDs of all items, ``[items, L]``.
        codebook_size: K.
        vectors: Unit length, ``[items, d_s]``.
        proposal: Where items are too many for scoring all of them: how to draw some.
    """

    def __init__(
        self,
        codes: npt.NDArray[np.integer],
        codebook_size: int,
        vectors: Tensor,
        proposal: Proposal | None = None,
    ) -> None:
        trie, device = Trie.build(codes, codebook_size), vectors.device
        self.codebook_size, self.proposal = codebook_size, proposal
        self.codes = _moved(codes, device)
        """Semantic IDs ``[items, L]``."""
        self.vectors = vectors
        """Unit length, ``[items, d_s]``."""
        self._item_leaf = _moved(trie.item_leaf, device)
        self._leaf_nodes = _moved(trie.leaf_nodes, device)  # [D, L]
        self._child_start = [_moved(array, device) for array in trie.child_start]
        self._child_code = [_moved(array, device) for array in trie.child_code]
        self._window = torch.arange(codebook_size, device=device)  # every slot, as soft targets have
        self.leaf_vectors = vectors[_moved(trie.leaf_item, device)]
        """Unit-length vectors in the order of leaves, ``[D, d_s]``."""
        # Leaves are sorted by semantic ID, so those below a node are neighbours.
        starts = [np.searchsorted(nodes, np.arange(nodes[-1] + 2)) for nodes in trie.leaf_nodes.T]
        self._first_leaf = [_moved(start, device) for start in starts]

    @property
    def levels(self) -> int:
        """L."""
        return len(self._child_start)

    def leaves(self, items: Tensor) -> Tensor:
        """Leaf of each item row."""
        return self._item_leaf[items]

    def children(self, leaves: Tensor, level: int, logits: Tensor) -> Children:
        """The codes that may come at a level on the way to each leaf ``[N]``, with log-softmax of logits ``[N, K]``."""
        node = self._leaf_nodes[leaves, level - 1] if level else torch.zeros_like(leaves)
        alive = torch.zeros_like(node, dtype=logits.dtype)[:, None]
        span = Span.of(node[:, None], alive, self._child_start[level])
        return Children.of(span, self._child_code[level], self._window, logits[:, None])

    def child(self, leaves: Tensor, level: int) -> Tensor:
        """Node that each leaf's own code leads to, ``[N, 1]``."""
        return self._leaf_nodes[leaves, level, None]

    def shares(self, leaves: Tensor, level: int, up_to: Tensor) -> Tensor:
        """How a distribution over all leaves splits among the children of a level on the way to each leaf.

        Args:
            leaves: ``[N]``.
            level: 0 … L - 1.
            up_to: Cumulated probabilities ``[N, D]``: entry i is the mass of leaves 0 … i. In float64, or differences
                of unlikely neighbours drown.

        Returns:
            ``[N, K]`` by child slot, summing to 1; slots without a child get 0.
        """
        node = self._leaf_nodes[leaves, level - 1] if level else torch.zeros_like(leaves)
        start = self._child_start[level]
        slot = torch.arange(self.codebook_size + 1, device=leaves.device)
        bounds = torch.minimum(start[node][:, None] + slot, start[node + 1][:, None])
        first = self._first_leaf[level][bounds]
        mass = (up_to.gather(1, (first - 1).clamp(min=0)) * (first > 0)).diff(dim=1)
        return (mass / mass.sum(dim=1, keepdim=True).clamp(min=1e-30)).float()


class Teacher:
    """What the dense head thinks of every code on the way to each target: soft targets for the decoder.

    The dense head scores all items at once; summed over the leaves below a node, its probabilities say how likely the
    user is to want something below it. One-hot codes say only where one item lay.

    Args:
        tree: The catalogue.
        leaves: Targets, ``[N]``.
    """

    def __init__(self, tree: CodeTree, leaves: Tensor) -> None:
        self._tree, self._leaves = tree, leaves
        shape = (len(leaves), tree.codebook_size)
        self.shares = [tree.vectors.new_empty(shape) for _ in range(tree.levels)]
        """Per level ``[N, K]`` by child slot, complete once all rows were observed."""

    def observe(self, start: int, probability: Tensor) -> None:
        """Take in probabilities ``[slice, D]`` over all leaves, see :data:`training.loop.item_softmax.Observer`."""
        rows = slice(start, start + len(probability))
        up_to = probability.cumsum(dim=1, dtype=torch.float64)
        for level, shares in enumerate(self.shares):
            shares[rows] = self._tree.shares(self._leaves[rows], level, up_to)


def _moved(array: npt.NDArray[np.integer], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)
