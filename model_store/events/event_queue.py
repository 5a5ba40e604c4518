"""The part of the embedded event log that training has not drained: how much waits, and erasing a user from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from model_store.durable_files import write_durably
from model_store.events.event_log import EventLine, SeenLine, decode_line, encode_line, read_cursor, segment_numbers
from model_store.events.event_log import segment_path as path_of

_EVENT = re.compile(rb'{"kind":"event","recorded_at":(\d+),')


class _Content(NamedTuple):
    of: tuple[int, ...]  # what tells a segment that changed, erased lines included, from one that did not
    events: int
    oldest: int | None


class EventBacklog(NamedTuple):
    """Recorded events that training has not drained yet."""

    events: int
    oldest: float | None  # Unix seconds at which the first of them was recorded


class Backlog:
    """Counts the waiting events of a log; remembers what it read of segments that do not change any more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[int, _Content] = {}

    def waiting(self) -> EventBacklog:
        """Count now. Blocks: it reads what changed since the last call, and everything the first time."""
        cursor = read_cursor(self._folder)
        numbers = [number for number in segment_numbers(self._folder) if number >= cursor.segment]
        offsets = {number: cursor.offset if number == cursor.segment else 0 for number in numbers}
        self._known = {number: self._read(number, offset) for number, offset in offsets.items()}
        oldest = [content.oldest for content in self._known.values() if content.oldest is not None]
        return EventBacklog(sum(content.events for content in self._known.values()), oldest[0] if oldest else None)

    def _read(self, number: int, offset: int) -> _Content:
        path, known = path_of(self._folder, number), self._known.get(number)
        try:
            stat = path.stat()
            of = (offset, stat.st_size, stat.st_mtime_ns, stat.st_ino)
            if known is not None and known.of == of:
                return known
            data = path.read_bytes()
        except FileNotFoundError:  # drained and deleted meanwhile
            return _Content((), 0, None)
        seconds = [int(match[1]) for match in _EVENT.finditer(data, offset)]
        return _Content(of, len(seconds), seconds[0] if seconds else None)


def erase_user(folder: Path, user_id: str, through: int) -> int:
    """Overwrite a user's events in the closed segments up to ``through``; returns how many. Blocks.

    What stays is that their ids were recorded, so that a client that repeats them does not bring them back. Lines keep
    their length, because a drain may stand in the middle of a segment; files are replaced as a whole, so that a crash
    or a concurrent drain sees the old or the new one.

    Raises:
        OSError: A segment cannot be replaced; calling again goes on.
    """
    erased = 0
    for number in segment_numbers(folder):
        if number <= through:
            erased += _erase_from(path_of(folder, number), user_id)
    return erased


def _erase_from(path: Path, user_id: str) -> int:
    try:
        raw = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    kept = [_erased(each, user_id) for each in raw]
    count = sum(new is not old for new, old in zip(kept, raw, strict=True))
    if count:
        write_durably(path, b"\n".join(kept))
    return count


def _erased(raw: bytes, user_id: str) -> bytes:
    """The same line, or where it is an event of the user, one as long that only holds the event's id."""
    line = decode_line(raw) if b'"kind":"event"' in raw else None
    if not isinstance(line, EventLine) or line.event.user_id != user_id:
        return raw
    seen = SeenLine(event_id=line.event.event_id, recorded_at=line.recorded_at)
    return encode_line(seen, length=len(raw) + 1)[:-1]
