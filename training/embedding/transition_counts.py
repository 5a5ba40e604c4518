"""Counts of the items that follow each item in training sequences, for :mod:`model_store.search.transitions`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model_store.search.transitions import Transitions

Int64Array = npt.NDArray[np.int64]

WINDOW = 3
"""Number of items after an item that count as its successors; the d-th of them counts 1 / d."""

MOST_SUCCESSORS = 128
"""Maximum number of successors of an item; the most frequent ones are kept."""


def count_transitions(sequences: Sequence[npt.NDArray[np.integer]], items: int) -> Transitions:
    """Estimate P(j follows i): weighted successions of i and j over occurrences of i. An item does not follow itself.

    Args:
        sequences: Item rows of each user, oldest first.
        items: Number of items in the catalogue.
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
    """Return the distinct pairs at this distance in a sequence, as ascending keys, with the total weight of each."""
    before = flat[:-distance]
    after = flat[distance:]
    is_pair = (owner[:-distance] == owner[distance:]) & (before != after)
    keys, times = np.unique(before[is_pair] * items + after[is_pair], return_counts=True)
    return keys, times / distance


def _sum_by_key(
    parts: Sequence[tuple[Int64Array, npt.NDArray[np.float64]]],
) -> tuple[Int64Array, npt.NDArray[np.float64]]:
    keys, index = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    weight = np.bincount(index, np.concatenate([each for _, each in parts]), minlength=len(keys))
    return keys, weight.astype(np.float64)


def _most_frequent(before: Int64Array, share: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return a mask of the pairs ``[P]``, sorted by first item, that are among that item's most frequent ones."""
    order = np.lexsort((-share, before))
    first = np.searchsorted(before, before)  # first pair of each pair's item
    kept = np.empty(len(before), dtype=np.bool_)
    kept[order] = np.arange(len(before)) - first < MOST_SUCCESSORS
    return kept
