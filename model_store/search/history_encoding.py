"""The encoding of users' histories as network input, shared by training, evaluation and service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.semantic_ids.item_leaves import ItemLeaves


class HistoryBatch(NamedTuple):
    """Histories in the form that the search reads: oldest item first, padded with zeros on the right."""

    leaves: npt.NDArray[np.int64]  # [B, T], leaf of each item in the trie
    lengths: npt.NDArray[np.int64]  # [B], in items


def encode_histories(
    histories: Sequence[npt.NDArray[np.integer]],
    item_leaf: npt.NDArray[np.integer] | ItemLeaves,
    max_history: int,
    pad_to: int = 0,
) -> HistoryBatch:
    """Look up the leaves of the newest ``max_history`` items of each history.

    Args:
        histories: Catalogue rows, oldest first, one array per request; none may be empty.
        item_leaf: Leaf of each row in the trie, ``[items]``.
        max_history: Number of newest items that are kept of each history.
        pad_to: Smallest T of the answer, for length buckets.

    Raises:
        ValueError: A history is empty.
    """
    kept = [np.asarray(history)[-max_history:] for history in histories]
    lengths = np.array([len(history) for history in kept], dtype=np.int64)
    if (lengths == 0).any():
        raise ValueError(f"history {int(np.argmin(lengths))} is empty: the model needs at least one known item")

    longest = max(int(lengths.max(initial=1)), pad_to)
    leaves = np.zeros((len(kept), longest), dtype=np.int64)
    for row, history in enumerate(kept):
        leaves[row, : len(history)] = item_leaf[history]
    return HistoryBatch(leaves, lengths)
