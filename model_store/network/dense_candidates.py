"""Dense candidates of the search: the leaves whose vectors are nearest to the user's.

Shapes: B requests, W beams, n candidates of a request, P leaves in the pool, E excluded nodes of a request.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

DEAD = float("-inf")
"""Score of what must not be chosen."""


class DenseCandidates(NamedTuple):
    """The n open leaves of each request with the highest dense scores, descending."""

    leaf: Tensor  # [B, n], -1 where fewer leaves are open
    dense: Tensor  # [B, n], -inf there

    def not_among(self, beams: Tensor) -> Tensor:
        """Return a mask ``[B, n]`` of the candidates that are leaves which no beam ``[B, W]`` found."""
        is_known = (self.leaf[:, :, None] == beams[:, None, :]).any(dim=2)
        return (self.leaf >= 0) & ~is_known


class AddedScores(NamedTuple):
    """Numbers that are added to the cosines of some leaves: what repeats add, and what neighbours add.

    A leaf may be listed several times; what it gets adds up.
    """

    leaf: Tensor  # [B, A], -1 for padding
    value: Tensor  # [B, A], 0 for padding


def nearest_leaves(
    user: Tensor, pool: Tensor, rule_mask: Tensor, excluded: Tensor, added: AddedScores, count: int
) -> DenseCandidates:
    """Score the whole pool, and return the best n leaves. With an empty pool and ``count`` 0 nothing is computed.

    Args:
        user: Vectors of users at unit length, ``[B, d_s]``.
        pool: Unit-length vectors of the leaves, ``[P, d_s]``.
        rule_mask: ``[B, P]``, 0 where the request's rule leaves the leaf open, -inf elsewhere.
        excluded: ``[B, E]``, leaves that must not be answered; numbers outside the pool are ignored.
        added: Of these users; of a leaf outside the pool it is ignored.
        count: n.
    """
    leaves = pool.shape[0]
    score = functional.linear(user, pool) + rule_mask
    # One spare slot takes what is no leaf; n more keep the top n defined where fewer leaves are open.
    score = torch.cat([score, torch.full((score.shape[0], count + 1), DEAD, device=score.device)], dim=1)
    score = score.scatter_add(1, _place_in_pool(added.leaf, leaves), added.value)
    at = _place_in_pool(excluded, leaves)
    score = score.scatter(1, at, torch.full_like(at, DEAD, dtype=score.dtype))

    dense, pick = score.topk(count, dim=1)
    return DenseCandidates(torch.where(dense > DEAD, pick, -1), dense)


def dense_scores(user: Tensor, vectors: Tensor, leaf: Tensor, added: AddedScores) -> Tensor:
    """Return the dense scores of leaves ``[B, W]`` with vectors ``[B, W, d_s]``; of leaf -1 the score means nothing."""
    is_same = leaf[:, :, None] == added.leaf[:, None, :]
    return (vectors @ user[:, :, None]).squeeze(2) + (is_same * added.value[:, None, :]).sum(dim=2)


def _place_in_pool(leaf: Tensor, leaves: int) -> Tensor:
    """Return leaves ``[…]``, with the spare slot behind the pool for numbers that are no leaves of it."""
    return torch.where((leaf >= 0) & (leaf < leaves), leaf, leaves)
