"""Columns whose rows differ in length, as two flat arrays: no Python object per item, snapshots without a parser.

A column of n rows is n + 1 offsets and the values of all rows one after another. Columns are immutable: a change makes
a new one, by copying whole stretches of the old.
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

_BLOCK = 16_384  # rows handled together: their temporaries stay in the cache


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths: row i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: npt.NDArray[Any]  # [offsets[-1]]
    offsets: npt.NDArray[Any]  # [rows + 1], uint32, or uint64 where the values need it

    @classmethod
    def of_lengths(cls, values: npt.NDArray[Any], lengths: npt.NDArray[np.integer[Any]]) -> Ragged:
        """From values and the length of each row."""
        return cls(values, _offsets(lengths))

    @classmethod
    def of_arrow(cls, values: npt.NDArray[Any], column: Any) -> Ragged:
        """From values and the Arrow array of large strings or large lists that they are the content of."""
        bounds = _arrow_offsets(column)
        return cls(values, (bounds - bounds[0]).astype(_offset_type(int(bounds[-1] - bounds[0]))))

    @classmethod
    def from_arrays(cls, arrays: Arrays, name: str) -> Ragged:
        """Take back what :meth:`arrays` gave, checked.

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
        """Values of each row."""
        return np.diff(self.offsets).astype(np.int64, copy=False)

    @property
    def nbytes(self) -> int:
        """Memory of both arrays."""
        return self.values.nbytes + self.offsets.nbytes

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Ragged:
        """These rows, in this order."""
        starts = self.offsets[:-1][rows].astype(np.int64)
        lengths = self.offsets[1:][rows].astype(np.int64) - starts
        taken = Ragged.of_lengths(self.values[:0], lengths)
        at = np.repeat(starts - taken.offsets[:-1].astype(np.int64), lengths) + np.arange(lengths.sum())
        return Ragged(self.values[at], taken.offsets)

    def with_rows(self, rows: Rows, content: Ragged) -> Ragged:
        """A copy in which ``content`` stands in these rows; rows from the end on are appended.

        Args:
            rows: Ascending; those not held yet follow the last row without a gap.
            content: One row for each, values of the same type.
        """
        kept = int(np.searchsorted(rows, len(self)))
        lengths = np.append(self.lengths, np.zeros(len(rows) - kept, dtype=np.int64))
        lengths[rows] = content.lengths
        pieces, start = [], 0
        ends = content.offsets.tolist()
        for number, row in enumerate(rows[:kept].tolist()):
            pieces += [self.values[start : self.offsets[row]], content.values[ends[number] : ends[number + 1]]]
            start = int(self.offsets[row + 1])
        pieces += [self.values[start:], content.values[ends[kept] :]]
        return Ragged.of_lengths(np.concatenate(pieces), lengths)

    def arrays(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Flat named arrays, for a snapshot."""
        return {f"{name}/values": self.values, f"{name}/offsets": self.offsets}


class PackedStrings(Sequence[str]):
    """Strings in UTF-8, one after another. Reads like a list of ``str``."""

    __slots__ = ("_bytes", "_ends", "ragged")

    def __init__(self, ragged: Ragged) -> None:
        self.ragged = ragged
        self._bytes = np.ascontiguousarray(ragged.values, dtype=np.uint8).data
        self._ends = np.ascontiguousarray(ragged.offsets).data

    @classmethod
    def of(cls, values: Sequence[str]) -> PackedStrings:
        """Pack strings; packed ones are returned as they are."""
        if isinstance(values, PackedStrings):
            return values
        return cls.from_arrow(pa.array(list(values), pa.large_string()))

    @classmethod
    def from_arrow(cls, column: Any) -> PackedStrings:
        """From an Arrow array of strings, chunked or not, without a Python object per string.

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
        """As an Arrow array; the bytes are shared."""
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
        """The bytes of one string; rows count from 0.

        Raises:
            IndexError: There is no such row.
        """
        return self._bytes[self._ends[row] : self._ends[row + 1]]

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> PackedStrings:
        """The strings of these rows, in this order."""
        return PackedStrings(self.ragged.take(rows))

    def with_rows(self, rows: Rows, texts: Sequence[str]) -> PackedStrings:
        """See :meth:`Ragged.with_rows`."""
        return PackedStrings(self.ragged.with_rows(rows, PackedStrings.of(texts).ragged))

    def check_integrity(self, name: str) -> None:
        """Raise :class:`CatalogueError` unless every row is UTF-8."""
        try:
            self.to_arrow().validate(full=True)
        except pa.ArrowInvalid as cause:
            raise CatalogueError(f"{name} are not all UTF-8") from cause


def as_packed(values: Sequence[str], name: str) -> PackedStrings:
    """Pack a column given by a caller.

    Raises:
        CatalogueError: A value is no text.
    """
    try:
        return PackedStrings.of(values)
    except (pa.ArrowException, UnicodeEncodeError, ValueError, TypeError) as cause:
        raise CatalogueError(f"{name} must be texts: {cause}") from cause


def arrow_lengths(column: Any) -> Rows:
    """Length of each row of an Arrow array of large strings or large lists."""
    found: Rows = np.diff(_arrow_offsets(column))
    return found


def _arrow_bytes(column: Any) -> npt.NDArray[np.uint8]:
    """The bytes of an Arrow array of large strings, as an array of its own."""
    bounds, values = _arrow_offsets(column), column.buffers()[2]
    if values is None:
        return np.empty(0, dtype=np.uint8)
    return np.frombuffer(values, dtype=np.uint8)[int(bounds[0]) : int(bounds[-1])].copy()


def _arrow_offsets(column: Any) -> Rows:
    bounds = column.buffers()[1]
    if bounds is None or not len(column):
        return np.zeros(1, dtype=np.int64)
    return np.frombuffer(bounds, dtype=np.int64)[column.offset : column.offset + len(column) + 1]


def _offsets(lengths: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
    offsets = np.zeros(len(lengths) + 1, dtype=_offset_type(int(lengths.sum(dtype=np.int64))))
    np.cumsum(lengths.astype(offsets.dtype), out=offsets[1:])  # one type throughout is ten times faster
    return offsets


def _offset_type(values: int) -> type[np.uint32] | type[np.uint64]:
    return np.uint32 if values < 2**32 else np.uint64


def batches(rows: int) -> Iterable[slice]:
    """Slices that cover these many rows, a block at a time."""
    return (slice(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK))
