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

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.beams import AllPlaces, Beams, BestOfGroups, ChangedNodes, Children, Span
from model_store.network.dense_candidates import DEAD
from model_store.network.dense_walk import DenseWalk
from model_store.network.recommender import Cache, Memory, Recommender
from model_store.network.rule_bits import RuleBits, bits_of_bytes
from model_store.network.search_tensors import CatalogueTensors, RequestTensors, sort_inputs


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
        self.bit_table: Tensor
        self.register_buffer("bit_table", bits_of_bytes(recommender.bos.device), persistent=False)  # [256, 8]

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
        return self._search(*sort_inputs(inputs))[1]

    def dense_users(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what dense scores are made of: users' vectors ``[B, d_s]``, unit length, and repeats ``[B, T]``.

        Inputs are those of :meth:`forward`. Nothing is decoded.
        """
        requests, catalogue = sort_inputs(inputs)
        memory, _ = self._encode(requests, catalogue)
        return self._dense_users(requests, memory)

    def _search(self, requests: RequestTensors, catalogue: CatalogueTensors) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Return what :meth:`forward` and :meth:`trace` return."""
        net = self.recommender
        width = requests.beam.shape[0]
        codebook_size = net.code_embedding.shape[1]
        memory, decoder = self._encode(requests, catalogue)
        rules = RuleBits(self.bit_table, requests.rule_bits, requests.rule_of)
        dense_walk = None
        if self.has_dense:
            user, repeats = self._dense_users(requests, memory)
            first_leaf = catalogue.first_node(net.levels - 1, codebook_size)
            dense_walk = DenseWalk.start(requests, catalogue, rules, user, repeats, first_leaf)

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
            is_open = rules.open_nodes(children.first + first_node, children.window)
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

    def _dense_users(self, requests: RequestTensors, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return what :meth:`dense_users` returns."""
        net = self.recommender
        items = requests.lengths[:, None]
        repeats = net.dense_repeats(requests.history.shape[1], items)[:, 0]
        return functional.normalize(net.user_vectors(memory, items)[:, 0], dim=-1), repeats


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
