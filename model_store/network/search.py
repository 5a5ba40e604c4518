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
            way.insert(0, _picked(parent, way[0]).long())
        return way

    def codes(self, path: list[Tensor]) -> Tensor:
        """Semantic IDs ``[…, L]`` that a path spells."""
        return torch.stack(
            [_picked(code, node).long() for code, node in zip(self.child_code, path, strict=True)], dim=-1
        )

    def vectors(self, leaves: Tensor) -> Tensor:
        """Item vectors ``[…, d_s]`` of leaves ``[…]``."""
        row = _picked(self.leaf_row, leaves).long()
        return self.by_row[row.clamp(max=self.by_row.shape[0] - 1)]

    def first_node(self, level: int, codebook_size: int) -> int:
        """Node id of the first child of this level."""
        return sum(codes.shape[0] - codebook_size for codes in self.child_code[:level])


def _picked(array: Tensor, index: Tensor) -> Tensor:
    """``array[index]`` for one axis, as the plain gather that inference engines run fastest."""
    return array.index_select(0, index.flatten()).view_as(index)


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
            is_below = torch.ones_like(history, dtype=torch.bool)[:, None]
            if level:
                places = torch.cat([beams.node, path[level - 1]], dim=1)
                is_below = places[:, :, None] == had_path[level - 1][:, None]
                x = net.code_embedding[level - 1][_picked(known.child_code[level - 1], places).long()]
                way = _continued(way, came_from, before=cache[0][0].shape[1])
                states, cache = net.step(x, cache, memory, history_bias, way)
            logits = net.logits(states, level)
            if net.code_repeat_bias is not None:
                logits = logits + net.repeat_logits(level, had_codes[:, :, level], is_below, items)
            arrays = known.child_start[level], known.child_code[level], known.window[level]
            children = Children(beams.node, beams.log_prob, *arrays, logits[:, :width])
            beside = children if not level else Children(path[level - 1], alive, *arrays, logits[:, width:])
            path_steps.append(beside.log_prob_of(path[level]))
            first_node = known.first_node(level, codebook_size)
            is_open = self._open(children.node + first_node, rule_bits, rule_of)
            is_open = is_open & ~_listed(children, excluded - first_node)
            beams, parent = beams.grown(children, is_open, width, max_per_prefix if level else None)
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
        """Whether the rule of each request leaves nodes ``[B, W, K]`` open."""
        row = rule_of[:, None, None] * rule_bits.shape[1]
        place = row + torch.clamp(node // 8, max=rule_bits.shape[1] - 1)
        byte = rule_bits.flatten().index_select(0, place.flatten()).view_as(node)
        table: Tensor = self.bit_table  # type: ignore[assignment]
        return table.index_select(0, (byte.long() * 8 + node % 8).flatten()).view_as(node)


class _Beams(NamedTuple):
    """Where the beams stand; a beam that found nothing has log_prob -inf."""

    node: Tensor  # [B, W], numbered within its depth
    log_prob: Tensor  # [B, W]
    group: Tensor  # [B, W], which first code each descends from
    steps: tuple[Tensor, ...] = ()  # per code decoded so far [B, W], what it contributed to log_prob

    @classmethod
    def at_root(cls, batch: int, device: torch.device) -> _Beams:
        """One beam a request, before the first code."""
        root = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        return cls(root, torch.zeros(batch, 1, device=device), root)

    def grown(self, children: Children, is_open: Tensor, width: int, most: Tensor | None) -> tuple[_Beams, Tensor]:
        """The best ``width`` open children, and the beam that each came from ``[B, width]``.

        Args:
            children: Of these beams.
            is_open: ``[B, W, w]``.
            width: Beams afterwards.
            most: ``[B]``, beams that may share a first code; ``None`` while choosing first codes.
        """
        gained = torch.where(is_open & children.exists, self.log_prob[:, :, None] + children.log_prob, DEAD)
        log_prob, pick = _best(gained, self.group, width, most)
        parent = pick // gained.shape[2]
        # A beam that found nothing must not point behind the end of the next level's arrays.
        node = torch.where(log_prob > DEAD, children.node.flatten(1).gather(1, pick), 0)
        step = children.log_prob.flatten(1).gather(1, pick)
        steps = (*(before.gather(1, parent) for before in self.steps), step)
        group = (
            torch.arange(width, device=node.device).expand_as(node) if most is None else self.group.gather(1, parent)
        )
        return _Beams(node, log_prob, group, steps), parent


class Children:
    """The window of w child slots of every node, ``[B, W, w]`` each; no node has more children."""

    def __init__(
        self, node: Tensor, score: Tensor, child_start: Tensor, child_code: Tensor, window: Tensor, logits: Tensor
    ) -> None:
        self.first = child_start[node].long()  # [B, W]
        # A dead beam has no children, whatever node it stands on.
        self.count = torch.where(score > DEAD, child_start[node + 1].long() - self.first, 0)
        self.node = self.first[:, :, None] + window
        self.exists = window < self.count[:, :, None]
        code = child_code.index_select(0, self.node.flatten()).long().view_as(self.node)
        held = torch.where(self.exists, logits.gather(2, code), -1e30)
        self.log_prob = torch.log_softmax(held, dim=-1)

    def log_prob_of(self, child: Tensor) -> Tensor:
        """Log-probability of one child ``[B, n]`` of each node, or of several children of the only node."""
        slot = (child - self.first)[:, :, None]
        return self.log_prob.expand(-1, child.shape[1], -1).gather(2, slot).squeeze(2)


def _listed(children: Children, excluded: Tensor) -> Tensor:
    """Whether each child slot is among the excluded nodes ``[B, E]`` (numbered within this depth).

    Every excluded node is looked up in the W windows, which costs E·W, not E·W·w: catalogue size plays no part.
    """
    batch, width, codes = children.node.shape
    inside = excluded[:, :, None] - children.first[:, None, :]  # [B, E, W]
    hit = (inside >= 0) & (inside < children.count[:, None, :])
    slot = inside + torch.arange(width, device=excluded.device) * codes
    # Beams stand on different nodes, so at most one window holds a node; misses go to a spare slot at the end.
    at = torch.where(hit, slot, -1).amax(dim=2)
    at = torch.where(at >= 0, at, width * codes)
    listed = torch.zeros(batch, width * codes + 1, dtype=torch.int64, device=excluded.device)
    listed = listed.scatter(1, at, torch.ones_like(at))
    return listed[:, :-1].reshape(batch, width, codes) > 0


def _best(gained: Tensor, group: Tensor, width: int, most: Tensor | None) -> tuple[Tensor, Tensor]:
    """The best ``width`` candidates of ``[B, W, w]``, as scores and flat picks ``[B, width]``.

    Args:
        gained: Scores of all candidates.
        group: ``[B, W]``, which first code each beam descends from.
        width: Candidates kept.
        most: ``[B]``, candidates kept that share a group; ``None``: any number.
    """
    batch, beams, codes = gained.shape
    if most is None:
        padded = torch.cat([gained.flatten(1), torch.full((batch, width), DEAD, device=gained.device)], dim=1)
        score, pick = padded.topk(width, dim=1)
        return score, pick.clamp(max=beams * codes - 1)
    # No beam places more than W candidates, nor more than its group may: its own best W suffice.
    wide = torch.cat([gained, torch.full((batch, beams, width), DEAD, device=gained.device)], dim=2)
    score, slot = wide.topk(width, dim=2)
    pick = slot.clamp(max=codes - 1) + torch.arange(beams, device=gained.device)[:, None] * codes
    score, order = score.flatten(1).topk(beams * width, dim=1)
    pick = pick.flatten(1).gather(1, order)
    of_group = group.gather(1, pick // codes)
    member = of_group[:, :, None] == torch.arange(beams, device=gained.device)
    rank = member.long().cumsum(dim=1).gather(2, of_group[:, :, None]).squeeze(2)
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
