"""Columns in chunks of rows: a change copies the chunks that it touches, and shares all others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from model_store.catalogue.ragged import Ragged, Rows

CHUNK_BITS = 14
"""A chunk has two to the power of this rows: few enough to be copied in a fraction of a millisecond."""


@dataclass(frozen=True, eq=False)
class ChunkedRagged:
    """An immutable column of rows of different lengths. Every chunk but the last is full.

    Attributes:
        chunks: At least one.
        whole: The same rows as one piece, if nothing changed since they were one.
        bits: See :data:`CHUNK_BITS`.
    """

    chunks: tuple[Ragged, ...]
    whole: Ragged | None
    bits: int = CHUNK_BITS

    @classmethod
    def of(cls, whole: Ragged, bits: int = CHUNK_BITS) -> Self:
        """Cut a column into chunks, without copying anything."""
        size = 1 << bits
        starts = range(0, max(1, len(whole)), size)
        chunks = tuple(whole.slice(start, min(start + size, len(whole))) for start in starts)
        return cls(chunks, whole, bits)

    def __len__(self) -> int:
        return ((len(self.chunks) - 1) << self.bits) + len(self.chunks[-1])

    def find(self, row: int) -> tuple[Ragged, int]:
        """Return the chunk that has a row, and the number of the row within it; rows count from 0.

        Raises:
            IndexError: There is no such chunk.
        """
        return self.chunks[row >> self.bits], row & ((1 << self.bits) - 1)

    def flat(self) -> Ragged:
        """Return the column as one piece. Copies everything, if something changed since it was one."""
        if self.whole is not None:
            return self.whole
        values = np.concatenate([chunk.own_values for chunk in self.chunks])
        return Ragged.of_lengths(values, np.concatenate([chunk.lengths for chunk in self.chunks]))

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Ragged:
        """Return these rows, in this order, as one piece."""
        if self.whole is not None:
            return self.whole.take(rows)

        order = np.argsort(rows, kind="stable")
        parts = [self.chunks[run.chunk].take(run.rows) for run in _runs(rows[order], self.bits)]
        if not parts:
            return self.chunks[0].slice(0, 0)
        values = np.concatenate([part.values for part in parts])
        ascending = Ragged.of_lengths(values, np.concatenate([part.lengths for part in parts]))
        return ascending.take(np.argsort(order))

    def with_rows(self, rows: Rows, content: Ragged) -> Self:
        """Return a copy with ``content`` in these rows, see :meth:`~model_store.catalogue.ragged.Ragged.with_rows`."""
        if not len(rows):
            return self

        chunks = list(self.chunks)
        for run in _runs(rows, self.bits):
            if run.chunk == len(chunks):
                chunks.append(Ragged(content.values[:0], np.zeros(1, dtype=np.uint32)))
            chunks[run.chunk] = chunks[run.chunk].with_rows(run.rows, content.slice(run.start, run.end))
        return type(self)(tuple(chunks), None, self.bits)

    def astype(self, dtype: type[np.generic]) -> Self:
        """Return the column with values of another type; the same object if they have it already."""
        if all(chunk.values.dtype == dtype for chunk in self.chunks):
            return self
        return type(self).of(Ragged(self.flat().values.astype(dtype), self.flat().offsets), self.bits)


@dataclass(frozen=True, eq=False)
class ChunkedNumbers:
    """An immutable column of numbers. Every chunk but the last is full."""

    chunks: tuple[npt.NDArray[np.float64], ...]
    bits: int = CHUNK_BITS

    @classmethod
    def of(cls, numbers: npt.NDArray[np.float64], bits: int = CHUNK_BITS) -> Self:
        """Cut a column into chunks, without copying anything."""
        starts = range(0, max(1, len(numbers)), 1 << bits)
        return cls(tuple(numbers[start : start + (1 << bits)] for start in starts), bits)

    def flat(self) -> npt.NDArray[np.float64]:
        """Return the column as one array; a copy unless it is a single chunk."""
        return self.chunks[0] if len(self.chunks) == 1 else np.concatenate(self.chunks)

    def with_rows(self, rows: Rows, numbers: npt.NDArray[np.float64]) -> Self:
        """Return a copy with other numbers in these rows.

        Args:
            rows: Ascending; new rows follow the last row without a gap.
            numbers: One for each.
        """
        chunks = list(self.chunks)
        for run in _runs(rows, self.bits):
            if run.chunk == len(chunks):
                chunks.append(np.empty(0))
            chunk = chunks[run.chunk]
            longer = np.empty(max(len(chunk), int(run.rows[-1]) + 1))
            longer[: len(chunk)] = chunk
            longer[run.rows] = numbers[run.start : run.end]
            chunks[run.chunk] = longer
        return type(self)(tuple(chunks), self.bits)


class _Run(NamedTuple):
    """Neighbouring entries of a list of rows that belong to one chunk."""

    chunk: int
    rows: Rows  # numbered within the chunk
    start: int  # entries of the list
    end: int


def _runs(rows: npt.NDArray[np.integer[Any]], bits: int) -> Iterator[_Run]:
    """Yield the runs of ascending rows, chunk by chunk."""
    chunk_of = rows >> bits
    starts = np.flatnonzero(np.diff(chunk_of, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(rows)]):
        chunk = int(chunk_of[start])
        yield _Run(chunk, (rows[start:end] - (chunk << bits)).astype(np.int64), start, end)
