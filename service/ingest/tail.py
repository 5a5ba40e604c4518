"""The tail of what was read of a file: a digest by which a later run tells whether the file still holds it."""

from __future__ import annotations

import hashlib
from typing import Any

TAIL_BYTES = 4096
"""Bytes before a position that are compared. Lines of events differ by user and time, so a few of them are enough."""


class TailReader:
    """Reader of a file's chunks that knows the last bytes before the end of each line in the newest chunk.

    Args:
        file: The file, open for reading bytes.
        offset: Where to begin.
    """

    def __init__(self, file: Any, offset: int) -> None:
        self._file = file
        self._start = max(0, offset - TAIL_BYTES)  # of the bytes that are kept
        file.seek(self._start)
        self._kept: bytes = file.read(offset - self._start)  # fewer bytes if the file is shorter: another digest
        self._last_line = (offset, self._digest(offset))  # end of the last whole line before the newest chunk
        file.seek(offset)

    def read(self, size: int) -> bytes:
        """Return the next chunk; empty at the end."""
        chunk: bytes = self._file.read(size)
        if not chunk:
            return chunk

        line_feed = self._kept.rfind(b"\n")
        end = self._start + line_feed + 1
        if line_feed >= 0 and end > self._last_line[0]:
            self._last_line = (end, self._digest(end))
        gone = max(0, len(self._kept) - TAIL_BYTES)
        self._start += gone
        self._kept = self._kept[gone:] + chunk
        return chunk

    def digest(self, offset: int) -> str:
        """Return the digest of the bytes before a position.

        Args:
            offset: Where reading began, the end of a line of the newest chunk, or of the last line before it.
        """
        end, digest = self._last_line
        return digest if offset == end else self._digest(offset)

    def _digest(self, offset: int) -> str:
        end = offset - self._start
        return hashlib.sha256(self._kept[max(0, end - TAIL_BYTES) : end]).hexdigest()[:32]
