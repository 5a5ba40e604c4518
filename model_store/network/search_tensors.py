"""Tensors that a search reads: those of a batch of requests, and those of the catalogue.

Shapes: B requests, T history items, W beams, n dense candidates, M neighbours, K codes a level, L levels, w slots of a
level's window, R rules, E excluded and S steered nodes of a request, D leaves, d_s width of vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class RequestTensors(NamedTuple):
    """Tensors of a batch of requests: the fields of :class:`~model_store.search.interface.SearchInputs`."""

    history: Tensor  # [B, T], leaves of the history's items, oldest first
    lengths: Tensor  # [B]
    rule_bits: Tensor  # [R, bytes], open nodes of each distinct rule, one bit a node
    rule_of: Tensor  # [B], rule of each request
    excluded: Tensor  # [B, E], node ids
    max_per_prefix: Tensor  # [B], beams that may share a first code
    neighbours: Tensor  # [B, M], leaves with an addition to their dense score, -1 for padding
    neighbour_scores: Tensor  # [B, M], the additions
    steer_nodes: Tensor  # [B, S], node ids whose entering is steered, -1 for padding
    steer_nats: Tensor  # [B, S], what is added to the log-probability of that
    beam: Tensor  # [W]; only its size matters
    candidates: Tensor  # [n]; only its size matters


class CatalogueTensors(NamedTuple):
    """Tensors of a catalogue, as :mod:`model_store.search.interface` defines them."""

    child_start: tuple[Tensor, ...]  # per level [n_l + 1]
    child_code: tuple[Tensor, ...]  # per level [n_(l+1) + K]
    window: tuple[Tensor, ...]  # per level [w_l]: 0 … w_l - 1, slots that hold the children of any node
    parent: tuple[Tensor, ...]  # per depth 2 … L [n_depth]
    leaf_row: Tensor  # [D], catalogue row of each leaf
    by_row: Tensor  # [items, d_s], vectors by catalogue row, or a single one that stands for all
    pool: Tensor  # [D, d_s], the vectors by leaf, or none

    @classmethod
    def from_inputs(cls, tensors: tuple[Tensor, ...]) -> CatalogueTensors:
        """Sort the graph's catalogue inputs, which come in this order, into fields."""
        *by_level, leaf_row, by_row, pool = tensors
        levels = (len(by_level) + 1) // 4
        return cls(
            child_start=tuple(by_level[:levels]),
            child_code=tuple(by_level[levels : 2 * levels]),
            window=tuple(by_level[2 * levels : 3 * levels]),
            parent=tuple(by_level[3 * levels :]),
            leaf_row=leaf_row,
            by_row=by_row,
            pool=pool,
        )

    def path(self, leaves: Tensor) -> list[Tensor]:
        """Return the nodes on the way to leaves ``[…]``, depth 1 … L, numbered within their depth."""
        nodes = [leaves]
        for parent in reversed(self.parent):
            nodes.insert(0, parent.take(nodes[0]).long())
        return nodes

    def codes(self, path: list[Tensor]) -> Tensor:
        """Return the semantic IDs ``[…, L]`` that a path spells."""
        return torch.stack([code.take(node).long() for code, node in zip(self.child_code, path, strict=True)], dim=-1)

    def vectors(self, leaves: Tensor) -> Tensor:
        """Return the item vectors ``[…, d_s]`` of leaves ``[…]``."""
        row = self.leaf_row.take(leaves).long()
        return functional.embedding(row.clamp(max=self.by_row.shape[0] - 1), self.by_row)

    def first_node(self, level: int, codebook_size: int) -> int:
        """Return the node id of the first child of this level."""
        return sum(codes.shape[0] - codebook_size for codes in self.child_code[:level])


def sort_inputs(inputs: tuple[Tensor, ...]) -> tuple[RequestTensors, CatalogueTensors]:
    """Sort the search's inputs into the requests and the catalogue."""
    fields = len(RequestTensors._fields)
    return RequestTensors(*inputs[:fields]), CatalogueTensors.from_inputs(inputs[fields:])
