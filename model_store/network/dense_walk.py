"""Dense candidates on their way down the trie: chosen first, decoded beside the beams, merged at the end.

Shapes: B requests, T history items, W beams, n dense candidates, M neighbours, A = T + M listed leaves, L levels, d_s
width of vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model_store.network.beams import Beams
from model_store.network.dense_candidates import (
    DEAD,
    AddedScores,
    DenseCandidates,
    ListedLeaves,
    dense_scores,
    nearest_leaves,
)
from model_store.network.rule_bits import RuleBits
from model_store.network.search_tensors import CatalogueTensors, RequestTensors


class DenseWalk(NamedTuple):
    """Dense candidates on their way down the trie, beside the beams."""

    user: Tensor  # [B, d_s], unit length
    added: AddedScores
    nearest: DenseCandidates
    path: list[Tensor]  # nodes that they stand on after each code, L of [B, n]

    @classmethod
    def start(
        cls,
        requests: RequestTensors,
        catalogue: CatalogueTensors,
        rules: RuleBits,
        user: Tensor,
        repeats: Tensor,
        first_leaf: int,
    ) -> DenseWalk:
        """Choose the dense candidates of each request, and look up the paths that they walk.

        Args:
            requests: The requests.
            catalogue: The catalogue.
            rules: Rules of these requests.
            user: Their users' vectors, ``[B, d_s]``, unit length.
            repeats: What each item of the history adds to its own score, ``[B, T]``, 0 for padding.
            first_leaf: Node id of the first leaf.
        """
        added = AddedScores(
            torch.cat([requests.history, requests.neighbours], dim=1),
            torch.cat([repeats, requests.neighbour_scores], dim=1),
        )
        rule_mask = rules.leaf_mask(catalogue.pool.shape[0], first_leaf)
        excluded = requests.excluded - first_leaf

        listed = _listed_leaves(requests, catalogue, user, repeats)
        itself = torch.zeros(1, dtype=torch.int64, device=user.device)
        is_open = rules.open_nodes(listed.leaf.clamp(min=0) + first_leaf, itself)[:, :, 0]
        outside = listed.outside(catalogue.pool.shape[0], is_open, excluded)
        count = requests.candidates.shape[0]
        nearest = nearest_leaves(user, catalogue.pool, rule_mask, excluded, added, outside, count)
        return cls(user, added, nearest, catalogue.path(nearest.leaf.clamp(min=0)))

    def append_to(self, beams: Beams, parent_place: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return all places of a level after the first: the beams, then the candidates.

        Args:
            beams: W of them.
            parent_place: ``[B, W]``, places of the level before that the beams continue.
            level: 1 … L - 1.

        Returns:
            Nodes, log-probabilities (candidates never die) and the places that they continue, ``[B, W + n]`` each.
        """
        # Level 0 has one place for all. From then on each candidate continues its own, after those of the beams.
        own_place = torch.zeros_like(self.nearest.leaf)
        if level > 1:
            own_place = own_place + beams.node.shape[1] + torch.arange(own_place.shape[1], device=own_place.device)
        alive = torch.zeros_like(self.nearest.dense)
        return (
            torch.cat([beams.node, self.path[level - 1]], dim=1),
            torch.cat([beams.log_prob, alive], dim=1),
            torch.cat([parent_place, own_place], dim=1),
        )

    def merge_outputs(
        self, beams: Beams, vectors: Tensor, candidate_steps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the search's outputs: the beams, then those candidates that no beam found.

        Args:
            beams: After the last code.
            vectors: Of their items, ``[B, W, d_s]``.
            candidate_steps: Log-probability of each code of the candidates, ``[B, n, L]``.
        """
        leaf, log_prob, _, steps = beams.outputs()
        beam_dense = dense_scores(self.user, vectors, beams.node, self.added)
        is_new = self.nearest.not_among(leaf)
        return (
            torch.cat([leaf, torch.where(is_new, self.nearest.leaf, -1)], dim=1),
            torch.cat([log_prob, torch.where(is_new, candidate_steps.sum(dim=2), DEAD)], dim=1),
            torch.cat([torch.where(leaf >= 0, beam_dense, 0.0), torch.where(is_new, self.nearest.dense, 0.0)], dim=1),
            torch.cat([steps, candidate_steps], dim=1),
        )


def _listed_leaves(
    requests: RequestTensors, catalogue: CatalogueTensors, user: Tensor, repeats: Tensor
) -> ListedLeaves:
    """Return the leaves of histories and neighbours with their dense scores; none if the pool holds all leaves."""
    # All columns where the pool is empty, and none where it is not small, by a division: the exporter would take a
    # comparison for settled. Of a small pool some are left, and its own leaves are not chosen twice.
    scarcity = catalogue.pool.shape[0] + 1
    items = requests.history.shape[1] // scarcity
    others = requests.neighbours.shape[1] // scarcity
    history = requests.history[:, :items]
    neighbours = requests.neighbours[:, :others]

    place = torch.arange(items, device=user.device)
    history = torch.where(place < requests.lengths[:, None], history, -1)
    vectors = catalogue.vectors(torch.cat([history, neighbours], dim=1).clamp(min=0))
    cosine = (vectors @ user[:, :, None]).squeeze(2)
    scores = requests.neighbour_scores[:, :others]
    return ListedLeaves.of(cosine, history, repeats[:, :items], neighbours, scores)
