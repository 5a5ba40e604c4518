"""Filters that choose the interactions to keep, and the order of those at the same time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.numbering import Int32Array, NumberedIds

BoolArray = npt.NDArray[np.bool_]


def k_core(user: Int32Array, item: Int32Array, min_user: int, min_item: int) -> BoolArray:
    """Mark the interactions [n] of the largest part in which every user has ``min_user`` and every item ``min_item``.

    Dropping a rare item may make a user rare, and so on, so it is repeated until nothing more drops. The result is
    unique.

    Args:
        user: [n], rows, not negative.
        item: [n], likewise.
    """
    kept = np.ones(len(user), dtype=np.bool_)
    user_count = np.bincount(user)
    item_count = np.bincount(item)

    while True:
        dropped = kept & ~((user_count >= min_user)[user] & (item_count >= min_item)[item])
        if not dropped.any():
            return kept
        user_count -= np.bincount(user[dropped], minlength=len(user_count))
        item_count -= np.bincount(item[dropped], minlength=len(item_count))
        kept &= ~dropped


def has_min_length(user: Int32Array, min_length: int) -> BoolArray:
    """Mark the interactions [n] of users with at least ``min_length`` of them."""
    return (np.bincount(user) >= min_length)[user]


def shuffle_ties(user: NumberedIds, item: NumberedIds, timestamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return an order [n] by time; at equal times it is arbitrary, but the same for any input order and any run.

    Ties are sorted by a hash of the ranks of user and item among all sorted ids.
    """
    user_rank, item_rank = (_ranks(column.ids)[column.rows].astype(np.uint64) for column in (user, item))
    return np.lexsort((_scramble(_scramble(user_rank) ^ item_rank), timestamps))


def _ranks(ids: pl.Series) -> npt.NDArray[np.uint32]:
    return ids.rank("ordinal").cast(pl.UInt32).to_numpy()


def _scramble(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), a bijection that scatters neighbours."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
