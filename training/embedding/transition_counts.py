"""Counting which items follow which in training sequences, for :mod:`model_store.search.transitions`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model_store.search.transitions import Transitions

Int64Array = npt.NDArray[np.int64]

WINDOW = 3
"""Items after an item that count as its successors, the d-th of them 1 / d."""

MOST_SUCCESSORS = 128
"""Of an item; the most frequent ones are kept."""


def count_transitions(sequences: Sequence[npt.NDArray[np.integer]], items: int) -> Transitions:
    """P(j follows i): weighted successions of i and j, over how often i occurs. An item does not follow itself.

    Args:
        sequences: Item rows of each user, oldest first.
        items: Of the catalogue.
    """
    flat = np.concatenate([np.empty(0, dtype=np.int64), *sequences]).astype(np.int64)
    owner = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    keys, weight = _sum_by_key([_pairs(flat, owner, distance, items) for distance in range(1, WINDOW + 1)])
    before, after = np.divmod(keys, items)
    share = weight / np.maximum(np.bincount(flat, minlength=items), 1)[before]
    kept = _most_frequent(before, share)
    start = np.concatenate([[0], np.cumsum(np.bincount(before[kept], minlength=items))])
    return Transitions(start, after[kept].astype(np.int32), share[kept].astype(np.float32))


def _pairs(
    flat: Int64Array, owner: Int64Array, distance: int, items: int
) -> tuple[Int64Array, npt.NDArray[np.float64]]:
    """Distinct pairs that are so far apart in a sequence, as ascending keys, and what they weigh together."""
    before, after = flat[:-distance], flat[distance:]
    counts = (owner[:-distance] == owner[distance:]) & (before != after)
    keys, times = np.unique(before[counts] * items + after[counts], return_counts=True)
    return keys, times / distance


def _sum_by_key(
    parts: Sequence[tuple[Int64Array, npt.NDArray[np.float64]]],
) -> tuple[Int64Array, npt.NDArray[np.float64]]:
    keys, place = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    weight = np.bincount(place, np.concatenate([each for _, each in parts]), minlength=len(keys))
    return keys, weight.astype(np.float64)


def _most_frequent(before: Int64Array, share: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Mask of pairs ``[P]``, sorted by their first item, that are among the best of it."""
    order = np.lexsort((-share, before))
    first = np.searchsorted(before, before)  # where each pair's item begins
    kept = np.empty(len(before), dtype=np.bool_)
    kept[order] = np.arange(len(before)) - first < MOST_SUCCESSORS
    return kept
