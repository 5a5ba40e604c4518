"""Random bytes for ids, taken from the system a block at a time.

Each call of the system lets other Python threads run. While an engine is busy, the caller then waits for its turn, and
pays for the change of threads, which takes far longer than the random bytes themselves.
"""

from __future__ import annotations

import os

_PIECES = 256
"""Pieces that one call of the system fills."""


class RandomBytes:
    """Source of random pieces of one length. Every piece is given out once. Thread-safe.

    Args:
        size: Length of a piece in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pieces: list[bytes] = []
        os.register_at_fork(after_in_child=self._pieces.clear)  # else parent and child would give out the same ones

    def take(self) -> bytes:
        """Return the next piece."""
        try:
            return self._pieces.pop()
        except IndexError:
            block = os.urandom(_PIECES * self._size)
            first, *others = (block[start : start + self._size] for start in range(0, len(block), self._size))
            self._pieces.extend(others)
            return first
