"""The constrained beam search as one torch module, which is also what gets exported to ONNX.

Definition (docs/ARCHITECTURE.md, the search): the log-probability of an item is the sum over its codes of log-softmax
over the children that the trie holds at that node. Rules mask candidates and never renormalise. A node with one child
adds 0. Dense candidates get the same log-probability by being walked down the trie beside the beams: at every level
each stands on the node that its semantic ID prescribes, and takes one more place in the decoder's step.

There is no Python between steps at run time: the loop over L levels unrolls, every choice is a tensor. Shapes: B
requests, W beams, n dense candidates, K codes a level, w slots of a level's window, E excluded nodes of a request, D
leaves, P leaves in the pool.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.dense import DEAD, DenseCandidates, History, dense_scores, nearest_leaves
from model_store.network.recommender import Recommender


class CatalogueTensors(NamedTuple):
    """What the graph knows of the catalogue, as in ``search_interface``."""

    child_start: tuple[Tensor, ...]  # per level [n_l + 1]
    child_code: tuple[Tensor, ...]  # per level [n_(l+1) + K]
    window: tuple[Tensor, ...]  # per level [w_l]: 0 … w_l - 1, slots that hold the children of any node
    parent: tuple[Tensor, ...]  # per depth 2 … L [n_depth]
    leaf_row: Tensor  # [D], catalogue row of each leaf
    by_row: Tensor  # [items, d_s], vectors by catalogue row, or a single one that stands for all
    pool: Tensor  # [P, d_s], the vectors by leaf, or none

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...]) -> CatalogueTensors:
        """From the graph's inputs in order."""
        *by_level, leaf_row, by_row, pool = tensors
        levels = (len(by_level) + 1) // 4
        start, code, window = (tuple(by_level[at * levels : (at + 1) * levels]) for at in range(3))
        return cls(start, code, window, tuple(by_level[3 * levels :]), leaf_row, by_row, pool)

    def path(self, leaves: Tensor) -> list[Tensor]:
        """Nodes on the way to leaves ``[…]``, depth 1 … L, numbered within their depth."""
        way = [leaves]
        for parent in reversed(self.parent):
            way.insert(0, parent.take(way[0]).long())
        return way

    def codes(self, path: list[Tensor]) -> Tensor:
        """Semantic IDs ``[…, L]`` that a path spells."""
        return torch.stack([code.take(node).long() for code, node in zip(self.child_code, path, strict=True)], dim=-1)

    def vectors(self, leaves: Tensor) -> Tensor:
        """Item vectors ``[…, d_s]`` of leaves ``[…]``."""
        row = self.leaf_row.take(leaves).long()
        return functional.embedding(row.clamp(max=self.by_row.shape[0] - 1), self.by_row)

    def first_node(self, level: int, codebook_size: int) -> int:
        """Node id of the first child of this level."""
        return sum(codes.shape[0] - codebook_size for codes in self.child_code[:level])


class BeamSearch(nn.Module):
    """Histories, rules and the catalogue in; leaves with both scores out. Inputs as in ``search_interface``."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.recommender = recommender
        device = recommender.bos.device
        bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
        self.register_buffer("bit_table", bits.bool().flatten(), persistent=False)  # [256 * 8]

    def forward(
        self,
        history: Tensor,
        lengths: Tensor,
        rule_bits: Tensor,
        rule_of: Tensor,
        excluded: Tensor,
        max_per_prefix: Tensor,
        beam: Tensor,
        candidates: Tensor,
        *catalogue: Tensor,
    ) -> tuple[Tensor, ...]:
        """Search. Arguments are the fields of :class:`~model_store.search_interface.SearchInputs`, then the catalogue.

        Returns:
            The fields of :class:`~model_store.search_interface.SearchOutputs`.
        """
        fields = history, lengths, rule_bits, rule_of, excluded, max_per_prefix, beam, candidates
        return self.traced(*fields, *catalogue)[0]

    def traced(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """What :meth:`forward` returns, and the nodes that the beams stood on after each code, ``[B, W]`` a level.

        Inputs are those of :meth:`forward`. Nodes are numbered within their depth, -1 where a beam found nothing.
        """
        history, lengths, rule_bits, rule_of, excluded, max_per_prefix, beam, candidates, *catalogue = inputs
        net, width, batch = self.recommender, beam.shape[0], history.shape[0]
        known, codebook_size = CatalogueTensors.of(tuple(catalogue)), net.code_embedding.shape[1]
        had_path, items = known.path(history), lengths[:, None]
        had_codes = known.codes(had_path)
        memory = net.encode(had_codes, known.vectors(history), lengths)
        had = History(history, net.dense_repeats(history.shape[1], items)[:, 0])
        history_bias = net.history_bias(memory, items)
        # Beams and candidates share one place at the start; afterwards each has its own, beams first.
        way = torch.zeros_like(items)[:, :, None]
        states, cache = net.step(net.start(memory, items), [], memory, history_bias, way)
        user = functional.normalize(net.user_vectors(memory, items)[:, 0], dim=-1)
        first_leaf = known.first_node(net.levels - 1, codebook_size)
        closed = self._closed_leaves(known.pool.shape[0], first_leaf, rule_bits)[rule_of]
        nearest = nearest_leaves(user, known.pool, closed, excluded - first_leaf, had, candidates.shape[0])
        path = known.path(nearest.leaf.clamp(min=0))  # L of [B, n]
        path_steps: list[Tensor] = []
        alive = torch.zeros_like(nearest.dense)
        own_place = width + torch.arange(candidates.shape[0], device=history.device).expand(batch, -1)
        came_from = torch.zeros(batch, width + candidates.shape[0], dtype=torch.int64, device=history.device)

        beams, trace = _Beams.at_root(batch, history.device), []
        for level in range(net.levels):
            node, log_prob, is_below = beams.node, beams.log_prob, torch.ones_like(history, dtype=torch.bool)[:, None]
            if level:
                node = torch.cat([beams.node, path[level - 1]], dim=1)
                log_prob = torch.cat([beams.log_prob, alive], dim=1)
                is_below = node[:, :, None] == had_path[level - 1][:, None]
                code = known.child_code[level - 1].take(node).long()
                way = _continued(way, came_from, before=cache[0][0].shape[1])
                x = functional.embedding(code, net.code_embedding[level - 1])
                states, cache = net.step(x, cache, memory, history_bias, way)
            logits = net.logits(states, level)
            if net.code_repeat_bias is not None:
                logits = logits + net.repeat_logits(level, had_codes[:, :, level], is_below, items)
            arrays = known.child_start[level], known.child_code[level], known.window[level]
            every = Children.of(node, log_prob, *arrays, logits)
            children, beside = (every.of_places(0, width), every.of_places(width, None)) if level else (every, every)
            path_steps.append(beside.log_prob_of(path[level]))
            first_node = known.first_node(level, codebook_size)
            is_open = self._open(children.node + first_node, rule_bits, rule_of)
            beams, parent = beams.grown(children, is_open, excluded - first_node, width, max_per_prefix)
            trace.append(torch.where(beams.log_prob > DEAD, beams.node, -1))
            if level:
                came_from = torch.cat([parent, own_place], dim=1)
        dense = dense_scores(user, known.vectors(beams.node), beams.node, had)
        return _joined(beams, nearest, torch.stack(path_steps, dim=2), dense), trace

    def _closed_leaves(self, leaves: int, first_leaf: int, rule_bits: Tensor) -> Tensor:
        """0 where a rule leaves a leaf open, -inf elsewhere: ``[R, leaves]``."""
        node = first_leaf + torch.arange(leaves, device=rule_bits.device)
        table: Tensor = self.bit_table  # type: ignore[assignment]
        return torch.where(table[rule_bits[:, node // 8].long() * 8 + node % 8], 0.0, DEAD)

    def _open(self, node: Tensor, rule_bits: Tensor, rule_of: Tensor) -> Tensor:
        """Whether the rule of each request leaves nodes ``[B, W, w]`` open."""
        row = rule_of[:, None, None] * rule_bits.shape[1]
        byte = rule_bits.flatten().take(row + torch.clamp(node // 8, max=rule_bits.shape[1] - 1))
        table: Tensor = self.bit_table  # type: ignore[assignment]
        return table.take(byte.long() * 8 + node % 8)


class Children(NamedTuple):
    """The window of w child slots of every place, ``[B, W, w]`` each; no node has more children."""

    first: Tensor  # [B, W], first child of each place
    size: Tensor  # [B, W], how many it has
    window: Tensor  # [w], 0 … w - 1
    exists: Tensor  # which slots hold a child
    log_prob: Tensor  # of the slots, given the place

    @classmethod
    def of(
        cls, node: Tensor, log_prob: Tensor, child_start: Tensor, child_code: Tensor, window: Tensor, logits: Tensor
    ) -> Children:
        """Of places on nodes ``[B, W]``, reached with these log-probabilities; logits of all codes, ``[B, W, K]``."""
        first = child_start.take(node).long()
        # A dead beam has no children, whatever node it stands on.
        size = torch.where(log_prob > DEAD, child_start.take(node + 1).long() - first, 0)
        exists = window < size[:, :, None]
        code = child_code.take(first[:, :, None] + window).long()
        held = torch.where(exists, logits.gather(2, code), -1e30)
        return cls(first, size, window, exists, torch.log_softmax(held, dim=-1))

    def of_places(self, start: int, end: int | None) -> Children:
        """Of some of the places."""
        first, size, window, exists, log_prob = self
        return Children(first[:, start:end], size[:, start:end], window, exists[:, start:end], log_prob[:, start:end])

    @property
    def node(self) -> Tensor:
        """Of all slots, numbered within their depth."""
        return self.first[:, :, None] + self.window

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


class _Beams(NamedTuple):
    """Where the beams stand; a beam that found nothing has log_prob -inf."""

    node: Tensor  # [B, W], numbered within its depth
    log_prob: Tensor  # [B, W]
    group: Tensor | None = None  # [B, W], which first code each descends from; None: each from its own
    steps: tuple[Tensor, ...] = ()  # per code decoded so far [B, W], what it contributed to log_prob

    @classmethod
    def at_root(cls, batch: int, device: torch.device) -> _Beams:
        """One beam a request, before the first code."""
        return cls(torch.zeros(batch, 1, dtype=torch.int64, device=device), torch.zeros(batch, 1, device=device))

    def grown(
        self, children: Children, is_open: Tensor, excluded: Tensor, width: int, most: Tensor
    ) -> tuple[_Beams, Tensor]:
        """The best ``width`` open children, and the beam that each came from ``[B, width]``.

        Args:
            children: Of these beams.
            is_open: ``[B, W, w]``, what the rules allow.
            excluded: ``[B, E]``, nodes of the children's depth that are closed as well.
            width: Beams afterwards.
            most: ``[B]``, beams that may share a first code.
        """
        slots = children.window.shape[0]
        gained = torch.where(is_open & children.exists, self.log_prob[:, :, None] + children.log_prob, DEAD)
        # Spare slots: a beam may have fewer children than are wanted, and misses among the excluded go to the last.
        gained = children.closing(excluded, functional.pad(gained, (0, width), value=DEAD))
        log_prob, pick = self._best(gained, width, most)
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
        return _Beams(node, log_prob, group, steps), parent

    def _best(self, gained: Tensor, width: int, most: Tensor) -> tuple[Tensor, Tensor]:
        """The best ``width`` of ``[B, W, w + width]``, as scores and flat picks ``[B, width]``."""
        if not self.steps:  # first codes, of the only beam
            return gained.flatten(1).topk(width, dim=1)
        # No beam places more than W candidates, nor more than its group may: its own best W suffice.
        score, pick = gained.topk(width, dim=2)
        beams = torch.arange(gained.shape[1], device=gained.device)
        pick = (pick + beams[:, None] * gained.shape[2]).flatten(1)
        if self.group is None:
            rank = 1 + torch.arange(width, device=gained.device)
            score = torch.where(rank <= most[:, None, None], score, DEAD).flatten(1)
        else:
            score, order = score.flatten(1).topk(gained.shape[1] * width, dim=1)
            pick = pick.gather(1, order)
            of_group = self.group.gather(1, pick // gained.shape[2])
            is_member = of_group[:, :, None] == beams
            rank = is_member.long().cumsum(dim=1).gather(2, of_group[:, :, None]).squeeze(2)
            score = torch.where(rank <= most[:, None], score, DEAD)
        score, kept = score.topk(width, dim=1)
        return score, pick.gather(1, kept)


def _continued(way: Tensor, parent: Tensor, before: int) -> Tensor:
    """The way of places that continue others, see :meth:`Recommender.step`.

    Args:
        way: Of the places of the step before, ``[B, P', steps]``.
        parent: Which of them each place continues, ``[B, P]``.
        before: Places decoded so far.

    Returns:
        ``[B, P, steps + 1]``.
    """
    own = before + torch.arange(parent.shape[1], device=way.device)
    behind = way.gather(1, parent[:, :, None].expand(-1, -1, way.shape[2]))
    return torch.cat([behind, own[:, None].expand(*parent.shape, 1)], dim=2)


def _joined(
    beams: _Beams, nearest: DenseCandidates, path_steps: Tensor, beam_dense: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The search's outputs, beams first; ``path_steps`` is ``[B, n, L]``."""
    found = beams.log_prob > DEAD
    leaf = torch.where(found, beams.node, -1)
    is_new = nearest.new_to(leaf)
    return (
        torch.cat([leaf, torch.where(is_new, nearest.leaf, -1)], dim=1),
        torch.cat([beams.log_prob, torch.where(is_new, path_steps.sum(dim=2), DEAD)], dim=1),
        torch.cat([torch.where(found, beam_dense, 0.0), torch.where(is_new, nearest.dense, 0.0)], dim=1),
        torch.cat([torch.stack(beams.steps, dim=2), path_steps], dim=1),
    )
