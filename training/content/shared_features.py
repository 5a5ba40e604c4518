"""Features of the items of a data set: which of them several items have, and the sparse matrix of those."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.new_items.features import Features, extract_features
from training.content.ridge import Entries
from training.data.dataset import Dataset

KNOWN_FEATURES = 1 << 15
"""Limit on M; the most frequent features are kept. It costs 32 MiB at a width of 256."""

MIN_ITEMS = 2
"""Items that must have a feature before it is learned. A feature of a single item says nothing about others."""


def item_features(data: Dataset, rows: npt.NDArray[np.int64] | None = None) -> list[Features]:
    """Return the features of trained items, in the order of ``rows``, or of all."""
    chosen = range(data.n_items) if rows is None else rows.tolist()
    return [extract_features(data.titles[row], data.categories[row], data.attributes[row]) for row in chosen]


def shared_features(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the features that several items have, ascending; only the most frequent ones if there are too many.

    Args:
        ids: Feature ids of all items, one after the other; an item has each of its features once.
    """
    known, count = np.unique(ids, return_counts=True)
    order = np.argsort(-count, kind="stable")[:KNOWN_FEATURES]
    return np.asarray(np.sort(known[order[count[order] >= MIN_ITEMS]]))


def entries_of(features: Sequence[Features], known: npt.NDArray[np.int64]) -> Entries:
    """Return the entries of the sparse matrix of items and known features ``[N, M]``; other features are left out."""
    ids = np.concatenate([np.empty(0, np.int64), *(each.ids for each in features)])
    row = np.repeat(np.arange(len(features)), [len(each.ids) for each in features])
    value = np.concatenate([np.empty(0, np.float32), *(each.weights for each in features)])
    column = np.searchsorted(known, ids).clip(max=max(len(known) - 1, 0))
    is_known = known[column] == ids if len(known) else np.zeros(len(ids), dtype=np.bool_)
    return Entries(*(torch.from_numpy(part[is_known]) for part in (row, column, value)))


def feature_rarity(column: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the inverse document frequency of each known feature, ``[M]``, smoothed and at least 1.

    Args:
        column: Columns of the entries of the matrix, each pair of item and feature once.
        shape: N and M.
    """
    count = torch.bincount(column, minlength=shape[1])
    return torch.log((1 + shape[0]) / (1 + count)) + 1


def rare_entries(entries: Entries, rarity: Tensor, items: int) -> Entries:
    """Return the entries times the rarity ``[M]`` of their features, every item's scaled to unit length (TF-IDF)."""
    value = entries.value * rarity[entries.column]
    length = torch.zeros(items).index_add_(0, entries.row, value.square()).sqrt()
    return entries._replace(value=value / length[entries.row])
