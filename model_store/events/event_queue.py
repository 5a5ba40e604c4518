"""The backlog of the embedded event log: counting the events that training has not drained, erasing a user's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from model_store.durable_files import write_durably
from model_store.events.event_log import (
    EventLine,
    SeenLine,
    decode_line,
    encode_line,
    read_cursor,
    segment_numbers,
    segment_path,
)

_EVENT = re.compile(rb'{"kind":"event","recorded_at":(\d+),')


class EventBacklog(NamedTuple):
    """The recorded events that training has not drained yet."""

    events: int
    oldest: float | None  # Unix seconds at which the first of them was recorded


class _SegmentCount(NamedTuple):
    """The events of one segment, as counted at some time."""

    fingerprint: tuple[int, ...]  # differs if the segment changed, also by the erasure of lines
    events: int
    oldest: int | None


class BacklogCounter:
    """A counter of the events that wait in a log; it keeps the counts of segments that no longer change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: dict[int, _SegmentCount] = {}

    def count(self) -> EventBacklog:
        """Count the waiting events. Blocks: reads what changed since the last call, and everything the first time."""
        cursor = read_cursor(self._folder)
        counts: dict[int, _SegmentCount] = {}
        for number in segment_numbers(self._folder):
            if number >= cursor.segment:
                counts[number] = self._count_segment(number, cursor.offset if number == cursor.segment else 0)
        self._counts = counts

        oldest = [count.oldest for count in counts.values() if count.oldest is not None]
        return EventBacklog(sum(count.events for count in counts.values()), oldest[0] if oldest else None)

    def _count_segment(self, number: int, offset: int) -> _SegmentCount:
        path = segment_path(self._folder, number)
        known = self._counts.get(number)
        try:
            stat = path.stat()
            fingerprint = (offset, stat.st_size, stat.st_mtime_ns, stat.st_ino)
            if known is not None and known.fingerprint == fingerprint:
                return known
            data = path.read_bytes()
        except FileNotFoundError:  # drained and deleted meanwhile
            return _SegmentCount((), 0, None)

        seconds = [int(match[1]) for match in _EVENT.finditer(data, offset)]
        return _SegmentCount(fingerprint, len(seconds), seconds[0] if seconds else None)


def erase_user(folder: Path, user_id: str, through: int) -> int:
    """Overwrite a user's events in the closed segments up to ``through``, and return their number. Blocks.

    The ids of the events stay recorded, so that a client that repeats an event does not bring it back. Lines keep their
    length, because a drain may have stopped in the middle of a segment. Files are replaced as a whole, so that a crash
    or a concurrent drain sees the old or the new file.

    Raises:
        OSError: A segment cannot be replaced; another call continues.
    """
    erased = 0
    for number in segment_numbers(folder):
        if number <= through:
            erased += _erase_from_segment(segment_path(folder, number), user_id)
    return erased


def _erase_from_segment(path: Path, user_id: str) -> int:
    try:
        old_lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0

    new_lines = [_erase_from_line(line, user_id) for line in old_lines]
    count = sum(new is not old for new, old in zip(new_lines, old_lines, strict=True))
    if count:
        write_durably(path, b"\n".join(new_lines))
    return count


def _erase_from_line(raw: bytes, user_id: str) -> bytes:
    """Return the same line, or for an event of the user a line of equal length that holds only the event's id."""
    line = decode_line(raw) if b'"kind":"event"' in raw else None
    if not isinstance(line, EventLine) or line.event.user_id != user_id:
        return raw
    seen = SeenLine(event_id=line.event.event_id, recorded_at=line.recorded_at)
    return encode_line(seen, length=len(raw) + 1)[:-1]
