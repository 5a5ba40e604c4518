"""Standard input as a source: JSON lines until it ends."""

from __future__ import annotations

import os
import sys
from collections import deque
from queue import Empty, Queue
from threading import Thread

from model_store.errors import DataError
from service.ingest.lines import Line, LineSplitter
from service.ingest.source import WAIT_S, Batch, Record, Source

CHUNK = 65_536
WAITING_CHUNKS = 64

_HINT = "give it a pipe or a file, such as etegrec-ingest stdin < events.jsonl"


class StandardInput(Source):
    """Lines of a file descriptor. Nothing remembers what was read: events need an id to be repeated safely.

    Args:
        max_bytes: Longest line.
        descriptor: What is read.

    Raises:
        DataError: The process has no standard input; its number may stand for another file by now.
    """

    def __init__(self, max_bytes: int, descriptor: int = 0) -> None:
        if descriptor == 0 and sys.stdin is None:
            raise DataError("there is no standard input: it is closed", _HINT)
        self._descriptor = descriptor
        self._splitter = LineSplitter(max_bytes)
        self._chunks: Queue[bytes | OSError] = Queue(WAITING_CHUNKS)
        self._lines: deque[Line] = deque()
        self._has_ended = False
        # A read cannot be interrupted, and must not keep the process from ending.
        Thread(target=self._read_on, name="standard-input", daemon=True).start()

    def read(self, limit: int) -> Batch | None:
        """Return the lines that have come.

        Raises:
            DataError: Standard input cannot be read any more. All lines before were returned.
        """
        if not self._lines and not self._has_ended:
            self._take_chunks()
        if not self._lines and self._has_ended:
            return None
        taken = [self._lines.popleft() for _ in range(min(limit, len(self._lines)))]
        return Batch([Record(each.raw, {"line": each.number}, is_too_long=each.is_too_long) for each in taken])

    def confirm(self, batch: Batch) -> None:
        """Do nothing: what was read from a pipe is gone."""

    def keep_alive(self) -> None:
        """Do nothing: whoever writes to the pipe waits."""

    def close(self) -> None:
        """Do nothing: the descriptor belongs to the process."""

    def _take_chunks(self) -> None:
        try:
            chunk = self._chunks.get(timeout=WAIT_S)
        except Empty:
            return
        if isinstance(chunk, OSError):
            raise DataError(f"standard input cannot be read: {chunk.strerror}", _HINT) from chunk
        if chunk:
            self._lines.extend(line for line in self._splitter.feed(chunk) if line.has_content)
            return

        self._has_ended = True
        rest = self._splitter.rest()
        if rest is not None and rest.has_content:
            self._lines.append(rest)

    def _read_on(self) -> None:
        """Read until the end, or until reading fails: whoever waits for chunks is told of either."""
        while True:
            chunk: bytes | OSError
            try:
                chunk = os.read(self._descriptor, CHUNK)
            except OSError as failure:
                chunk = failure
            self._chunks.put(chunk)
            if not chunk or isinstance(chunk, OSError):
                return
