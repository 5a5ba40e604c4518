"""Packed columns: rows of different lengths in two flat arrays, without a Python object per row.

A column of n rows is n + 1 offsets and the values of all rows one after another, so a snapshot needs no parser. Columns
are immutable: a change makes a new column, by copying whole slices of the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model_store.errors import CatalogueError

Arrays = Mapping[str, npt.NDArray[np.generic]]
Rows = npt.NDArray[np.int64]

_BLOCK = 16_384
"""Rows that are handled together, few enough for their temporaries to stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths: row i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: npt.NDArray[Any]  # [offsets[-1]]
    offsets: npt.NDArray[Any]  # [rows + 1], uint32, or uint64 where the values need it

    @classmethod
    def of_lengths(cls, values: npt.NDArray[Any], lengths: npt.NDArray[np.integer[Any]]) -> Ragged:
        """Create a column from values and the length of each row."""
        return cls(values, _offsets_of_lengths(lengths))

    @classmethod
    def of_arrow(cls, values: npt.NDArray[Any], column: Any) -> Ragged:
        """Create a column from values and the Arrow array of large strings or large lists that contains them."""
        bounds = _arrow_offsets(column)
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

    @property
    def nbytes(self) -> int:
        """Memory of both arrays in bytes."""
        return self.values.nbytes + self.offsets.nbytes

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
        start = 0
        bounds = content.offsets.tolist()
        for number, row in enumerate(rows[:replaced].tolist()):
            pieces.append(self.values[start : self.offsets[row]])
            pieces.append(content.values[bounds[number] : bounds[number + 1]])
            start = int(self.offsets[row + 1])
        pieces.append(self.values[start:])
        pieces.append(content.values[bounds[replaced] :])
        return Ragged.of_lengths(np.concatenate(pieces), lengths)

    def arrays(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return flat named arrays, for a snapshot."""
        return {f"{name}/values": self.values, f"{name}/offsets": self.offsets}


class PackedStrings(Sequence[str]):
    """A column of strings in UTF-8. Reads like a list of ``str``."""

    __slots__ = ("_bytes", "_ends", "ragged")

    def __init__(self, ragged: Ragged) -> None:
        self.ragged = ragged
        self._bytes = np.ascontiguousarray(ragged.values, dtype=np.uint8).data
        self._ends = np.ascontiguousarray(ragged.offsets).data

    @classmethod
    def of(cls, values: Sequence[str]) -> PackedStrings:
        """Pack strings; a packed column is returned as it is."""
        if isinstance(values, PackedStrings):
            return values
        return cls.from_arrow(pa.array(list(values), pa.large_string()))

    @classmethod
    def from_arrow(cls, column: Any) -> PackedStrings:
        """Pack an Arrow array of strings, chunked or not, without a Python object per string.

        Raises:
            ValueError: A string is null.
        """
        column = column.cast(pa.large_string())
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.large_string())
        if column.null_count:
            raise ValueError("a string is null")
        return cls(Ragged.of_arrow(_arrow_bytes(column), column))

    def to_arrow(self) -> Any:
        """Return the strings as an Arrow array that shares the bytes."""
        offsets = pa.py_buffer(self.ragged.offsets.astype(np.int64))
        return pa.LargeStringArray.from_buffers(len(self), offsets, pa.py_buffer(self.ragged.values))

    def __len__(self) -> int:
        return len(self.ragged)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        return str(self.raw(row + len(self) if row < 0 else row), "utf-8")

    def __iter__(self) -> Iterator[str]:
        column = self.to_arrow()
        for start in range(0, len(self), _BLOCK):
            yield from column.slice(start, _BLOCK).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedStrings):
            return np.array_equal(self.ragged.offsets, other.ragged.offsets) and np.array_equal(
                self.ragged.values, other.ragged.values
            )
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def raw(self, row: int) -> memoryview:
        """Return the bytes of one string; rows count from 0.

        Raises:
            IndexError: There is no such row.
        """
        return self._bytes[self._ends[row] : self._ends[row + 1]]

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> PackedStrings:
        """Return the strings of these rows, in this order."""
        return PackedStrings(self.ragged.take(rows))

    def with_rows(self, rows: Rows, texts: Sequence[str]) -> PackedStrings:
        """Return a copy with other strings in these rows, see :meth:`Ragged.with_rows`."""
        return PackedStrings(self.ragged.with_rows(rows, PackedStrings.of(texts).ragged))

    def check_integrity(self, name: str) -> None:
        """Raise :class:`CatalogueError` unless every row is UTF-8."""
        try:
            self.to_arrow().validate(full=True)
        except pa.ArrowInvalid as cause:
            raise CatalogueError(f"{name} are not all UTF-8") from cause


def pack_strings(values: Sequence[str], name: str) -> PackedStrings:
    """Pack a column that a caller gives.

    Raises:
        CatalogueError: A value is not text.
    """
    try:
        return PackedStrings.of(values)
    except (pa.ArrowException, UnicodeEncodeError, ValueError, TypeError) as cause:
        raise CatalogueError(f"{name} must be texts: {cause}") from cause


def arrow_lengths(column: Any) -> Rows:
    """Return the length of each row of an Arrow array of large strings or large lists."""
    lengths: Rows = np.diff(_arrow_offsets(column))
    return lengths


def row_blocks(rows: int) -> Iterable[slice]:
    """Return slices that cover so many rows, a block at a time."""
    return (slice(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK))


def _arrow_bytes(column: Any) -> npt.NDArray[np.uint8]:
    """Copy the bytes of an Arrow array of large strings into an array."""
    values = column.buffers()[2]
    if values is None:
        return np.empty(0, dtype=np.uint8)
    bounds = _arrow_offsets(column)
    return np.frombuffer(values, dtype=np.uint8)[int(bounds[0]) : int(bounds[-1])].copy()


def _arrow_offsets(column: Any) -> Rows:
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
