"""Erasure of a user from the files of the embedded event log, on a full disk as well."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from model_store.durable_files import write_all, write_durably
from model_store.events.disk_reserve import is_disk_full
from model_store.events.event_log import (
    ErasedLine,
    EventLine,
    HistoryLine,
    ImportLine,
    SeenLine,
    decode_line,
    encode_line,
    newest_state,
    segment_numbers,
    segment_path,
    state_path,
)

_IS_EVENT = b'"kind":"event"'

_WITH_USER = (_IS_EVENT, b'"kind":"history"', b'"kind":"import"')
"""What lines that hold a user's data contain; decoding all others would take most of the time."""


def erase_user(folder: Path, user_id: str, through: int) -> int:
    """Overwrite a user's events and imports in the closed segments up to ``through``. Blocks.

    The ids of the events stay recorded, so that a client that repeats an event does not bring it back. Lines keep their
    length, because a drain may have stopped in the middle of a segment. Files are replaced as a whole, so that a crash
    or a concurrent drain sees the old or the new file. On a full disk, where there is no space for another file, lines
    are overwritten in place.

    Returns:
        The number of events.

    Raises:
        OSError: A segment cannot be replaced; another call continues.
    """
    erased = 0
    for number in segment_numbers(folder):
        if number <= through:
            erased += _erase_from_file(segment_path(folder, number), user_id)
    return erased


def erase_from_state(folder: Path, user_id: str) -> None:
    """Overwrite a user's history in the newest state, for a disk on which no new state can be saved. Blocks.

    Raises:
        OSError: The state cannot be replaced; another call continues.
    """
    _erase_from_file(state_path(folder, newest_state(folder)), user_id)


def _erase_from_file(path: Path, user_id: str) -> int:
    try:
        old_lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0

    new_lines = [_erase_from_line(line, user_id) for line in old_lines]
    erased = [old for new, old in zip(new_lines, old_lines, strict=True) if new is not old]
    if erased:
        _replace_lines(path, old_lines, new_lines)
    return sum(_IS_EVENT in line for line in erased)


def _erase_from_line(raw: bytes, user_id: str) -> bytes:
    """Return the same line, or for one of the user a line of equal length that says nothing of the user."""
    line = decode_line(raw) if any(kind in raw for kind in _WITH_USER) else None

    new: SeenLine | ErasedLine
    if isinstance(line, EventLine) and line.event.user_id == user_id:
        new = SeenLine(event_id=line.event.event_id, recorded_at=line.recorded_at)
    elif isinstance(line, HistoryLine | ImportLine) and line.user_id == user_id:
        new = ErasedLine()
    else:
        return raw
    return encode_line(new, length=len(raw) + 1)[:-1]


def _replace_lines(path: Path, old_lines: Sequence[bytes], new_lines: Sequence[bytes]) -> None:
    try:
        write_durably(path, b"\n".join(new_lines))
    except OSError as cause:
        if not is_disk_full(cause):
            raise
        _overwrite_lines(path, old_lines, new_lines)


def _overwrite_lines(path: Path, old_lines: Sequence[bytes], new_lines: Sequence[bytes]) -> None:
    """Overwrite the lines that differ where they stand, which needs no space.

    A crash in between can leave one line that does not decode. It is one of those to be erased: nothing else is lost.
    """
    descriptor = os.open(path, os.O_WRONLY)
    try:
        at = 0
        for old, new in zip(old_lines, new_lines, strict=True):
            if new is not old:
                os.lseek(descriptor, at, os.SEEK_SET)
                write_all(descriptor, new)
            at += len(old) + 1
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
