"""Beams of the search: their possible continuations, and the choice of the best ones.

Shapes: B requests, W beams, n dense candidates, P decoded places (beams, candidates or some of them), K codes a level,
w slots of a level's window, E excluded and S steered nodes of a request, L levels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.dense_candidates import DEAD


class Span(NamedTuple):
    """Ranges of the nodes that are children of places, numbered within their depth."""

    first: Tensor  # [B, W]
    size: Tensor  # [B, W], how many there are

    @classmethod
    def of(cls, node: Tensor, log_prob: Tensor, child_start: Tensor) -> Span:
        """Return the children of places on nodes ``[B, W]`` that were reached with these log-probabilities."""
        first = child_start.take(node).long()
        # A dead beam has no children, whatever node it stands on.
        return cls(first, torch.where(log_prob > DEAD, child_start.take(node + 1).long() - first, 0))


class ChangedNodes(NamedTuple):
    """Nodes that a request excludes, and those whose entering it steers."""

    node: Tensor  # [B, E + S]
    added: Tensor  # [B, E + S], what is added to the score of entering each: -inf, or nats

    @classmethod
    def of(cls, excluded: Tensor, steer_nodes: Tensor, steer_nats: Tensor) -> ChangedNodes:
        """Return both kinds together, so that steering costs no look-up of its own.

        Args:
            excluded: ``[B, E]``.
            steer_nodes: ``[B, S]``.
            steer_nats: ``[B, S]``.
        """
        dead = torch.full_like(excluded, DEAD, dtype=steer_nats.dtype)
        return cls(torch.cat([excluded, steer_nodes], dim=1), torch.cat([dead, steer_nats], dim=1))

    def at(self, first_node: int) -> ChangedNodes:
        """Return the same, numbered within the depth whose first node this is."""
        return ChangedNodes(self.node - first_node, self.added)


class Children(NamedTuple):
    """Window of w child slots of every place, ``[B, W, w]`` each; no node has more children."""

    first: Tensor  # [B, W], first child of each place
    size: Tensor  # [B, W], how many it has
    window: Tensor  # [w], 0 … w - 1
    exists: Tensor  # which slots hold a child
    log_prob: Tensor  # of the slots, given the place

    @classmethod
    def of(
        cls, span: Span, child_code: Tensor, window: Tensor, logits: Tensor, places: Tensor | None = None
    ) -> Children:
        """Return the children of all places.

        Args:
            span: Of these places.
            child_code: Codes of the children's depth.
            window: ``[w]``.
            logits: Of all codes, ``[B, W, K]``.
            places: ``[B, P]``, if logits are ``[B, P, K]``, of these places only; others have one child or none.
        """
        first, size = span
        exists = window < size[:, :, None]

        if places is None:
            return cls(first, size, window, exists, _log_prob(first, exists, child_code, window, logits))

        some = places[:, :, None].expand(-1, -1, window.shape[0])
        decided = _log_prob(first.gather(1, places), exists.gather(1, some), child_code, window, logits)
        certain = torch.zeros_like(exists, dtype=decided.dtype)
        return cls(first, size, window, exists, certain.scatter(1, some, decided))

    def slice_places(self, start: int, end: int | None) -> Children:
        """Return the children of the places ``start`` to ``end``."""
        first, size, window, exists, log_prob = self
        return Children(first[:, start:end], size[:, start:end], window, exists[:, start:end], log_prob[:, start:end])

    def log_prob_of(self, child: Tensor) -> Tensor:
        """Return the log-probability of one child ``[B, n]`` of each place, or of n children of the only place."""
        slot = (child - self.first)[:, :, None]
        return self.log_prob.expand(-1, child.shape[1], -1).gather(2, slot).squeeze(2)

    def change_scores(self, changes: ChangedNodes, scores: Tensor) -> Tensor:
        """Return scores ``[B, W, w + spare]`` with what is added to those of changed nodes.

        Nodes are numbered within this depth. Every changed node is looked up in the W windows, which costs
        (E + S)·W, not (E + S)·W·w, whatever the size of the catalogue.
        """
        columns = scores.shape[2]
        inside = changes.node[:, :, None] - self.first[:, None, :]  # [B, E + S, W]
        is_hit = (inside >= 0) & (inside < self.size[:, None, :])
        slot = inside + torch.arange(scores.shape[1], device=inside.device) * columns
        # Beams stand on different nodes, so at most one window holds a node; misses go to the last, a spare slot.
        at = torch.where(is_hit, slot, scores.shape[1] * columns - 1).amin(dim=2)
        return scores.flatten(1).scatter_add(1, at, changes.added).view_as(scores)


def _log_prob(first: Tensor, exists: Tensor, child_code: Tensor, window: Tensor, logits: Tensor) -> Tensor:
    """Return the log-probability of each child slot, ``[B, P, w]``, from the logits of all codes, ``[B, P, K]``."""
    code = child_code.take(first[:, :, None] + window).long()
    return torch.log_softmax(torch.where(exists, logits.gather(2, code), -1e30), dim=-1)


class Beams(NamedTuple):
    """State of the beams after some codes; a beam that found nothing has log_prob -inf."""

    node: Tensor  # [B, W], numbered within its depth
    log_prob: Tensor  # [B, W], with steering
    group: Tensor | None = None  # [B, W], first code that each descends from; None: each from its own
    steps: tuple[Tensor, ...] = ()  # per code decoded so far [B, W], its contribution, without steering

    @classmethod
    def at_root(cls, batch: int, device: torch.device) -> Beams:
        """Return one beam a request, before the first code."""
        return cls(torch.zeros(batch, 1, dtype=torch.int64, device=device), torch.zeros(batch, 1, device=device))

    def outputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the search's outputs without dense scores, once the last code is decoded."""
        is_alive = self.log_prob > DEAD
        leaf = torch.where(is_alive, self.node, -1)

        # Added up code by code, as the search did: without steering the same bits.
        own = torch.zeros_like(self.log_prob)
        for step in self.steps:
            own = own + step
        log_prob = torch.where(is_alive, own, DEAD)
        return leaf, log_prob, torch.zeros_like(log_prob), torch.stack(self.steps, dim=2)

    def grow(
        self,
        children: Children,
        is_open: Tensor,
        changes: ChangedNodes,
        beam: Tensor,
        most: Tensor,
        select_best: nn.Module,
    ) -> tuple[Beams, Tensor]:
        """Return the best W open children as new beams, and the beam ``[B, W]`` that each of them continues.

        Args:
            children: Of these beams.
            is_open: ``[B, W, w]``, children that the rules allow.
            changes: Nodes of the children's depth that are closed as well, or steered.
            beam: ``[W]``, beams afterwards; only its size matters.
            most: ``[B]``, beams that may share a first code.
            select_best: A :class:`BestOfGroups`, or its replacement.
        """
        slots = children.window.shape[0]
        width = beam.shape[0]

        gained = torch.where(is_open & children.exists, self.log_prob[:, :, None] + children.log_prob, DEAD)
        # Spare slots: a beam may have fewer children than are wanted, and misses among the changed go to the last.
        gained = children.change_scores(changes, functional.pad(gained, (0, width), value=DEAD))
        if self.steps:
            log_prob, pick = select_best(gained, self.group, beam, most)
        else:  # first codes, of the only beam
            log_prob, pick = gained.flatten(1).topk(width, dim=1)

        parent = pick // gained.shape[2]
        slot = (pick - parent * gained.shape[2]).clamp(max=slots - 1)
        # A beam that found nothing must not point past the end of the next level's arrays.
        node = torch.where(log_prob > DEAD, children.first.gather(1, parent) + slot, 0)
        step = children.log_prob.flatten(1).gather(1, parent * slots + slot)
        steps = (*(before.gather(1, parent) for before in self.steps), step)

        # The second code opens a group for each beam, that is for its first code; later codes inherit the group.
        group = None
        if self.steps:
            group = parent if self.group is None else self.group.gather(1, parent)
        return Beams(node, log_prob, group, steps), parent


class AllPlaces(nn.Module):
    """Choice of the places that are decoded for the last code: all of them. It has no weights.

    It is a module of its own so that an inference engine can replace it by one that leaves out places with one child,
    whose code is certain. The number of such places depends on the data; shapes of a captured search must not.
    """

    def forward(self, span: Span) -> Tensor | None:
        """Return distinct places ``[B, P]``, among them all that have several children; None stands for all places."""
        del span
        return None


class BestOfGroups(nn.Module):
    """Choice of the best candidates of all beams, with a limit for each group. It has no weights.

    It is a module of its own so that an inference engine can replace it by one that skips the limit where no request
    sets one.
    """

    def forward(self, gained: Tensor, group: Tensor | None, beam: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Choose W candidates of each request.

        Args:
            gained: ``[B, W, w + W]``, scores of each beam's candidates; -inf where there is none.
            group: ``[B, W]``, 0 … W - 1, of each beam; None: each beam is a group.
            beam: ``[W]``; only its size matters.
            most: ``[B]``, candidates that may share a group.

        Returns:
            Scores and places in a request's candidates, ``[B, W]`` each, best first.
        """
        width = beam.shape[0]
        # At most W candidates of a beam can be chosen, so its own best W suffice.
        score, pick = gained.topk(width, dim=2)
        beams = torch.arange(gained.shape[1], device=gained.device)
        pick = (pick + beams[:, None] * gained.shape[2]).flatten(1)

        # The rank of a candidate inside its group, from 1; past the limit its score is dead.
        if group is None:
            rank = 1 + torch.arange(width, device=gained.device)
            score = torch.where(rank <= most[:, None, None], score, DEAD).flatten(1)
        else:
            score, order = score.flatten(1).topk(gained.shape[1] * width, dim=1)
            pick = pick.gather(1, order)
            of_group = group.gather(1, pick // gained.shape[2])
            is_member = of_group[:, :, None] == beams
            rank = is_member.long().cumsum(dim=1).gather(2, of_group[:, :, None]).squeeze(2)
            score = torch.where(rank <= most[:, None], score, DEAD)

        score, kept = score.topk(width, dim=1)
        return score, pick.gather(1, kept)
