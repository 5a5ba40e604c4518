"""What goes into the search graph and what comes out: the one contract of all three implementations.

The catalogue and the rules are inputs, so both can change without exporting the graph again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.history import HistoryBatch
from model_store.trie import RuleMask, Trie

EXCLUDED_SIZES = (16, 128, 1024, 8192, 65536)
"""E is padded up to one of these, so that few distinct shapes reach the engine."""


class SearchInputs(NamedTuple):
    """One batch for the search. Int64 unless noted. R rules are shared by the B requests."""

    codes: npt.NDArray[np.int64]  # [B, T, L], history, oldest first
    lengths: npt.NDArray[np.int64]  # [B], items of each history, at least 1
    rule_bits: npt.NDArray[np.uint8]  # [R, ceil(nodes / 8)], open nodes of each rule
    rule_of: npt.NDArray[np.int64]  # [B], row of rule_bits
    excluded: npt.NDArray[np.int64]  # [B, E], closed node ids, padded with -1
    max_per_prefix: npt.NDArray[np.int64]  # [B], beams that may share a first code, at least 1
    beam: npt.NDArray[np.int64]  # [W], only its size matters: the beam width


class SearchOutputs(NamedTuple):
    """Beams, best first. A beam that found no valid item has leaf -1 and log_prob -inf."""

    leaves: npt.NDArray[np.int64]  # [B, W]
    log_prob: npt.NDArray[np.float32]  # [B, W], natural logarithm


def graph_input_names(levels: int) -> list[str]:
    """Names of the exported graph's inputs in order: :class:`SearchInputs`, then the trie by level."""
    return [
        *SearchInputs._fields,
        *(f"child_start_{depth}" for depth in range(levels)),
        *(f"child_code_{depth}" for depth in range(levels)),
    ]


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
    """
    size = len(history.lengths)
    masks = list(rules) or [trie.everything]
    rows = list(rule_of) or [0] * size
    if excluded_items:
        closed = [trie.excluded_nodes(items, masks[row]) for items, row in zip(excluded_items, rows, strict=True)]
    else:
        closed = [np.empty(0, dtype=np.int64)] * size
    return SearchInputs(
        codes=history.codes,
        lengths=history.lengths,
        rule_bits=np.stack([mask.bits for mask in masks]),
        rule_of=np.asarray(rows, dtype=np.int64),
        excluded=pad_excluded(closed),
        max_per_prefix=np.asarray(list(max_per_prefix) or [beam_width] * size, dtype=np.int64),
        beam=np.arange(beam_width, dtype=np.int64),
    )
