"""What goes into the search graph and what comes out: the one contract of all three implementations.

The catalogue and the rules are inputs, so both can change without exporting the graph again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.search.history_encoding import HistoryBatch
from model_store.semantic_ids.trie import RuleMask, Trie

EXCLUDED_SIZES = (16, 128, 1024, 8192, 16384, 32768, 65536)
"""E is padded up to one of these, so that few distinct shapes reach the engine."""


class SearchInputs(NamedTuple):
    """One batch for the search. Int64 unless noted. R rules are shared by the B requests."""

    history: npt.NDArray[np.int64]  # [B, T], leaves, oldest first; codes and vectors are looked up in the graph
    lengths: npt.NDArray[np.int64]  # [B], items of each history, at least 1
    rule_bits: npt.NDArray[np.uint8]  # [R, ceil(nodes / 8)], open nodes of each rule
    rule_of: npt.NDArray[np.int64]  # [B], row of rule_bits
    excluded: npt.NDArray[np.int64]  # [B, E], closed node ids, padded with -1
    max_per_prefix: npt.NDArray[np.int64]  # [B], beams that may share a first code, at least 1
    beam: npt.NDArray[np.int64]  # [W], only its size matters: the beam width
    candidates: npt.NDArray[np.int64]  # [n], only its size matters: how many dense candidates join the beams


BY_REQUEST = ("history", "lengths", "rule_of", "excluded", "max_per_prefix")
"""Fields of :class:`SearchInputs` with a row a request."""


class SearchOutputs(NamedTuple):
    """W beams by descending log_prob, then n dense candidates by descending dense score.

    Where there is nothing, leaf is -1, log_prob -inf and dense 0, and code_log_prob means nothing: a beam that found
    no valid item, a dense candidate that is a beam already, fewer open items than n.
    """

    leaves: npt.NDArray[np.int64]  # [B, W + n]
    log_prob: npt.NDArray[np.float32]  # [B, W + n], natural logarithm
    dense: npt.NDArray[np.float32]  # [B, W + n], cosine of the user's vector and the item's, and what repeats add
    code_log_prob: npt.NDArray[np.float32]  # [B, W + n, L], what each code contributes to log_prob


POOL = "pool"
"""Last input of the graph: vectors ``[P, d_s]`` of the leaves that dense candidates are chosen from, see
:func:`pool_vectors`; no rows at all where n is 0, which then costs nothing."""


def catalogue_input_names(levels: int) -> list[str]:
    """Names of the inputs that change with the catalogue only, in order; :data:`POOL` comes after them."""
    by_level = [f"{name}_{depth}" for name in ("child_start", "child_code", "window") for depth in range(levels)]
    return [*by_level, *(f"parent_{depth}" for depth in range(2, levels + 1)), "leaf_row", "vectors"]


def catalogue_inputs(
    trie: Trie, vectors: npt.NDArray[np.float32] | None, embedding_dim: int
) -> list[npt.NDArray[np.generic]]:
    """The arrays of :func:`catalogue_input_names`; they change with the catalogue only.

    Args:
        trie: L levels of ``child_start``, ``child_code`` and windows, of which only the sizes matter, the parent of
            each node of depths 2 … L, and the catalogue row of each leaf.
        vectors: Unit length, ``[items, d_s]`` by catalogue row, not copied; ``None``: a row of zeros stands for every
            item, and every dense score is 0.
        embedding_dim: d_s.
    """
    by_row = np.zeros((1, embedding_dim), dtype=np.float32) if vectors is None else vectors
    windows = (np.arange(size, dtype=np.int64) for size in trie.windows)
    return [*trie.child_start, *trie.child_code, *windows, *trie.parents, trie.leaf_item, by_row]


def pool_vectors(
    trie: Trie, vectors: npt.NDArray[np.float32] | None, embedding_dim: int, candidates: int
) -> npt.NDArray[np.float32]:
    """What :data:`POOL` is for n candidates, in the order of leaves: a copy of all vectors, so worth keeping."""
    if not candidates:
        return np.empty((0, embedding_dim), dtype=np.float32)
    return np.zeros((1, embedding_dim), dtype=np.float32) if vectors is None else vectors[trie.leaf_item]


def graph_input_names(levels: int) -> list[str]:
    """Names of the exported graph's inputs in order."""
    return [*SearchInputs._fields, *catalogue_input_names(levels), POOL]


def pad_excluded(node_ids: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Stack each request's excluded node ids into ``[B, E]``, E one of :data:`EXCLUDED_SIZES`.

    Raises:
        ValueError: A request excludes more nodes than the largest size.
    """
    most = max((len(ids) for ids in node_ids), default=0)
    if most > EXCLUDED_SIZES[-1]:
        raise ValueError(f"a request excludes {most} nodes, the limit is {EXCLUDED_SIZES[-1]}")
    padded = np.full((len(node_ids), next(size for size in EXCLUDED_SIZES if size >= most)), -1, dtype=np.int64)
    for row, ids in enumerate(node_ids):
        padded[row, : len(ids)] = ids
    return padded


def search_inputs(
    history: HistoryBatch,
    trie: Trie,
    beam_width: int,
    rules: Sequence[RuleMask] = (),
    rule_of: Sequence[int] = (),
    excluded_items: Sequence[npt.NDArray[np.integer]] = (),
    max_per_prefix: Sequence[int] = (),
    candidates: int = 0,
) -> SearchInputs:
    """Assemble a batch; whatever is left out restricts nothing.

    Args:
        history: Encoded histories of B requests.
        trie: The catalogue that ``excluded_items`` and ``rules`` speak of.
        beam_width: W.
        rules: Distinct masks of the batch; default: everything is open.
        rule_of: Mask of each request; default: the first.
        excluded_items: Catalogue rows each request must not receive.
        max_per_prefix: Beams that may share a first code, by request; default: W, which restricts nothing.
        candidates: n, dense candidates that join the beams.
    """
    size = len(history.lengths)
    masks = list(rules) or [trie.everything]
    rows = list(rule_of) or [0] * size
    if excluded_items:
        closed = [trie.excluded_nodes(items, masks[row]) for items, row in zip(excluded_items, rows, strict=True)]
    else:
        closed = [np.empty(0, dtype=np.int64)] * size
    return SearchInputs(
        history=history.leaves,
        lengths=history.lengths,
        rule_bits=np.stack([mask.bits for mask in masks]),
        rule_of=np.asarray(rows, dtype=np.int64),
        excluded=pad_excluded(closed),
        max_per_prefix=np.asarray(list(max_per_prefix) or [beam_width] * size, dtype=np.int64),
        beam=np.arange(beam_width, dtype=np.int64),
        candidates=np.arange(candidates, dtype=np.int64),
    )
