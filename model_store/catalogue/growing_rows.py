"""Rows that are appended to without copying those that are there: a catalogue's vectors are too many for that."""

from __future__ import annotations

from threading import Lock

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_SPARE_ROWS", "SPARE_SHARE", "GrowingRows"]

SPARE_SHARE = 8
"""One spare row for so many rows that are there: all copies on the way to n rows add up to some 9n."""

LEAST_SPARE_ROWS = 512
"""Spare rows of short arrays."""

Array = npt.NDArray[np.float32]


class _Buffer:
    """Memory ``[capacity, d]`` that is written once, from its beginning on; shared by all that grew in it."""

    def __init__(self, memory: Array, taken: int) -> None:
        self.memory, self._taken, self._lock = memory, taken, Lock()

    def claim(self, begin: int, end: int) -> bool:
        """Whether rows ``begin`` to ``end`` are the caller's to write: they were free and nothing else follows."""
        with self._lock:
            if begin != self._taken or end > len(self.memory):
                return False
            self._taken = end
            return True


class GrowingRows:
    """An immutable array ``[n, d]`` that makes longer ones; they share its memory where there are spare rows.

    Of several that grow from the same one, the first gets its spare rows and the others copy. Safe in any thread.

    Args:
        rows: Kept as they are and never written; the first growth copies them to where there is room.
    """

    def __init__(self, rows: Array, buffer: _Buffer | None = None) -> None:
        self.rows, self._buffer = rows, buffer or _Buffer(rows, len(rows))

    def with_room(self) -> GrowingRows:
        """The same rows where some are spare: the copy that the first growth would make, made now."""
        if len(self._buffer.memory) > len(self.rows):
            return self
        return self._moved(_Buffer(self._copied(len(self.rows)), len(self.rows)), len(self.rows))

    def with_rows(self, new: Array) -> GrowingRows:
        """These rows and after them the new ones ``[m, d]``, as a read-only view; this one stays as it is."""
        begin, end = len(self.rows), len(self.rows) + len(new)
        buffer = self._buffer
        if not buffer.claim(begin, end):
            buffer = _Buffer(self._copied(end), end)
        buffer.memory[begin:end] = new
        return self._moved(buffer, end)

    def _moved(self, buffer: _Buffer, length: int) -> GrowingRows:
        rows = buffer.memory[:length]
        rows.flags.writeable = False
        return GrowingRows(rows, buffer)

    def _copied(self, length: int) -> Array:
        """These rows in new memory with room for ``length`` rows and spare ones, which take no memory until written."""
        capacity = length + max(length // SPARE_SHARE, LEAST_SPARE_ROWS)
        memory = np.empty((capacity, *self.rows.shape[1:]), dtype=self.rows.dtype)
        memory[: len(self.rows)] = self.rows
        return memory
