"""The beams of the search: what each of them can go on with, and which continuations are the best.

Shapes: B requests, W beams, n dense candidates, P decoded places (beams, candidates or some of them), K codes a level,
w slots of a level's window, E excluded nodes of a request, L levels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.dense_candidates import DEAD


class Span(NamedTuple):
    """Where the children of places are, numbered within their depth."""

    first: Tensor  # [B, W]
    size: Tensor  # [B, W], how many there are

    @classmethod
    def of(cls, node: Tensor, log_prob: Tensor, child_start: Tensor) -> Span:
        """Of places on nodes ``[B, W]`` that were reached with these log-probabilities."""
        first = child_start.take(node).long()
        # A dead beam has no children, whatever node it stands on.
        return cls(first, torch.where(log_prob > DEAD, child_start.take(node + 1).long() - first, 0))


class Children(NamedTuple):
    """The window of w child slots of every place, ``[B, W, w]`` each; no node has more children."""

    first: Tensor  # [B, W], first child of each place
    size: Tensor  # [B, W], how many it has
    window: Tensor  # [w], 0 … w - 1
    exists: Tensor  # which slots hold a child
    log_prob: Tensor  # of the slots, given the place

    @classmethod
    def of(
        cls, span: Span, child_code: Tensor, window: Tensor, logits: Tensor, places: Tensor | None = None
    ) -> Children:
        """Of all places.

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

    def of_places(self, start: int, end: int | None) -> Children:
        """Of some of the places."""
        first, size, window, exists, log_prob = self
        return Children(first[:, start:end], size[:, start:end], window, exists[:, start:end], log_prob[:, start:end])

    def log_prob_of(self, child: Tensor) -> Tensor:
        """Log-probability of one child ``[B, n]`` of each place, or of several children of the only place."""
        slot = (child - self.first)[:, :, None]
        return self.log_prob.expand(-1, child.shape[1], -1).gather(2, slot).squeeze(2)

    def closing(self, excluded: Tensor, scores: Tensor) -> Tensor:
        """Scores ``[B, W, w + spare]`` with those of the excluded nodes ``[B, E]`` dead (numbered within this depth).

        Every excluded node is looked up in the W windows, which costs E·W, not E·W·w: catalogue size plays no part.
        """
        columns = scores.shape[2]
        inside = excluded[:, :, None] - self.first[:, None, :]  # [B, E, W]
        is_hit = (inside >= 0) & (inside < self.size[:, None, :])
        slot = inside + torch.arange(scores.shape[1], device=excluded.device) * columns
        # Beams stand on different nodes, so at most one window holds a node; misses go to the last, a spare slot.
        at = torch.where(is_hit, slot, scores.shape[1] * columns - 1).amin(dim=2)
        return scores.flatten(1).scatter(1, at, DEAD).view_as(scores)


def _log_prob(first: Tensor, exists: Tensor, child_code: Tensor, window: Tensor, logits: Tensor) -> Tensor:
    """Of the child slots of places, ``[B, P, w]``, by the logits of all codes, ``[B, P, K]``."""
    code = child_code.take(first[:, :, None] + window).long()
    return torch.log_softmax(torch.where(exists, logits.gather(2, code), -1e30), dim=-1)


class Beams(NamedTuple):
    """Where the beams stand; a beam that found nothing has log_prob -inf."""

    node: Tensor  # [B, W], numbered within its depth
    log_prob: Tensor  # [B, W]
    group: Tensor | None = None  # [B, W], which first code each descends from; None: each from its own
    steps: tuple[Tensor, ...] = ()  # per code decoded so far [B, W], what it contributed to log_prob

    @classmethod
    def at_root(cls, batch: int, device: torch.device) -> Beams:
        """One beam a request, before the first code."""
        return cls(torch.zeros(batch, 1, dtype=torch.int64, device=device), torch.zeros(batch, 1, device=device))

    def outputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The search's outputs without dense scores, of beams after the last code."""
        leaf = torch.where(self.log_prob > DEAD, self.node, -1)
        return leaf, self.log_prob, torch.zeros_like(self.log_prob), torch.stack(self.steps, dim=2)

    def grown(
        self, children: Children, is_open: Tensor, excluded: Tensor, beam: Tensor, most: Tensor, best: nn.Module
    ) -> tuple[Beams, Tensor]:
        """The best W open children, and the beam that each came from ``[B, W]``.

        Args:
            children: Of these beams.
            is_open: ``[B, W, w]``, what the rules allow.
            excluded: ``[B, E]``, nodes of the children's depth that are closed as well.
            beam: ``[W]``, beams afterwards; only its size matters.
            most: ``[B]``, beams that may share a first code.
            best: A :class:`BestOfGroups`, or what takes its place.
        """
        slots, width = children.window.shape[0], beam.shape[0]
        gained = torch.where(is_open & children.exists, self.log_prob[:, :, None] + children.log_prob, DEAD)
        # Spare slots: a beam may have fewer children than are wanted, and misses among the excluded go to the last.
        gained = children.closing(excluded, functional.pad(gained, (0, width), value=DEAD))
        if self.steps:
            log_prob, pick = best(gained, self.group, beam, most)
        else:  # first codes, of the only beam
            log_prob, pick = gained.flatten(1).topk(width, dim=1)
        parent = pick // gained.shape[2]
        slot = (pick - parent * gained.shape[2]).clamp(max=slots - 1)
        # A beam that found nothing must not point behind the end of the next level's arrays.
        node = torch.where(log_prob > DEAD, children.first.gather(1, parent) + slot, 0)
        step = children.log_prob.flatten(1).gather(1, parent * slots + slot)
        steps = (*(before.gather(1, parent) for before in self.steps), step)
        # What is grown from first codes came from the beam of that code; later, from whatever that beam came from.
        group = None
        if self.steps:
            group = parent if self.group is None else self.group.gather(1, parent)
        return Beams(node, log_prob, group, steps), parent


class AllPlaces(nn.Module):
    """Which places are decoded for the last code: all; no weights.

    A part by itself, so that an inference engine may leave out those that have one child, whose code is certain. Their
    number depends on the data, which shapes of a captured search must not.
    """

    def forward(self, span: Span) -> Tensor | None:
        """Choose places ``[B, P]``, distinct: at least all that have several children; None: all places."""
        del span
        return None


class BestOfGroups(nn.Module):
    """The best candidates of all beams, no more of one group than a request allows; no weights of its own.

    A part by itself, so that an inference engine may skip the limit where no request sets one.
    """

    def forward(self, gained: Tensor, group: Tensor | None, beam: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Choose.

        Args:
            gained: ``[B, W, w + W]``, scores of each beam's candidates; -inf where there is none.
            group: ``[B, W]``, 0 … W - 1, of each beam; None: each is one.
            beam: ``[W]``, as many are chosen; only its size matters.
            most: ``[B]``, candidates that may share a group.

        Returns:
            Scores and places in a request's candidates, ``[B, W]`` each, best first.
        """
        width = beam.shape[0]
        # No beam places more than W candidates, nor more than its group may: its own best W suffice.
        score, pick = gained.topk(width, dim=2)
        beams = torch.arange(gained.shape[1], device=gained.device)
        pick = (pick + beams[:, None] * gained.shape[2]).flatten(1)
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
