"""Lines of a stream of bytes: their numbers, where they end, and a bound on the longest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Three bytes that some programs of Windows put in front of UTF-8."""


class Line(NamedTuple):
    """One line without its line feed. Of a line that is too long, ``raw`` is the beginning."""

    number: int  # from 1
    raw: bytes
    end: int  # offset of the next line, in bytes
    is_too_long: bool = False

    @property
    def has_content(self) -> bool:
        """Return whether something stands there."""
        return bool(self.raw.strip())


class LineSplitter:
    """Splitter that keeps at most one line in memory, and no more of it than is allowed.

    A byte order mark in front of the first line is left out.

    Args:
        max_bytes: Longest line.
        number: Lines before the first chunk.
        offset: Bytes before the first chunk.
    """

    def __init__(self, max_bytes: int, number: int = 0, offset: int = 0) -> None:
        self._max_bytes = max_bytes
        self._number = number
        self._end = offset
        self._kept = b""
        self._length = 0  # of the line that has begun; more than is kept if it is too long

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that end in a chunk."""
        *ended, begun = chunk.split(b"\n")
        for piece in ended:
            self._add(piece)
            yield self._take(line_feed=1)
        self._add(begun)

    def rest(self) -> Line | None:
        """Return what stands behind the last line feed; ``None`` if nothing does."""
        return self._take(line_feed=0) if self._length else None

    def _add(self, piece: bytes) -> None:
        self._length += len(piece)
        if len(self._kept) <= self._max_bytes:
            self._kept += piece[: self._max_bytes + 1]

    def _take(self, line_feed: int) -> Line:
        self._number += 1
        self._end += self._length + line_feed
        is_too_long = self._length > self._max_bytes
        raw = self._kept[: self._max_bytes]
        if self._number == 1:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        line = Line(self._number, raw, self._end, is_too_long)
        self._kept = b""
        self._length = 0
        return line
