"""Search for rows that repeat an earlier one, in a table of a hundred million rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.numbering import Int64Array

BoolArray = npt.NDArray[np.bool_]

_MIX = np.uint64(0x9E3779B97F4A7C15)


def first_of_equals(timestamps: Int64Array, columns: Sequence[npt.NDArray[np.integer]]) -> BoolArray | None:
    """Mark the rows [n] that are the first with their time and values; ``None`` if no row repeats another one.

    Only rows that share their time with a neighbour can repeat one. Of these, hashes are sorted; those few with equal
    hashes are compared.

    Args:
        timestamps: [n], ascending.
        columns: Further columns [n] of numbers that must be equal, too.
    """
    tied = np.zeros(len(timestamps), dtype=np.bool_)
    equal = timestamps[1:] == timestamps[:-1]
    tied[1:] |= equal
    tied[:-1] |= equal
    rows = np.flatnonzero(tied)
    if not len(rows):
        return None

    hashes = timestamps[rows].astype(np.uint64)
    for column in columns:
        hashes *= _MIX
        hashes ^= hashes >> np.uint64(29)
        hashes += column[rows].astype(np.uint64)
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(32)

    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return None
    place = np.searchsorted(repeated, hashes)
    place[place == len(repeated)] = 0
    candidates = rows[repeated[place] == hashes]

    values = {str(number): column[candidates] for number, column in enumerate((timestamps, *columns))}
    is_first = pl.DataFrame(values).select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
    if is_first.all():
        return None
    first = np.ones(len(timestamps), dtype=np.bool_)
    first[candidates[~is_first]] = False
    return first
