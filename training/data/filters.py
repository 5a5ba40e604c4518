"""Which interactions are kept, and in which order those at the same time come; on arrays of numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.numbering import Int32Array, Numbered

BoolArray = npt.NDArray[np.bool_]


def k_core(user: Int32Array, item: Int32Array, min_user: int, min_item: int) -> BoolArray:
    """Which interactions are left [n] when every user left has ``min_user`` and every item ``min_item`` of them.

    Dropping a rare item may make a user rare and so on: repeated until nothing more falls. The result is unique.

    Args:
        user: [n], rows, not negative.
        item: [n], likewise.
    """
    kept = np.ones(len(user), dtype=np.bool_)
    user_count, item_count = np.bincount(user), np.bincount(item)
    while True:
        falls = kept & ~((user_count >= min_user)[user] & (item_count >= min_item)[item])
        if not falls.any():
            return kept
        user_count -= np.bincount(user[falls], minlength=len(user_count))
        item_count -= np.bincount(item[falls], minlength=len(item_count))
        kept &= ~falls


def long_enough(user: Int32Array, min_length: int) -> BoolArray:
    """Which interactions [n] belong to a user with at least ``min_length`` of them."""
    return (np.bincount(user) >= min_length)[user]


def shuffled_ties(user: Numbered, item: Numbered, timestamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """An order [n] by time, at equal times arbitrary, but independent of the order of the input and of the run.

    Ties are sorted by a hash of the ranks of user and item among all sorted ids.
    """
    left, right = (_ranks(ids.ids)[ids.rows].astype(np.uint64) for ids in (user, item))
    return np.lexsort((_mixed(_mixed(left) ^ right), timestamps))


def _ranks(ids: pl.Series) -> npt.NDArray[np.uint32]:
    return ids.rank("ordinal").cast(pl.UInt32).to_numpy()


def _mixed(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection that scatters neighbours."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
