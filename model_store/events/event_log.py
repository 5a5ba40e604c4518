"""The embedded event log on disk: append-only segments that the service writes and retraining drains.

    events/
        .lock                        held by the one process that writes
        00000000000000000007.log     a segment; the highest number is the one being written
        00000000000000000006.state   the result of all segments up to 6: histories, recorded event ids, changes
        drained.json                 the place up to which retraining has drained
        reserve                      disk space for deletions, see :mod:`model_store.events.disk_reserve`
        probe                        empty; written to see whether the disk takes writes

Segments and states consist of lines ``<CRC-32, 8 hex digits> <JSON>\\n``. A writer never reopens a segment: each start
begins the next one, so only the last line of a segment can be torn by a crash. A segment may be deleted once it is
drained *and* covered by a state, because histories are rebuilt from the state and later segments.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from model_store.durable_files import sync_folder, write_all, write_durably
from model_store.errors import LockHeld, StoreReadOnly
from model_store.events.disk_reserve import PROBE_BYTES, RESERVE_BYTES, DiskReserve, probe_disk
from model_store.events.event import Event, Id

SEGMENT_BYTES = 16 * 1024 * 1024
"""Size at which a segment is closed and the next one begins."""

CURSOR_NAME = "drained.json"

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_STARTS_READ_ONLY = _FULL | {errno.EROFS}  # other errors, such as missing rights, are mistakes to be told at once


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventLine(_Line):
    """An event, with the second at which it was recorded (clock of the service)."""

    kind: Literal["event"] = "event"
    recorded_at: int
    event: Event


class ForgetLine(_Line):
    """The deletion of a user's history."""

    kind: Literal["forget"] = "forget"
    user_id: Id


class ChangeLine(_Line):
    """A catalogue change as raw input; ``payload`` is the JSON that the client sent."""

    kind: Literal["change"] = "change"
    revision: int = Field(ge=1)
    item_id: Id
    change: Literal["put", "delete", "restart"]
    payload: str


class ItemLine(_Line):
    """The latest change of an item, and the revision of its first change; in states only."""

    kind: Literal["item"] = "item"
    first: int = Field(ge=1)
    revision: int = Field(ge=1)
    item_id: Id
    change: Literal["put", "delete", "restart"]
    payload: str


class HistoryLine(_Line):
    """The history of one user, oldest first; in states only.

    ``newest`` is the newest timestamp of the user's events, ``recorded_at`` the Unix time at which the last one came.
    The latter is kept only where idle users expire.
    """

    kind: Literal["history"] = "history"
    user_id: Id
    item_ids: tuple[Id, ...]
    newest: int | None = None
    recorded_at: int | None = None


class CountLine(_Line):
    """The decayed count of events of an item; in states only. See :mod:`service.store.decayed_counts` for ``score``."""

    kind: Literal["count"] = "count"
    item_id: Id
    half_life_s: int = Field(ge=1)
    score: float = Field(allow_inf_nan=False)


class SeenLine(_Line):
    """The id of a recorded event; in states, and in a segment where the event itself was erased."""

    kind: Literal["seen"] = "seen"
    event_id: Id
    recorded_at: int


class ErasedLine(_Line):
    """Nothing: the place of a user's history in a state that could not be written anew, because the disk was full."""

    kind: Literal["erased"] = "erased"


LogLine = EventLine | ForgetLine | ChangeLine | ItemLine | HistoryLine | CountLine | SeenLine | ErasedLine
_LINE: TypeAdapter[LogLine] = TypeAdapter(Annotated[LogLine, Field(discriminator="kind")])


class Cursor(BaseModel):
    """The place in the log up to which everything has been drained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segment: int = Field(0, ge=0, description="number of the segment")
    offset: int = Field(0, ge=0, description="offset in that segment, in bytes")


@dataclass
class SegmentContent:
    """The content of a segment from some offset on.

    Attributes:
        lines: Lines that decode.
        rejected: Complete lines that fail checksum or schema, as found.
        end: Offset just past the last complete line; the rest is torn, or still being written.
    """

    lines: list[LogLine] = field(default_factory=list)
    rejected: list[bytes] = field(default_factory=list)
    end: int = 0


def encode_line(line: LogLine, length: int = 0) -> bytes:
    """Encode one line with its checksum, filled up with blanks to ``length`` bytes."""
    text = line.model_dump_json(exclude_none=True).encode()
    text = text.ljust(length - len(b"00000000 \n"))
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_lines(path: Path, offset: int = 0) -> SegmentContent:
    """Read a segment or state from ``offset``, which must be the start of a line. A missing file reads as empty."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return SegmentContent(end=offset)

    complete = data[: data.rfind(b"\n") + 1]
    content = SegmentContent(end=offset + len(complete))
    for raw in complete.split(b"\n")[:-1]:
        line = decode_line(raw)
        if line is None:
            content.rejected.append(raw)
        else:
            content.lines.append(line)
    return content


def decode_line(raw: bytes) -> LogLine | None:
    """Decode the output of :func:`encode_line` without its line feed; ``None`` if checksum or schema fail."""
    checksum, _, text = raw.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        return _LINE.validate_json(text)
    except ValidationError:
        return None


def segment_path(folder: Path, number: int) -> Path:
    """Return the file of a segment."""
    return folder / f"{number:020d}.log"


def state_path(folder: Path, number: int) -> Path:
    """Return the file of the state that covers segments up to ``number``."""
    return folder / f"{number:020d}.state"


def segment_numbers(folder: Path) -> list[int]:
    """Return the numbers of the existing segments, ascending; only the last one can still grow."""
    return sorted(int(path.stem) for path in folder.glob("*.log") if path.stem.isdecimal())


def newest_state(folder: Path) -> int:
    """Return the number of the newest state, 0 if there is none."""
    return max((int(path.stem) for path in folder.glob("*.state") if path.stem.isdecimal()), default=0)


def read_cursor(folder: Path) -> Cursor:
    """Read the place up to which the log is drained; an unreadable cursor starts over.

    Nothing is counted twice then, because readers of drained events remove repeated ids.
    """
    try:
        return Cursor.model_validate_json((folder / CURSOR_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return Cursor()


def write_cursor(folder: Path, cursor: Cursor) -> None:
    """Move the cursor, atomically and durably."""
    write_durably(folder / CURSOR_NAME, cursor.model_dump_json().encode())


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
            if cause.errno not in _STARTS_READ_ONLY:
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
