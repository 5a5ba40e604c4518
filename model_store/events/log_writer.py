"""The only writer of an event log: it appends to segments, saves states, and lives with a disk that is full."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from pathlib import Path

from filelock import FileLock, Timeout

from model_store.durable_files import sync_folder, write_all, write_durably
from model_store.errors import LockHeld, StoreReadOnly
from model_store.events.disk_reserve import (
    PROBE_BYTES,
    RESERVE_BYTES,
    STARTS_READ_ONLY,
    DiskReserve,
    disk_error,
    probe_disk,
)
from model_store.events.event_log import (
    CURSOR_NAME,
    LogLine,
    encode_line,
    newest_state,
    read_cursor,
    segment_numbers,
    segment_path,
    state_path,
)

SEGMENT_BYTES = 16 * 1024 * 1024
"""Size at which a segment is closed and the next one begins."""


class LogWriter:
    """The only writer of an event log. Not thread-safe: one call at a time.

    It starts on a full or read-only disk, too, so that what is stored can be read. Once the disk has refused lines,
    only deletions are tried, in the space reserved for them, until :meth:`probe` finds that the disk takes writes.

    Attributes:
        refusal: The reason why nothing but deletions is written now; ``None`` while everything is.

    Raises:
        LockHeld: Another process writes this log.
        StoreReadOnly: The folder cannot be used at all.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.folder = folder
        self.refusal: StoreReadOnly | None = None
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self._reserve = DiskReserve(folder, reserve_bytes)
        self._file: int | None = None
        self._size = 0  # bytes of the segment that are certainly on disk
        self._is_torn = False  # whether the segment may hold more bytes than that
        self._has_written = False  # since the last probe
        self._has_room = False  # whether a probe has found more than a few bytes, since the start or a refusal

        # Appends run in worker threads, so the lock must belong to the process, not to a thread.
        self._lock = FileLock(folder / ".lock", thread_local=False)
        try:
            self._take_lock()
            self._remove_leftovers()
            self._reserve.fill()
        except OSError as cause:
            if cause.errno not in STARTS_READ_ONLY:
                raise disk_error(cause) from cause
            self.refusal = disk_error(cause)

        self._found = self._newest_files()
        self.segment = max([*segment_numbers(folder), newest_state(folder), read_cursor(folder).segment])

    @property
    def is_full(self) -> bool:
        """True if the current segment should be closed."""
        return self._size >= self._segment_bytes

    def probe(self) -> None:
        """Find out whether the disk takes writes, unless an append has just shown it. Blocks.

        At first and after a refusal there must be room for the whole reserve and as much again: otherwise the disk
        would be full again at once.

        Raises:
            StoreReadOnly: It takes none.
        """
        has_written = self._has_written
        self._has_written = False
        if self._has_room and has_written:
            return

        try:
            self._retake_lock()
            self._reserve.fill()
            probe_disk(self.folder, PROBE_BYTES if self._has_room else self._reserve_bytes)
        except OSError as cause:
            raise self._refuse(cause) from cause
        self.refusal = None
        self._has_room = True

    def append(self, lines: Iterable[LogLine]) -> None:
        """Append lines and fsync. Blocks.

        Raises:
            StoreReadOnly: The disk refused. The written part is removed before anything else is appended.
        """
        if self.refusal is not None:
            raise copy(self.refusal)  # the same object would collect a traceback with every raise
        try:
            self._append(lines)
        except OSError as cause:
            raise self._refuse(cause) from cause
        self._has_written = True

    def append_deletions(self, lines: Iterable[LogLine]) -> None:
        """Append lines that take data away, on a full disk in the space that is reserved for them. Blocks.

        Raises:
            StoreReadOnly: The disk takes no writes at all.
        """
        try:
            self._retake_lock()
            self._reserve.release()
            self._append(lines)
        except OSError as cause:
            raise self._refuse(cause) from cause
        finally:
            if self._lock.is_locked:
                with suppress(OSError):  # what fits is kept for the next deletion; the probe fills up the rest
                    self._reserve.fill()

    def sync(self, descriptor: int) -> None:
        """Make the bytes of a segment durable. A separate method, so that a test can let the disk fail."""
        os.fsync(descriptor)

    def save_state(self, lines: Iterable[LogLine]) -> None:
        """Close the current segment and save the state that all segments so far result in. Blocks.

        Raises:
            StoreReadOnly: The disk refused. The old state and all segments after it stay valid.
        """
        if self.refusal is not None and not self._lock.is_locked:
            raise copy(self.refusal)

        newest = state_path(self.folder, self.segment)
        try:
            if self._is_torn:
                self._remove_torn()
            self.close_segment()

            write_durably(newest, b"".join(map(encode_line, lines)))
            for path in self.folder.glob("*.state"):
                if path != newest:
                    path.unlink(missing_ok=True)
        except OSError as cause:
            raise disk_error(cause) from cause

    def close_segment(self) -> None:
        """Close the current segment; the next append begins a new one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._size = 0

    def close(self) -> None:
        """Close the log and let another process write it."""
        self.close_segment()
        self._lock.release()

    def _refuse(self, cause: OSError) -> StoreReadOnly:
        """Remember that the disk refused, and return the error for it."""
        self.refusal = disk_error(cause)
        self._has_room = False
        if self._is_torn:
            with suppress(OSError):  # tried again before the next lines; but a start before that should not find these
                self._remove_torn()
        return copy(self.refusal)

    def _append(self, lines: Iterable[LogLine]) -> None:
        data = b"".join(map(encode_line, lines))
        if self._is_torn:
            self._remove_torn()
        descriptor = self._open() if self._file is None else self._file

        self._is_torn = True
        write_all(descriptor, data)
        self.sync(descriptor)
        self._is_torn = False
        self._size += len(data)

    def _take_lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as cause:
            raise LockHeld(
                f"another process writes the event log in {self.folder.name}/",
                "stop it, or set ETEGREC_REDIS_URL so that several processes can serve",
            ) from cause

    def _retake_lock(self) -> None:
        """Take the lock if the disk refused it at the start. Nobody may have written the log meanwhile."""
        if self._lock.is_locked:
            return

        reason = "another process writes its log"
        try:
            self._take_lock()
        except LockHeld as cause:
            raise StoreReadOnly(str(cause), cause.hint, reason) from cause

        if self._newest_files() != self._found:
            self._lock.release()
            raise StoreReadOnly(
                f"another process has written the event log in {self.folder.name}/", "restart this one", reason
            )

    def _newest_files(self) -> tuple[int, ...]:
        return newest_state(self.folder), *segment_numbers(self.folder)

    def _remove_leftovers(self) -> None:
        """Remove what a killed process had half written; a drain that runs now may be writing its cursor."""
        for path in self.folder.glob(".*.tmp"):
            if path.name != f".{CURSOR_NAME}.tmp":
                path.unlink(missing_ok=True)

    def _remove_torn(self) -> None:
        """Remove the bytes of a failed append, and close the segment.

        The caller was told that its lines failed: a restart must not find them, and a later line may have their
        revision. After a failed fsync the page cache may be wrong about this file, so it is never written again.
        """
        if self._file is not None:
            os.ftruncate(self._file, self._size)
            self.sync(self._file)
        self._is_torn = False
        self.close_segment()

    def _open(self) -> int:
        """Create the next segment and return its file descriptor."""
        path = segment_path(self.folder, self.segment + 1)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        self._file = descriptor
        self.segment += 1
        sync_folder(self.folder)
        return descriptor
