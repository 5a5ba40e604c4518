"""Leaves by catalogue row: a new item renumbers half of the leaves, and nothing is copied for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_INSERTED = 4096
"""Most leaves that are kept as insertions; with more of them the leaves of all rows are computed anew."""

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


class ItemLeaves:
    """Leaf of each row, ``[items]``, immutable. Reads like an array.

    The leaves of the first rows are stored as they were before the trie grew. Each leaf that was inserted since then
    moves the stored ones from its place on by one.

    Args:
        stored: Leaves of the first rows.
        inserted: Stored leaves before which others were inserted, ascending.
        rank: By row after the stored ones, the place of its leaf in ``inserted``.
    """

    def __init__(self, stored: Int32Array, inserted: Int64Array | None = None, rank: Int64Array | None = None) -> None:
        self._stored = stored
        self._inserted = np.empty(0, dtype=np.int64) if inserted is None else inserted
        self._rank = np.empty(0, dtype=np.int64) if rank is None else rank

    @classmethod
    def of(cls, leaf_item: Int32Array) -> ItemLeaves:
        """Invert the catalogue row of each leaf, ``[items]``."""
        leaf = np.empty(len(leaf_item), dtype=np.int32)
        leaf[leaf_item] = np.arange(len(leaf_item), dtype=np.int32)
        return cls(leaf)

    def __len__(self) -> int:
        return len(self._stored) + len(self._inserted)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self._stored.nbytes + self._inserted.nbytes + self._rank.nbytes

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self[:], dtype=dtype)

    def __getitem__(self, rows: int | slice | npt.NDArray[Any]) -> Int32Array:
        """Return the leaves of one row or many, from 0 on; a single one as an array without dimensions."""
        if not len(self._inserted):
            return np.asarray(self._stored[rows])

        asked = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        stored = len(self._stored)
        is_new = asked >= stored
        leaf = self._stored[np.where(is_new, 0, asked)]
        moved = leaf + np.searchsorted(self._inserted, leaf, side="right")

        rank = self._rank[np.where(is_new, asked - stored, 0)]
        return np.where(is_new, self._inserted[rank] + rank, moved).astype(np.int32)

    def insert(self, places: Int64Array, order: npt.NDArray[np.integer[Any]]) -> ItemLeaves | None:
        """Return the leaves with those of new items; ``None`` if too many were inserted.

        Args:
            places: Leaves before which others are inserted, ascending, numbered as they are now.
            order: Which of the new rows each of these others belongs to, 0 for the first one.
        """
        if len(self._inserted) + len(places) > MAX_INSERTED:
            return None

        before = np.searchsorted(self._inserted + np.arange(len(self._inserted)), places, side="left")
        rank = np.append(self._rank + np.searchsorted(before, self._rank, side="right"), np.empty(len(order), np.int64))
        rank[len(self._rank) + order] = before + np.arange(len(order))
        return ItemLeaves(self._stored, np.insert(self._inserted, before, places - before), rank)
