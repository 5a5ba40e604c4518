"""Dense candidates of the search: the leaves with the highest dense scores, in the pool and among those listed.

Listed are the items of the history and their neighbours. The pool holds all leaves, or none where the catalogue is too
large to score every item: then the listed ones are all there is to choose from.

Shapes: B requests, W beams, n candidates of a request, P leaves in the pool, T items of a history, M neighbours,
A = T + M listed leaves, E excluded nodes of a request.
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


class ListedLeaves(NamedTuple):
    """The leaves of a request's history and neighbours, each of them once, with their dense scores."""

    leaf: Tensor  # [B, A], -1 for padding
    dense: Tensor  # [B, A], -inf for padding and where a leaf is listed again

    @classmethod
    def of(cls, cosine: Tensor, history: Tensor, repeats: Tensor, neighbours: Tensor, scores: Tensor) -> ListedLeaves:
        """Add up the dense scores of listed leaves.

        Args:
            cosine: Of the user's vector and those of the history, then of the neighbours, ``[B, A]``.
            history: Leaves ``[B, T]``, -1 for padding.
            repeats: What each of them adds to its own score, ``[B, T]``, 0 for padding.
            neighbours: Distinct leaves ``[B, M]``, -1 for padding.
            scores: What each of them adds to its own score, ``[B, M]``, 0 for padding.
        """
        items = history.shape[1]
        place = torch.arange(items, device=history.device)
        is_same = history[:, :, None] == history[:, None, :]  # [B, T, T]
        is_neighbour = history[:, :, None] == neighbours[:, None, :]  # [B, T, M]
        comes_again = _any(is_same & (place[:, None] < place)) | _any(is_neighbour)

        of_history = cosine[:, :items] + (is_same * repeats[:, None, :]).sum(dim=2)
        of_neighbours = cosine[:, items:] + scores + (is_neighbour * repeats[:, :, None]).sum(dim=1)
        is_first = torch.cat([(history >= 0) & ~comes_again, neighbours >= 0], dim=1)
        dense = torch.cat([of_history, of_neighbours], dim=1)
        return cls(torch.cat([history, neighbours], dim=1), torch.where(is_first, dense, DEAD))

    def outside(self, pool: int, is_open: Tensor, excluded: Tensor) -> ListedLeaves:
        """Return the same leaves, with -inf for those that are closed, excluded, or in the pool already.

        Args:
            pool: P.
            is_open: ``[B, A]``, whether the request's rule leaves the leaf open.
            excluded: ``[B, E]``, leaves that must not be answered.
        """
        is_first = self.dense > DEAD
        is_excluded = _are_among(torch.where(is_first, self.leaf, -1), excluded)
        return ListedLeaves(self.leaf, torch.where(is_open & ~is_excluded & (self.leaf >= pool), self.dense, DEAD))


def nearest_leaves(
    user: Tensor,
    pool: Tensor,
    rule_mask: Tensor,
    excluded: Tensor,
    added: AddedScores,
    listed: ListedLeaves,
    count: int,
) -> DenseCandidates:
    """Score the whole pool, and return the best n leaves of it and the listed ones.

    Args:
        user: Vectors of users at unit length, ``[B, d_s]``.
        pool: Unit-length vectors of the leaves, ``[P, d_s]``.
        rule_mask: ``[B, P]``, 0 where the request's rule leaves the leaf open, -inf elsewhere.
        excluded: ``[B, E]``, leaves that must not be answered; numbers outside the pool are ignored.
        added: Of these users; of a leaf outside the pool it is ignored.
        listed: Leaves outside the pool that may be chosen too.
        count: n.
    """
    leaves = pool.shape[0]
    score = functional.linear(user, pool) + rule_mask
    # One spare slot takes what is no leaf; n more keep the top n defined where fewer leaves are open.
    spare = torch.full((score.shape[0], count + 1), DEAD, device=score.device)
    score = torch.cat([score, spare, listed.dense], dim=1)
    score = score.scatter_add(1, _place_in_pool(added.leaf, leaves), added.value)
    at = _place_in_pool(excluded, leaves)
    score = score.scatter(1, at, torch.full_like(at, DEAD, dtype=score.dtype))

    dense, pick = score.topk(count, dim=1)
    leaf_of = functional.pad(listed.leaf, (1, 0), value=-1)  # never empty
    of_list = leaf_of.gather(1, (pick - leaves - count).clamp(min=0))
    leaf = torch.where(pick < leaves, pick, of_list)
    return DenseCandidates(torch.where(dense > DEAD, leaf, -1), dense)


def dense_scores(user: Tensor, vectors: Tensor, leaf: Tensor, added: AddedScores) -> Tensor:
    """Return the dense scores of leaves ``[B, W]`` with vectors ``[B, W, d_s]``; of leaf -1 the score means nothing."""
    is_same = leaf[:, :, None] == added.leaf[:, None, :]
    return (vectors @ user[:, :, None]).squeeze(2) + (is_same * added.value[:, None, :]).sum(dim=2)


def _any(mask: Tensor) -> Tensor:
    """Return whether any is true along the last axis, which may be empty: ONNX's greatest of nothing is not false."""
    return mask.sum(dim=-1) > 0


def _are_among(leaf: Tensor, others: Tensor) -> Tensor:
    """Return whether each leaf ``[B, A]`` is one of the others ``[B, E]``; it means nothing of equal leaves, and of -1.

    To compare all with all would cost A·E, 100 MB for a request that denies 10,000 items. Sorted together, a leaf comes
    right behind those that are equal to it.
    """
    key, place = torch.cat([2 * others, 2 * leaf + 1], dim=1).sort(dim=1)
    is_behind = key[:, 1:] - 1 == key[:, :-1]
    is_among = torch.cat([torch.zeros_like(key[:, :1], dtype=torch.bool), is_behind], dim=1)
    return torch.zeros_like(is_among).scatter(1, place, is_among)[:, others.shape[1] :]


def _place_in_pool(leaf: Tensor, leaves: int) -> Tensor:
    """Return leaves ``[…]``, with the spare slot behind the pool for numbers that are no leaves of it."""
    return torch.where((leaf >= 0) & (leaf < leaves), leaf, leaves)
