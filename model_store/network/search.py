"""Constrained beam search as one torch module; the same module is exported to ONNX.

Definition (docs/ARCHITECTURE.md, the search): the log-probability of an item is the sum over its codes of log-softmax
over the children that the trie holds at that node. Rules mask candidates and never renormalise. A node with one child
adds 0. Dense candidates get the same log-probability by being walked down the trie beside the beams: at every level
each stands on the node that its semantic ID prescribes, and takes one more place in the decoder's step. At the last
code, places with one child need no decoding; the exported graph leaves them out. Steering adds nats to entering some
nodes: beams compete by the steered sum, and ``log_prob`` comes out without it.

There is no Python between steps at run time: the loop over L levels unrolls, every choice is a tensor. Shapes: B
requests, T history items, W beams, n dense candidates, P decoded places (beams, candidates or some of them), K codes a
level, L levels, w slots of a level's window, R rules, E excluded and S steered nodes of a request, D leaves, d_s
width of vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.beams import AllPlaces, Beams, BestOfGroups, ChangedNodes, Children, Span
from model_store.network.dense_candidates import (
    DEAD,
    AddedScores,
    DenseCandidates,
    ListedLeaves,
    dense_scores,
    nearest_leaves,
)
from model_store.network.recommender import Cache, Memory, Recommender


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


class BeamSearch(nn.Module):
    """Search module: histories, rules and the catalogue in; leaves with both scores out.

    Args:
        recommender: The network that scores codes and gives users' vectors.
        has_dense: Whether there are dense scores; if not, all are 0, and n must be 0.
    """

    def __init__(self, recommender: Recommender, has_dense: bool = True) -> None:
        super().__init__()
        self.recommender = recommender
        self.has_dense = has_dense
        self.select_best = BestOfGroups()
        self.select_places = AllPlaces()
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
        neighbours: Tensor,
        neighbour_scores: Tensor,
        steer_nodes: Tensor,
        steer_nats: Tensor,
        beam: Tensor,
        candidates: Tensor,
        *catalogue: Tensor,
    ) -> tuple[Tensor, ...]:
        """Search. Arguments are the fields of :class:`~model_store.search.interface.SearchInputs`, then the catalogue.

        Returns:
            The fields of :class:`~model_store.search.interface.SearchOutputs`.
        """
        requests = RequestTensors(
            history,
            lengths,
            rule_bits,
            rule_of,
            excluded,
            max_per_prefix,
            neighbours,
            neighbour_scores,
            steer_nodes,
            steer_nats,
            beam,
            candidates,
        )
        return self._search(requests, CatalogueTensors.from_inputs(catalogue))[0]

    def trace(self, *inputs: Tensor) -> list[Tensor]:
        """Search, and return the nodes that the beams stood on after each code, ``[B, W]`` a level.

        Inputs are those of :meth:`forward`. Nodes are numbered within their depth, -1 where a beam found nothing.
        """
        return self._search(*_sort_inputs(inputs))[1]

    def dense_users(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what dense scores are made of: users' vectors ``[B, d_s]``, unit length, and repeats ``[B, T]``.

        Inputs are those of :meth:`forward`. Nothing is decoded.
        """
        requests, catalogue = _sort_inputs(inputs)
        memory, _ = self._encode(requests, catalogue)
        return self._dense_users(requests, memory)

    def _search(self, requests: RequestTensors, catalogue: CatalogueTensors) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Return what :meth:`forward` and :meth:`trace` return."""
        net = self.recommender
        width = requests.beam.shape[0]
        codebook_size = net.code_embedding.shape[1]
        memory, decoder = self._encode(requests, catalogue)
        dense_walk = self._start_dense_walk(requests, catalogue, memory) if self.has_dense else None

        changes = ChangedNodes.of(requests.excluded, requests.steer_nodes, requests.steer_nats)
        beams = Beams.at_root(requests.history.shape[0], requests.history.device)
        parent_place = torch.zeros_like(requests.lengths[:, None])
        candidate_steps: list[Tensor] = []
        trace = []
        for level in range(net.levels):
            # Beams come first; the dense candidates take the places after them.
            node = beams.node
            log_prob = beams.log_prob
            if dense_walk is not None and level:
                node, log_prob, parent_place = dense_walk.append_to(beams, parent_place, level)
            span = Span.of(node, log_prob, catalogue.child_start[level])

            # No later step reads the keys and values of the last one, so that one may leave places out.
            places = self.select_places(span) if 0 < level == net.levels - 1 else None
            if places is not None:
                node = node.gather(1, places)
                parent_place = parent_place.gather(1, places)
            logits = decoder.decode(level, node, parent_place)
            children = Children.of(span, catalogue.child_code[level], catalogue.window[level], logits, places)

            # Candidates only read off the log-probability of their own next code: beams alone compete.
            if dense_walk is not None:
                own = children.slice_places(width if level else 0, None)
                candidate_steps.append(own.log_prob_of(dense_walk.path[level]))
                children = children.slice_places(0, width) if level else children

            first_node = catalogue.first_node(level, codebook_size)
            is_open = self._open_nodes(children.first + first_node, children.window, requests)
            beams, parent_place = beams.grow(
                children, is_open, changes.at(first_node), requests.beam, requests.max_per_prefix, self.select_best
            )
            trace.append(torch.where(beams.log_prob > DEAD, beams.node, -1))

        if dense_walk is None:
            return beams.outputs(), trace
        vectors = catalogue.vectors(beams.node)
        return dense_walk.merge_outputs(beams, vectors, torch.stack(candidate_steps, dim=2)), trace

    def _encode(self, requests: RequestTensors, catalogue: CatalogueTensors) -> tuple[Memory, _Decoder]:
        """Encode the histories, once for all beams and candidates; return them with a decoder that reads them."""
        history_path = catalogue.path(requests.history)
        history_codes = catalogue.codes(history_path)
        memory = self.recommender.encode(history_codes, catalogue.vectors(requests.history), requests.lengths)
        items = requests.lengths[:, None]
        return memory, _Decoder(self.recommender, memory, items, history_path, history_codes, catalogue.child_code)

    def _start_dense_walk(self, requests: RequestTensors, catalogue: CatalogueTensors, memory: Memory) -> _DenseWalk:
        """Choose the dense candidates of each request, and look up the paths that they walk."""
        net = self.recommender
        user, repeats = self._dense_users(requests, memory)
        added = AddedScores(
            torch.cat([requests.history, requests.neighbours], dim=1),
            torch.cat([repeats, requests.neighbour_scores], dim=1),
        )

        first_leaf = catalogue.first_node(net.levels - 1, net.code_embedding.shape[1])
        rule_mask = self._rule_mask(catalogue.pool.shape[0], first_leaf, requests.rule_bits)[requests.rule_of]
        excluded = requests.excluded - first_leaf
        listed = self._listed_leaves(requests, catalogue, user, repeats)
        itself = torch.zeros(1, dtype=torch.int64, device=user.device)
        is_open = self._open_nodes(listed.leaf.clamp(min=0) + first_leaf, itself, requests)[:, :, 0]
        outside = listed.outside(catalogue.pool.shape[0], is_open, excluded)
        count = requests.candidates.shape[0]
        nearest = nearest_leaves(user, catalogue.pool, rule_mask, excluded, added, outside, count)
        return _DenseWalk(user, added, nearest, catalogue.path(nearest.leaf.clamp(min=0)))

    def _listed_leaves(
        self, requests: RequestTensors, catalogue: CatalogueTensors, user: Tensor, repeats: Tensor
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

    def _dense_users(self, requests: RequestTensors, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return what :meth:`dense_users` returns."""
        net = self.recommender
        items = requests.lengths[:, None]
        repeats = net.dense_repeats(requests.history.shape[1], items)[:, 0]
        return functional.normalize(net.user_vectors(memory, items)[:, 0], dim=-1), repeats

    def _rule_mask(self, leaves: int, first_leaf: int, rule_bits: Tensor) -> Tensor:
        """Return ``[R, leaves]``: 0 where a rule leaves a leaf open, -inf elsewhere."""
        start = first_leaf // 8
        shift = first_leaf % 8
        bits = self._unpack_bits(rule_bits[:, start : start + _bytes_around(leaves)])
        return torch.where(bits[:, shift : shift + leaves], 0.0, DEAD)

    def _open_nodes(self, first: Tensor, window: Tensor, requests: RequestTensors) -> Tensor:
        """Return ``[B, W, w]``: whether each request's rule leaves the w nodes from ``first [B, W]`` on open."""
        rule_bits = requests.rule_bits
        span = torch.arange(_bytes_around(window.shape[0]), device=window.device)
        byte = torch.clamp((first // 8)[:, :, None] + span, max=rule_bits.shape[1] - 1)
        bits = self._unpack_bits(rule_bits.flatten().take(requests.rule_of[:, None, None] * rule_bits.shape[1] + byte))
        return bits.gather(2, (first % 8)[:, :, None] + window)

    def _unpack_bits(self, byte: Tensor) -> Tensor:
        """Return the bits of bytes ``[…, n]``, the lowest first: ``[…, 8 * n]``."""
        table: Tensor = self.bit_table  # type: ignore[assignment]
        return functional.embedding(byte.long(), table).flatten(-2)


def _sort_inputs(inputs: tuple[Tensor, ...]) -> tuple[RequestTensors, CatalogueTensors]:
    """Sort the search's inputs into the requests and the catalogue."""
    fields = len(RequestTensors._fields)
    return RequestTensors(*inputs[:fields]), CatalogueTensors.from_inputs(inputs[fields:])


def _bytes_around(bits: int) -> int:
    """Return how many bytes hold so many neighbouring bits, wherever in the first of them they begin."""
    return (bits + 14) // 8


def _extend_ancestors(ancestors: Tensor, parent_place: Tensor, decoded: int) -> Tensor:
    """Return the ancestors of places that continue others, see :meth:`Recommender.step`.

    Args:
        ancestors: Of the places of the step before, ``[B, P', steps]``.
        parent_place: Which of them each place continues, ``[B, P]``.
        decoded: Places decoded so far.

    Returns:
        ``[B, P, steps + 1]``, each place its own last ancestor.
    """
    itself = decoded + torch.arange(parent_place.shape[1], device=ancestors.device)
    inherited = ancestors.gather(1, parent_place[:, :, None].expand(-1, -1, ancestors.shape[2]))
    return torch.cat([inherited, itself[:, None].expand(*parent_place.shape, 1)], dim=2)


class _Decoder:
    """Decoder of one search, with the cache of all places that it has decoded.

    Args:
        net: The recommender.
        memory: Encoded histories.
        items: ``[B, 1]``, items of each history.
        history_path: Nodes on the way to these items, L of ``[B, T]``.
        history_codes: Their semantic IDs, ``[B, T, L]``.
        child_code: Of the catalogue, by level.
    """

    def __init__(
        self,
        net: Recommender,
        memory: Memory,
        items: Tensor,
        history_path: list[Tensor],
        history_codes: Tensor,
        child_code: tuple[Tensor, ...],
    ) -> None:
        self._net = net
        self._memory = memory
        self._items = items
        self._history_path = history_path
        self._history_codes = history_codes
        self._child_code = child_code
        self._history_bias = net.history_bias(memory, items)
        self._cache: Cache = []
        # Beams and candidates share one place at the start; afterwards each has its own, beams first.
        self._ancestors = torch.zeros_like(items)[:, :, None]

    def decode(self, level: int, node: Tensor, parent_place: Tensor) -> Tensor:
        """Return the logits of all codes of a level, ``[B, P, K]``; call it level by level.

        Args:
            level: 0 … L - 1.
            node: ``[B, P]``, nodes that the places stand on.
            parent_place: ``[B, P]``, places of the level before that they continue. Level 0 reads neither.
        """
        net = self._net
        if level:
            is_below = node[:, :, None] == self._history_path[level - 1][:, None]
            self._ancestors = _extend_ancestors(self._ancestors, parent_place, decoded=self._cache[0][0].shape[1])
            code = self._child_code[level - 1].take(node).long()
            x = functional.embedding(code, net.code_embedding[level - 1])
        else:
            is_below = torch.ones_like(self._history_path[0], dtype=torch.bool)[:, None]
            x = net.start(self._memory, self._items)

        states, self._cache = net.step(x, self._cache, self._memory, self._history_bias, self._ancestors)
        logits = net.logits(states, level)
        if net.code_repeat_bias is None:
            return logits
        return logits + net.repeat_logits(level, self._history_codes[:, :, level], is_below, self._items)


class _DenseWalk(NamedTuple):
    """Dense candidates on their way down the trie, beside the beams."""

    user: Tensor  # [B, d_s], unit length
    added: AddedScores
    nearest: DenseCandidates
    path: list[Tensor]  # nodes that they stand on after each code, L of [B, n]

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
