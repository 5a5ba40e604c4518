"""The embedded event log on disk: append-only segments that the service writes and retraining drains.

    events/
        .lock                        held by the one process that writes
        00000000000000000007.log     a segment; the highest number is the one being written
        00000000000000000006.state   everything that segments up to 6 amount to: histories, recorded event ids, changes
        drained.json                 how far retraining has drained

Segments and states are lines of ``<CRC-32, 8 hex digits> <JSON>\\n``. A writer never reopens a segment: each start
begins the next one, so a line that a crash tore can only be the last of its segment. A segment may be deleted
once it is drained *and* covered by a state, since histories are rebuilt from state and later segments.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from model_store.durable_files import sync_folder, write_durably
from model_store.errors import LockHeld, StoreUnavailable
from model_store.events.event import Event, Id

SEGMENT_BYTES = 16 * 1024 * 1024
"""Size from which on a segment is closed and the next one begun."""
CURSOR_NAME = "drained.json"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventLine(_Line):
    """An event, with the second at which it was recorded (service clock)."""

    kind: Literal["event"] = "event"
    recorded_at: int
    event: Event


class ForgetLine(_Line):
    """A user's history was dropped."""

    kind: Literal["forget"] = "forget"
    user_id: Id


class ChangeLine(_Line):
    """A catalogue change as raw input; ``payload`` is the JSON of what the client sent."""

    kind: Literal["change"] = "change"
    revision: int = Field(ge=1)
    item_id: Id
    change: Literal["put", "delete", "restart"]
    payload: str


class ItemLine(_Line):
    """State only: the latest change of an item, and the revision at which the item changed first."""

    kind: Literal["item"] = "item"
    first: int = Field(ge=1)
    revision: int = Field(ge=1)
    item_id: Id
    change: Literal["put", "delete", "restart"]
    payload: str


class HistoryLine(_Line):
    """State only: the history of one user, oldest first, and the Unix time of the newest event if it is known."""

    kind: Literal["history"] = "history"
    user_id: Id
    item_ids: tuple[Id, ...]
    newest: int | None = None


class CountLine(_Line):
    """State only: how often events named an item, fading; ``score`` as in :mod:`service.store.decayed_counts`."""

    kind: Literal["count"] = "count"
    item_id: Id
    half_life_s: int = Field(ge=1)
    score: float = Field(allow_inf_nan=False)


class SeenLine(_Line):
    """An event id that was recorded: in a state, and in a segment where the event itself was erased."""

    kind: Literal["seen"] = "seen"
    event_id: Id
    recorded_at: int


LogLine = EventLine | ForgetLine | ChangeLine | ItemLine | HistoryLine | CountLine | SeenLine
_LINE: TypeAdapter[LogLine] = TypeAdapter(Annotated[LogLine, Field(discriminator="kind")])


class Cursor(BaseModel):
    """Everything before this place has been drained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segment: int = Field(0, ge=0)
    offset: int = Field(0, ge=0, description="bytes of that segment")


@dataclass
class SegmentContent:
    """What a segment holds from some offset on.

    Attributes:
        lines: Those that decode.
        rejected: Complete lines that fail checksum or schema, as found.
        end: Offset behind the last complete line; whatever follows is torn, or still being written.
    """

    lines: list[LogLine] = field(default_factory=list)
    rejected: list[bytes] = field(default_factory=list)
    end: int = 0


def encode_line(line: LogLine, length: int = 0) -> bytes:
    """One line with its checksum, filled up with blanks to ``length`` bytes."""
    text = line.model_dump_json().encode()
    text = text.ljust(length - len(b"00000000 \n"))
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_lines(path: Path, offset: int = 0) -> SegmentContent:
    """Read a segment or state from ``offset``, which must be the start of a line. No file reads as empty."""
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
    """What :func:`encode_line` wrote, without the line feed; ``None`` if checksum or schema fail."""
    checksum, _, text = raw.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        return _LINE.validate_json(text)
    except ValidationError:
        return None  # counted by the caller among the rejected


def segment_path(folder: Path, number: int) -> Path:
    """File of a segment."""
    return folder / f"{number:020d}.log"


def state_path(folder: Path, number: int) -> Path:
    """File of the state that covers segments up to ``number``."""
    return folder / f"{number:020d}.state"


def segment_numbers(folder: Path) -> list[int]:
    """Segments present, ascending; only the last can still grow."""
    return sorted(int(path.stem) for path in folder.glob("*.log") if path.stem.isdecimal())


def newest_state(folder: Path) -> int:
    """Number of the newest state, 0 if there is none."""
    return max((int(path.stem) for path in folder.glob("*.state") if path.stem.isdecimal()), default=0)


def read_cursor(folder: Path) -> Cursor:
    """How far the log is drained. An unreadable cursor starts over: drained events are unique by id when read."""
    try:
        return Cursor.model_validate_json((folder / CURSOR_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return Cursor()


def write_cursor(folder: Path, cursor: Cursor) -> None:
    """Move the cursor, atomically and durably."""
    write_durably(folder / CURSOR_NAME, cursor.model_dump_json().encode())


class LogWriter:
    """The one writer of an event log. Not thread-safe: one call at a time.

    Raises:
        LockHeld: Another process writes this log.
        StoreUnavailable: The folder cannot be written.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._file: int | None = None
        self._size = 0  # bytes that are on disk for sure
        self._is_torn = False  # whether more may be there
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # thread_local=False: appends run in worker threads, the lock belongs to the process
            self._lock = FileLock(folder / ".lock", thread_local=False)
            self._lock.acquire(timeout=0)
        except Timeout as cause:
            raise LockHeld(
                f"another process writes the event log in {folder.name}/",
                "stop it, or set ETEGREC_REDIS_URL so that several processes can serve",
            ) from cause
        except OSError as cause:
            raise unwritable(cause) from cause
        self.segment = max([*segment_numbers(folder), newest_state(folder), read_cursor(folder).segment])

    @property
    def is_full(self) -> bool:
        """Whether the current segment should be closed."""
        return self._size >= self._segment_bytes

    def append(self, lines: Iterable[LogLine]) -> None:
        """Append and fsync. Blocks.

        Raises:
            StoreUnavailable: The disk refused. What was written is taken back before anything else is appended.
        """
        data = b"".join(map(encode_line, lines))
        try:
            if self._is_torn:
                self._take_back()
            descriptor = self._open() if self._file is None else self._file
            self._is_torn = True
            _write_all(descriptor, data)
            self.sync(descriptor)
            self._is_torn = False
        except OSError as cause:
            raise unwritable(cause) from cause
        self._size += len(data)

    def sync(self, descriptor: int) -> None:
        """Make a segment's bytes durable. Its own method, so that a test can be a disk that fails."""
        os.fsync(descriptor)

    def save_state(self, lines: Iterable[LogLine]) -> None:
        """Close the current segment and store what all segments so far amount to. Blocks."""
        try:
            if self._is_torn:
                self._take_back()
            self.close_segment()
            write_durably(state_path(self.folder, self.segment), b"".join(map(encode_line, lines)))
            for path in self.folder.glob("*.state"):
                if path != state_path(self.folder, self.segment):
                    path.unlink(missing_ok=True)
        except OSError as cause:
            raise unwritable(cause) from cause

    def close_segment(self) -> None:
        """The next append begins a new segment."""
        if self._file is not None:
            os.close(self._file)
            self._file, self._size = None, 0

    def close(self) -> None:
        """Close the log and let another process write it."""
        self.close_segment()
        self._lock.release()

    def _take_back(self) -> None:
        # a caller was told that its lines failed: a restart must not find them, nor a later line share their revision
        if self._file is not None:
            os.ftruncate(self._file, self._size)
            self.sync(self._file)
        self._is_torn = False
        self.close_segment()  # after a failed fsync the page cache may lie about this file: never write to it again

    def _open(self) -> int:
        path = segment_path(self.folder, self.segment + 1)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        self._file = descriptor
        self.segment += 1
        sync_folder(self.folder)
        return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def unwritable(cause: OSError) -> StoreUnavailable:
    """What a refusing disk means for whoever wanted to record."""
    return StoreUnavailable(
        f"the event log cannot be written: {cause.strerror}", "free disk space, or check the rights on ETEGREC_STORE"
    )
