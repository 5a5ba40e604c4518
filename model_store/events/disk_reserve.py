"""Disk space for deletions: a file that the event log gives up when the disk is full, and the probe of a disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from model_store.durable_files import sync_folder, write_all
from model_store.errors import StoreReadOnly

RESERVE_BYTES = 1024 * 1024
"""Size of the reserve: thousands of deletions, each a line of some hundred bytes."""

PROBE_BYTES = 4096
"""Bytes that a probe writes: one block of most file systems."""

STARTS_READ_ONLY = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors with which a log can be read at least; others, such as missing rights, are mistakes to be told at once."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NAME = "reserve"
_PROBE_NAME = "probe"


class DiskReserve:
    """Space that this folder keeps for deletions. Not thread-safe: one call at a time."""

    def __init__(self, folder: Path, size: int = RESERVE_BYTES) -> None:
        self._folder = folder
        self._path = folder / _NAME
        self._size = size

    def fill(self) -> None:
        """Bring the reserve to its full size. If the disk is full, what fits is kept.

        Random bytes, because file systems that compress would keep no space for zeros.

        Raises:
            OSError: The reserve is smaller than it should be.
        """
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            missing = self._size - os.fstat(descriptor).st_size
            if missing > 0:
                write_all(descriptor, os.urandom(missing))
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Give the space back to the disk. Some file systems free it only once the folder is synced."""
        self._path.unlink(missing_ok=True)
        sync_folder(self._folder)


def probe_disk(folder: Path, size: int = PROBE_BYTES) -> None:
    """Write new bytes durably, and remove them again: space that is taken already would take a write on a full disk.

    Raises:
        OSError: The disk refused.
    """
    descriptor = os.open(folder / _PROBE_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    try:
        write_all(descriptor, os.urandom(size))
        os.fsync(descriptor)
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def is_disk_full(cause: OSError) -> bool:
    """Tell whether a disk refused because it has no space left for us."""
    return cause.errno in _FULL


def disk_error(cause: OSError) -> StoreReadOnly:
    """Return the error for a disk that refuses to record events."""
    return StoreReadOnly(
        f"the event log cannot be written: {cause.strerror}",
        "free disk space, or check the rights on ETEGREC_STORE",
        "its disk is full" if is_disk_full(cause) else "its disk refuses writes",
    )
