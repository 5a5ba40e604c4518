"""The inputs and outputs of the search graph, a contract that all three implementations keep.

The catalogue and the rules are inputs, so both can change without a new export of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.search.exclusions import closed_nodes, no_nodes
from model_store.search.history_encoding import HistoryBatch
from model_store.search.neighbours import Additions, no_additions
from model_store.search.steering import SteeringBatch, no_steering
from model_store.semantic_ids.trie import RuleMask, Trie


class SearchInputs(NamedTuple):
    """One batch of B requests for the search, which share R rules. Arrays are int64 unless noted."""

    history: npt.NDArray[np.int64]  # [B, T], leaves, oldest first; codes and vectors are looked up in the graph
    lengths: npt.NDArray[np.int64]  # [B], items of each history, at least 1
    rule_bits: npt.NDArray[np.uint8]  # [R, ceil(nodes / 8)], open nodes of each rule
    rule_of: npt.NDArray[np.int64]  # [B], row of rule_bits
    excluded: npt.NDArray[np.int64]  # [B, E], closed node ids, padded with -1
    max_per_prefix: npt.NDArray[np.int64]  # [B], beams that may share a first code, at least 1
    neighbours: npt.NDArray[np.int64]  # [B, M], distinct leaves with an addition to their dense score, padded with -1
    neighbour_scores: npt.NDArray[np.float32]  # [B, M], the additions, 0 for padding
    steer_nodes: npt.NDArray[np.int64]  # [B, S], node ids whose entering is steered, padded with -1
    steer_nats: npt.NDArray[np.float32]  # [B, S], what is added to the log-probability of that, 0 for padding
    beam: npt.NDArray[np.int64]  # [W], only its size matters: the beam width
    candidates: npt.NDArray[np.int64]  # [n], only its size matters: how many dense candidates join the beams


STEERING = ("steer_nodes", "steer_nats")
"""Fields of :class:`SearchInputs` that graphs of earlier releases do not take."""

BY_REQUEST = (
    "history",
    "lengths",
    "rule_of",
    "excluded",
    "max_per_prefix",
    "neighbours",
    "neighbour_scores",
    *STEERING,
)
"""Fields of :class:`SearchInputs` with one row per request."""


class SearchOutputs(NamedTuple):
    """W beams by descending steered log_prob, then n dense candidates by descending dense score.

    A place stays empty if a beam found no valid item, if a dense candidate is a beam already, or if fewer items than n
    are open. There leaf is -1, log_prob is -inf, dense is 0, and code_log_prob is undefined.
    """

    leaves: npt.NDArray[np.int64]  # [B, W + n]
    log_prob: npt.NDArray[np.float32]  # [B, W + n], natural logarithm
    dense: npt.NDArray[np.float32]  # [B, W + n], cosine of the user's vector and the item's, repeats, additions
    code_log_prob: npt.NDArray[np.float32]  # [B, W + n, L], what each code contributes to log_prob

    def first(self, requests: int) -> SearchOutputs:
        """Return the outputs of the first requests, without what a batch was padded with."""
        return SearchOutputs._make(each[:requests] for each in self)


POOL = "pool"
"""Last input of the graph: vectors ``[P, d_s]`` of all leaves, from which dense candidates are chosen, see
:func:`pool_vectors`. It has no rows if n is 0, and in catalogues where scoring every item would cost too much
(:func:`model_store.search.fusion.scores_all_items`): there candidates come from the history and its neighbours."""


def catalogue_input_names(levels: int) -> list[str]:
    """Return the names of the inputs that change with the catalogue only, in order; :data:`POOL` comes after them."""
    by_level = [f"{name}_{depth}" for name in ("child_start", "child_code", "window") for depth in range(levels)]
    return [*by_level, *(f"parent_{depth}" for depth in range(2, levels + 1)), "leaf_row", "vectors"]


def catalogue_inputs(
    trie: Trie, vectors: npt.NDArray[np.float32] | None, embedding_dim: int
) -> list[npt.NDArray[np.generic]]:
    """Return the arrays that :func:`catalogue_input_names` names; they change with the catalogue only.

    Args:
        trie: Its arrays per level, windows (only their sizes matter), parents and leaves become inputs.
        vectors: Unit length, ``[items, d_s]`` by catalogue row, not copied; ``None``: a row of zeros stands for every
            item, and every dense score is 0.
        embedding_dim: d_s.
    """
    by_row = np.zeros((1, embedding_dim), dtype=np.float32) if vectors is None else vectors
    windows = (np.arange(size, dtype=np.int64) for size in trie.windows)
    return [*trie.child_start, *trie.child_code, *windows, *trie.parents, trie.leaf_item, by_row]


def pool_vectors(
    trie: Trie, vectors: npt.NDArray[np.float32] | None, embedding_dim: int, has_rows: bool
) -> npt.NDArray[np.float32]:
    """Return the input :data:`POOL`: no rows, or a copy of all vectors in the order of leaves, so keep it."""
    if not has_rows:
        return np.empty((0, embedding_dim), dtype=np.float32)
    if vectors is None:
        return np.zeros((1, embedding_dim), dtype=np.float32)

    pool: npt.NDArray[np.float32] = trie.memory.empty(trie.items * vectors.shape[1], np.float32).reshape(trie.items, -1)
    return np.take(vectors, trie.leaf_item, axis=0, out=pool, mode="clip")  # rows are valid: "raise" would copy


def graph_input_names(levels: int) -> list[str]:
    """Return the names of the exported graph's inputs, in order."""
    return [*SearchInputs._fields, *catalogue_input_names(levels), POOL]


def search_inputs(
    history: HistoryBatch,
    trie: Trie,
    beam_width: int,
    rules: Sequence[RuleMask] = (),
    rule_of: Sequence[int] = (),
    excluded_items: Sequence[npt.NDArray[np.integer]] = (),
    max_per_prefix: Sequence[int] = (),
    candidates: int = 0,
    additions: Additions | None = None,
    steering: SteeringBatch | None = None,
) -> SearchInputs:
    """Assemble a batch; arguments that are left out restrict nothing.

    Args:
        history: Encoded histories of B requests.
        trie: The trie of the catalogue that the search runs on.
        beam_width: W.
        rules: Distinct masks of the batch; default: everything is open.
        rule_of: Mask of each request; default: the first.
        excluded_items: Catalogue rows that each request must not receive; default: none.
        max_per_prefix: Beams that may share a first code, by request; default: W, which restricts nothing.
        candidates: n, dense candidates that join the beams.
        additions: Numbers that are added to dense scores (:mod:`model_store.search.neighbours`); default: none.
        steering: What is added to the log-probability of entering nodes (:mod:`model_store.search.steering`); default:
            nothing.

    Raises:
        ValueError: A request excludes more nodes than the largest of the padded sizes.
    """
    requests = len(history.lengths)
    masks = list(rules) or [trie.everything]
    mask_of = list(rule_of) or [0] * requests
    limits = list(max_per_prefix) or [beam_width] * requests
    added = no_additions(requests) if additions is None else additions
    steered = no_steering(requests) if steering is None else steering
    excluded = closed_nodes(trie, masks, mask_of, excluded_items) if excluded_items else no_nodes(requests)

    return SearchInputs(
        history=history.leaves,
        lengths=history.lengths,
        rule_bits=np.stack([mask.bits for mask in masks]),
        rule_of=np.asarray(mask_of, dtype=np.int64),
        excluded=excluded,
        max_per_prefix=np.asarray(limits, dtype=np.int64),
        neighbours=added.leaves,
        neighbour_scores=added.values,
        steer_nodes=steered.nodes,
        steer_nats=steered.nats,
        beam=np.arange(beam_width, dtype=np.int64),
        candidates=np.arange(candidates, dtype=np.int64),
    )
