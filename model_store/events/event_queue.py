"""The backlog of the embedded event log: counting the events that training has not drained, dropping the oldest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from model_store.durable_files import sync_folder
from model_store.events.event_log import read_cursor, segment_numbers, segment_path

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

    def drop_oldest(self, most: int, through: int) -> int:
        """Delete the oldest segments as long as ``most`` events still wait, and return how many events went. Blocks.

        Args:
            most: Number of waiting events that stay at least; a whole segment more may stay.
            through: Newest segment that a state covers. Later ones are needed at the next start.

        Raises:
            OSError: A segment cannot be deleted.
        """
        waiting = self.count().events
        dropped = 0
        for number, count in sorted(self._counts.items()):
            if number > through or waiting - dropped - count.events < most:
                break
            segment_path(self._folder, number).unlink(missing_ok=True)
            dropped += count.events

        if dropped:
            sync_folder(self._folder)
        return dropped

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
