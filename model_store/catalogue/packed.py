"""Packed columns of strings, in flat arrays without a Python object per row.

A column of n rows is n + 1 offsets and the values of all rows one after another, so a snapshot needs no parser. Columns
are immutable: a change makes a new column, which shares the chunks of rows that it leaves as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model_store.catalogue.chunked import ChunkedRagged
from model_store.catalogue.ragged import Ragged, Rows, arrow_offsets
from model_store.errors import CatalogueError

_BLOCK = 16_384
"""Rows that are handled together, few enough for their temporaries to stay in the processor's cache."""


class PackedStrings(Sequence[str]):
    """A column of strings in UTF-8. Reads like a list of ``str``."""

    __slots__ = ("_column",)

    def __init__(self, column: Ragged | ChunkedRagged) -> None:
        self._column = ChunkedRagged.of(column) if isinstance(column, Ragged) else column

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

    @property
    def ragged(self) -> Ragged:
        """The column as one piece; copied if it has changed since it was packed."""
        return self._column.flat()

    def to_arrow(self) -> Any:
        """Return the strings as an Arrow array that shares the bytes of :attr:`ragged`."""
        ragged = self.ragged
        offsets = pa.py_buffer(ragged.offsets.astype(np.int64))
        return pa.LargeStringArray.from_buffers(len(self), offsets, pa.py_buffer(ragged.values))

    def __len__(self) -> int:
        return len(self._column)

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
            ours = self.ragged
            theirs = other.ragged
            return np.array_equal(ours.offsets, theirs.offsets) and np.array_equal(ours.values, theirs.values)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def raw(self, row: int) -> memoryview:
        """Return the bytes of one string; rows count from 0.

        Raises:
            IndexError: There is no such row.
        """
        chunk, at = self._column.find(row)
        data, ends = chunk.views
        return data[ends[at] : ends[at + 1]]

    def pick(self, rows: Iterable[int]) -> list[str]:
        """Return the strings of a few rows, in this order; sooner than one by one. Rows count from 0.

        Raises:
            IndexError: There is no such row.
        """
        chunks = self._column.chunks
        bits = self._column.bits
        within = (1 << bits) - 1

        found = []
        for row in rows:
            data, ends = chunks[row >> bits].views
            at = row & within
            found.append(str(data[ends[at] : ends[at + 1]], "utf-8"))
        return found

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> PackedStrings:
        """Return the strings of these rows, in this order."""
        return PackedStrings(self._column.take(rows))

    def with_rows(self, rows: Rows, texts: Sequence[str]) -> PackedStrings:
        """Return a copy with other strings in these rows, see :meth:`.ragged.Ragged.with_rows`."""
        return PackedStrings(self._column.with_rows(rows, PackedStrings.of(texts).ragged))

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
    lengths: Rows = np.diff(arrow_offsets(column))
    return lengths


def row_blocks(rows: int) -> Iterable[slice]:
    """Return slices that cover so many rows, a block at a time."""
    return (slice(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK))


def _arrow_bytes(column: Any) -> npt.NDArray[np.uint8]:
    """Copy the bytes of an Arrow array of large strings into an array."""
    values = column.buffers()[2]
    if values is None:
        return np.empty(0, dtype=np.uint8)
    bounds = arrow_offsets(column)
    return np.frombuffer(values, dtype=np.uint8)[int(bounds[0]) : int(bounds[-1])].copy()
