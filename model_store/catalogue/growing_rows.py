"""An array of rows that grows without copying the rows it has; a catalogue's columns are too large to copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MIN_SPARE_ROWS", "ROWS_PER_SPARE_ROW", "GrowingRows", "flip_rows"]

ROWS_PER_SPARE_ROW = 8
"""Rows for which one spare row is reserved: all copies on the way to n rows add up to about 9n rows."""

MIN_SPARE_ROWS = 512
"""Fewest rows that are reserved, for short arrays."""

Array = npt.NDArray[Any]


class _Buffer:
    """Memory ``[capacity, …]`` that is written once, from its beginning on; shared by all arrays that grew in it."""

    def __init__(self, memory: Array, taken: int) -> None:
        self.memory = memory
        self._taken = taken  # rows that belong to somebody
        self._lock = Lock()

    def claim(self, begin: int, end: int) -> bool:
        """Reserve rows ``begin`` to ``end`` for the caller, if they are the next free ones; return whether they are."""
        with self._lock:
            if begin != self._taken or end > len(self.memory):
                return False
            self._taken = end
            return True


class GrowingRows:
    """An immutable array ``[n, …]`` that longer arrays are made of; they share its memory while it has spare rows.

    If several arrays grow from the same one, the first gets its spare rows and the others copy. Thread-safe.

    Args:
        rows: Kept as they are and never written; the first growth copies them to a buffer with spare rows.
    """

    def __init__(self, rows: Array, buffer: _Buffer | None = None) -> None:
        self.rows = rows
        self._buffer = buffer or _Buffer(rows, len(rows))

    @classmethod
    def written(
        cls, length: int, shape: tuple[int, ...], dtype: npt.DTypeLike, write: Callable[[Array], None]
    ) -> GrowingRows:
        """Return ``length`` rows ``[length, *shape]`` that ``write`` writes in place, with spare rows after them."""
        memory = _room(length, shape, dtype)
        write(memory[:length])
        return _view(_Buffer(memory, length), length)

    def with_room(self) -> GrowingRows:
        """Return the same rows with spare rows after them: makes the copy now that the first growth would make."""
        if len(self._buffer.memory) > len(self.rows):
            return self
        length = len(self.rows)
        return _view(_Buffer(self._copy_with_room(length), length), length)

    def with_rows(self, new: Array) -> GrowingRows:
        """Return these rows followed by new ones ``[m, …]``, as a read-only view; this array stays as it is."""
        if not len(new):
            return self
        begin = len(self.rows)
        end = begin + len(new)
        buffer = self._buffer
        if not buffer.claim(begin, end):
            buffer = _Buffer(self._copy_with_room(end), end)
        buffer.memory[begin:end] = new
        return _view(buffer, end)

    def _copy_with_room(self, length: int) -> Array:
        """Copy these rows into new memory for ``length`` rows and spare ones."""
        memory = _room(length, self.rows.shape[1:], self.rows.dtype)
        memory[: len(self.rows)] = self.rows
        return memory


def flip_rows(flags: GrowingRows, rows: Sequence[int]) -> GrowingRows:
    """Return flags ``[items]`` that are the opposite in these rows."""
    if not rows:
        return flags

    copy = flags.rows.copy()
    copy[rows] = ~copy[rows]
    return GrowingRows(copy)


def _room(length: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Return memory for ``length`` rows and spare ones.

    The operating system provides the memory of a spare row only when it is written.
    """
    capacity = length + max(length // ROWS_PER_SPARE_ROW, MIN_SPARE_ROWS)
    return np.empty((capacity, *shape), dtype=dtype)


def _view(buffer: _Buffer, length: int) -> GrowingRows:
    """Return the first rows of a buffer, read-only."""
    rows = buffer.memory[:length]
    rows.flags.writeable = False
    return GrowingRows(rows, buffer)
