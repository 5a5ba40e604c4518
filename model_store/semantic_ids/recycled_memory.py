"""Memory of large arrays that nobody reads any more, for the next ones.

A trie that grows by an item needs new arrays of the same size each time. To have the operating system provide fresh
memory takes several times as long as to fill it.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST = 1 << 20
"""Bytes from which on memory is recycled; smaller pieces are recycled by the allocator."""

SPARE_SHARE = 64
"""A block has a 64th more bytes than were asked for, so that it also holds the longer arrays that come later."""

MAX_FREE = 8
"""Most blocks that wait for their next use: about the arrays of two tries."""

Block = npt.NDArray[np.uint8]


class _Lease:
    """Right to use a block. Every array in it, and every view of these arrays, keeps the lease alive."""

    def __init__(self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.block = block
        self.__array_interface__ = {
            "data": (block.ctypes.data, False),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
        }


class RecycledMemory:
    """Source of arrays. The memory of an array is used again when no reference to it is left. Thread-safe."""

    def __init__(self) -> None:
        self._free: deque[Block] = deque(maxlen=MAX_FREE)

    def empty(self, length: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array ``[length]`` with arbitrary values."""
        kind = np.dtype(dtype)
        size = length * kind.itemsize
        if size < SMALLEST:
            return np.empty(length, dtype=kind)

        lease = _Lease(self._find(size), (length,), kind)
        weakref.finalize(lease, self._free.append, lease.block).atexit = False
        return np.asarray(lease)

    def _find(self, size: int) -> Block:
        """Return a block of at least ``size`` bytes and at most twice as many: a free one, or else a new one."""
        for _ in range(len(self._free)):
            try:
                block = self._free.popleft()
            except IndexError:  # another thread was faster
                break
            if size <= len(block) <= 2 * size:
                return block
            self._free.append(block)
        return np.empty(size + size // SPARE_SHARE, dtype=np.uint8)
