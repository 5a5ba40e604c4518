"""The constrained beam search as one torch module, which is also what gets exported to ONNX.

Definition (docs/ARCHITECTURE.md, the search): the log-probability of an item is the sum over its codes of log-softmax
over the children that the trie holds at that node. Rules mask candidates and never renormalise. A node with one child
adds 0. Dense candidates get the same log-probability by being walked down the trie beside the beams: at every level
each stands on the node that its semantic ID prescribes, and takes one more place in the decoder's step. At the last
code, places with one child need no decoding; the exported graph leaves them out.

There is no Python between steps at run time: the loop over L levels unrolls, every choice is a tensor. Shapes: B
requests, T history items, W beams, n dense candidates, P decoded places (beams, candidates or some of them), K codes a
level, L levels, w slots of a level's window, R rules, E excluded nodes of a request, D leaves, d_s width of vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.beams import AllPlaces, Beams, BestOfGroups, Children, Span
from model_store.network.dense_candidates import DEAD, DenseCandidates, History, dense_scores, nearest_leaves
from model_store.network.recommender import Cache, Memory, Recommender


class CatalogueTensors(NamedTuple):
    """What the graph knows of the catalogue, as in ``search_interface``."""

    child_start: tuple[Tensor, ...]  # per level [n_l + 1]
    child_code: tuple[Tensor, ...]  # per level [n_(l+1) + K]
    window: tuple[Tensor, ...]  # per level [w_l]: 0 … w_l - 1, slots that hold the children of any node
    parent: tuple[Tensor, ...]  # per depth 2 … L [n_depth]
    leaf_row: Tensor  # [D], catalogue row of each leaf
    by_row: Tensor  # [items, d_s], vectors by catalogue row, or a single one that stands for all
    pool: Tensor  # [D, d_s], the vectors by leaf, or none

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
    """Histories, rules and the catalogue in; leaves with both scores out. Inputs as in ``search_interface``.

    Args:
        recommender: What scores codes, and users' vectors.
        has_dense: Whether there are dense scores; if not, all are 0, and n must be 0.
    """

    def __init__(self, recommender: Recommender, has_dense: bool = True) -> None:
        super().__init__()
        self.recommender, self.has_dense = recommender, has_dense
        self.best, self.undecided = BestOfGroups(), AllPlaces()
        device = recommender.bos.device
        bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
        self.register_buffer("bit_table", bits.bool(), persistent=False)  # [256, 8]

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
        """Search. Arguments are the fields of :class:`~model_store.search.interface.SearchInputs`, then the catalogue.

        Returns:
            The fields of :class:`~model_store.search.interface.SearchOutputs`.
        """
        fields = history, lengths, rule_bits, rule_of, excluded, max_per_prefix, beam, candidates
        return self.traced(*fields, *catalogue)[0]

    def traced(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """What :meth:`forward` returns, and the nodes that the beams stood on after each code, ``[B, W]`` a level.

        Inputs are those of :meth:`forward`. Nodes are numbered within their depth, -1 where a beam found nothing.
        """
        history, lengths, rule_bits, rule_of, excluded, max_per_prefix, beam, candidates, *catalogue = inputs
        net, width, items = self.recommender, beam.shape[0], lengths[:, None]
        known, codebook_size = CatalogueTensors.of(tuple(catalogue)), net.code_embedding.shape[1]
        had_path = known.path(history)
        had_codes = known.codes(had_path)
        memory = net.encode(had_codes, known.vectors(history), lengths)
        decoding = _Decoding(net, memory, items, had_path, had_codes, known.child_code)
        beside = None
        if self.has_dense:
            had = History(history, net.dense_repeats(history.shape[1], items)[:, 0])
            user = functional.normalize(net.user_vectors(memory, items)[:, 0], dim=-1)
            first_leaf = known.first_node(net.levels - 1, codebook_size)
            closed = self._closed_leaves(known.pool.shape[0], first_leaf, rule_bits)[rule_of]
            nearest = nearest_leaves(user, known.pool, closed, excluded - first_leaf, had, candidates.shape[0])
            beside = _DenseWalk(user, had, nearest, known.path(nearest.leaf.clamp(min=0)))

        beams, came_from = Beams.at_root(history.shape[0], history.device), torch.zeros_like(items)
        own_steps: list[Tensor] = []  # of the candidates
        trace = []
        for level in range(net.levels):
            node, log_prob = beams.node, beams.log_prob
            if beside is not None and level:
                node, log_prob, came_from = beside.joining(beams, came_from, level)
            span, places = Span.of(node, log_prob, known.child_start[level]), None
            if 0 < level == net.levels - 1:  # nobody reads what the last step keeps: it may leave places out
                places = self.undecided(span)
            if places is not None:
                node, came_from = node.gather(1, places), came_from.gather(1, places)
            logits = decoding.logits(level, node, came_from)
            children = Children.of(span, known.child_code[level], known.window[level], logits, places)
            if beside is not None:
                own_steps.append(children.of_places(width if level else 0, None).log_prob_of(beside.path[level]))
                children = children.of_places(0, width) if level else children
            first_node = known.first_node(level, codebook_size)
            is_open = self._open(children.first + first_node, children.window, rule_bits, rule_of)
            closed_nodes = excluded - first_node
            beams, came_from = beams.grown(children, is_open, closed_nodes, beam, max_per_prefix, self.best)
            trace.append(torch.where(beams.log_prob > DEAD, beams.node, -1))
        if beside is None:
            return beams.outputs(), trace
        return beside.joined(beams, known.vectors(beams.node), torch.stack(own_steps, dim=2)), trace

    def _closed_leaves(self, leaves: int, first_leaf: int, rule_bits: Tensor) -> Tensor:
        """0 where a rule leaves a leaf open, -inf elsewhere: ``[R, leaves]``."""
        start, shift = first_leaf // 8, first_leaf % 8
        bits = self._bits(rule_bits[:, start : start + _bytes_around(leaves)])
        return torch.where(bits[:, shift : shift + leaves], 0.0, DEAD)

    def _open(self, first: Tensor, window: Tensor, rule_bits: Tensor, rule_of: Tensor) -> Tensor:
        """Whether the rule of each request leaves the w nodes from ``first [B, W]`` on open: ``[B, W, w]``."""
        span = torch.arange(_bytes_around(window.shape[0]), device=window.device)
        byte = torch.clamp((first // 8)[:, :, None] + span, max=rule_bits.shape[1] - 1)
        bits = self._bits(rule_bits.flatten().take(rule_of[:, None, None] * rule_bits.shape[1] + byte))
        return bits.gather(2, (first % 8)[:, :, None] + window)

    def _bits(self, byte: Tensor) -> Tensor:
        """Bits of bytes ``[…, n]``, the lowest first: ``[…, 8 * n]``."""
        table: Tensor = self.bit_table  # type: ignore[assignment]
        return functional.embedding(byte.long(), table).flatten(-2)


def _bytes_around(bits: int) -> int:
    """Bytes that hold so many neighbouring bits, wherever in the first of them they begin."""
    return (bits + 14) // 8


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


class _Decoding:
    """The decoder's side of one search: what was decoded so far, and what that says of the next code.

    Args:
        net: The recommender.
        memory: Encoded histories.
        items: ``[B, 1]``, items of each history.
        had_path: Nodes on the way to these items, L of ``[B, T]``.
        had_codes: Their semantic IDs, ``[B, T, L]``.
        child_code: Of the catalogue, by level.
    """

    def __init__(
        self,
        net: Recommender,
        memory: Memory,
        items: Tensor,
        had_path: list[Tensor],
        had_codes: Tensor,
        child_code: tuple[Tensor, ...],
    ) -> None:
        self._net, self._memory, self._items, self._child_code = net, memory, items, child_code
        self._had_path, self._had_codes = had_path, had_codes
        self._history_bias = net.history_bias(memory, items)
        self._cache: Cache = []
        # Beams and candidates share one place at the start; afterwards each has its own, beams first.
        self._way = torch.zeros_like(items)[:, :, None]

    def logits(self, level: int, node: Tensor, came_from: Tensor) -> Tensor:
        """Of all codes of a level, ``[B, P, K]``; call it level by level.

        Args:
            level: 0 … L - 1.
            node: ``[B, P]``, which the places stand on.
            came_from: ``[B, P]``, places of the level before that they continue; at level 0 nothing counts.
        """
        net = self._net
        if level:
            is_below = node[:, :, None] == self._had_path[level - 1][:, None]
            self._way = _continued(self._way, came_from, before=self._cache[0][0].shape[1])
            code = self._child_code[level - 1].take(node).long()
            x = functional.embedding(code, net.code_embedding[level - 1])
        else:
            is_below = torch.ones_like(self._had_path[0], dtype=torch.bool)[:, None]
            x = net.start(self._memory, self._items)
        states, self._cache = net.step(x, self._cache, self._memory, self._history_bias, self._way)
        logits = net.logits(states, level)
        if net.code_repeat_bias is None:
            return logits
        return logits + net.repeat_logits(level, self._had_codes[:, :, level], is_below, self._items)


class _DenseWalk(NamedTuple):
    """Dense candidates, which walk down the trie beside the beams."""

    user: Tensor  # [B, d_s], unit length
    had: History
    nearest: DenseCandidates
    path: list[Tensor]  # nodes that they stand on after each code, L of [B, n]

    def joining(self, beams: Beams, parent: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """All places at a level but the first, beams first.

        Args:
            beams: W of them.
            parent: ``[B, W]``, places of the level before that they continue.
            level: 1 … L - 1.

        Returns:
            Nodes, log-probabilities (candidates never die) and the places that they continue, ``[B, W + n]`` each.
        """
        own = torch.zeros_like(self.nearest.leaf)  # of all there was one place, or else one each, behind the beams
        if level > 1:
            own = own + beams.node.shape[1] + torch.arange(own.shape[1], device=own.device)
        alive = torch.zeros_like(self.nearest.dense)
        return (
            torch.cat([beams.node, self.path[level - 1]], dim=1),
            torch.cat([beams.log_prob, alive], dim=1),
            torch.cat([parent, own], dim=1),
        )

    def joined(self, beams: Beams, vectors: Tensor, own_steps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The search's outputs, beams first.

        Args:
            beams: After the last code.
            vectors: Of their items, ``[B, W, d_s]``.
            own_steps: Log-probability of each code of the candidates, ``[B, n, L]``.
        """
        leaf, log_prob, _, steps = beams.outputs()
        beam_dense = dense_scores(self.user, vectors, beams.node, self.had)
        is_new = self.nearest.new_to(leaf)
        return (
            torch.cat([leaf, torch.where(is_new, self.nearest.leaf, -1)], dim=1),
            torch.cat([log_prob, torch.where(is_new, own_steps.sum(dim=2), DEAD)], dim=1),
            torch.cat([torch.where(leaf >= 0, beam_dense, 0.0), torch.where(is_new, self.nearest.dense, 0.0)], dim=1),
            torch.cat([steps, own_steps], dim=1),
        )
