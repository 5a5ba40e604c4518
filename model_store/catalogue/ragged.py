"""Rows of different lengths in two flat arrays, without a Python object per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.errors import CatalogueError

Arrays = Mapping[str, npt.NDArray[np.generic]]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths: row i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: npt.NDArray[Any]  # also those before and after the rows of a slice
    offsets: npt.NDArray[Any]  # [rows + 1], uint32, or uint64 where the values need it

    @classmethod
    def of_lengths(cls, values: npt.NDArray[Any], lengths: npt.NDArray[np.integer[Any]]) -> Ragged:
        """Create a column from values and the length of each row."""
        return cls(values, _offsets_of_lengths(lengths))

    @classmethod
    def of_arrow(cls, values: npt.NDArray[Any], column: Any) -> Ragged:
        """Create a column from values and the Arrow array of large strings or large lists that contains them."""
        bounds = arrow_offsets(column)
        offsets = bounds - bounds[0]
        return cls(values, offsets.astype(_offset_type(int(offsets[-1]))))

    @classmethod
    def from_arrays(cls, arrays: Arrays, name: str) -> Ragged:
        """Rebuild and check a column from :meth:`arrays`.

        Raises:
            CatalogueError: An array is missing, or the offsets do not partition the values.
        """
        try:
            values: npt.NDArray[Any] = arrays[f"{name}/values"]
            offsets: npt.NDArray[Any] = arrays[f"{name}/offsets"]
        except KeyError as missing:
            raise CatalogueError(f"the snapshot lacks the array {missing}") from missing

        is_flat = values.ndim == offsets.ndim == 1 and offsets.dtype in (np.uint32, np.uint64) and len(offsets) > 0
        if not is_flat or offsets[0] != 0 or offsets[-1] != len(values) or (offsets[1:] < offsets[:-1]).any():
            raise CatalogueError(f"the offsets of {name} do not partition its {values.size} values")
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Rows:
        """Number of values of each row, ``[rows]``."""
        return np.diff(self.offsets).astype(np.int64, copy=False)

    @cached_property
    def views(self) -> tuple[memoryview, memoryview]:
        """Values and offsets for reading single rows, several times as fast as through the arrays."""
        return np.ascontiguousarray(self.values).data, np.ascontiguousarray(self.offsets).data

    @property
    def own_values(self) -> npt.NDArray[Any]:
        """Values of these rows alone."""
        return self.values[int(self.offsets[0]) : int(self.offsets[-1])]

    @property
    def nbytes(self) -> int:
        """Memory of both arrays in bytes."""
        return self.values.nbytes + self.offsets.nbytes

    def slice(self, start: int, end: int) -> Ragged:
        """Return the rows ``start`` to ``end`` as views of the same arrays."""
        return Ragged(self.values, self.offsets[start : end + 1])

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Ragged:
        """Return these rows, in this order."""
        starts = self.offsets[:-1][rows].astype(np.int64)
        lengths = self.offsets[1:][rows].astype(np.int64) - starts
        offsets = _offsets_of_lengths(lengths)
        places = np.repeat(starts - offsets[:-1].astype(np.int64), lengths) + np.arange(lengths.sum())
        return Ragged(self.values[places], offsets)

    def with_rows(self, rows: Rows, content: Ragged) -> Ragged:
        """Return a copy with ``content`` in these rows; rows from the end on are appended.

        Args:
            rows: Ascending; new rows follow the last row without a gap.
            content: One row for each, values of the same type.
        """
        replaced = int(np.searchsorted(rows, len(self)))
        appended = len(rows) - replaced
        lengths = np.append(self.lengths, np.zeros(appended, dtype=np.int64))
        lengths[rows] = content.lengths

        # Copy slices: of the old values between two replaced rows, of the new values for each replaced row.
        pieces = []
        start = int(self.offsets[0])
        bounds = content.offsets.tolist()
        for number, row in enumerate(rows[:replaced].tolist()):
            pieces.append(self.values[start : self.offsets[row]])
            pieces.append(content.values[bounds[number] : bounds[number + 1]])
            start = int(self.offsets[row + 1])
        pieces.append(self.values[start : int(self.offsets[-1])])
        pieces.append(content.values[bounds[replaced] : bounds[-1]])
        return Ragged.of_lengths(np.concatenate(pieces), lengths)

    def arrays(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return flat named arrays, for a snapshot."""
        return {f"{name}/values": self.values, f"{name}/offsets": self.offsets}


def arrow_offsets(column: Any) -> Rows:
    """Return the offsets of an Arrow array of large strings or large lists, which may be a slice: ``[rows + 1]``."""
    offsets = column.buffers()[1]
    if offsets is None or not len(column):
        return np.zeros(1, dtype=np.int64)
    return np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]


def _offsets_of_lengths(lengths: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
    """Return the offsets of rows of these lengths: ``[rows + 1]``."""
    offsets = np.zeros(len(lengths) + 1, dtype=_offset_type(int(lengths.sum(dtype=np.int64))))
    np.cumsum(lengths.astype(offsets.dtype), out=offsets[1:])  # one type throughout is ten times faster
    return offsets


def _offset_type(values: int) -> type[np.uint32] | type[np.uint64]:
    """Return the smaller type that can count so many values."""
    return np.uint32 if values < 2**32 else np.uint64
