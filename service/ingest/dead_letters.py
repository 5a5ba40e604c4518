"""The file of dead letters: records that are no events, with their place and the reason, one JSON object a line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import orjson

from model_store.durable_files import write_all
from service.ingest.checks import Refusal

SHOWN_BYTES = 65_536
"""Bytes of a record that are kept."""


class DeadLetters:
    """The file, which is only ever appended to. It holds what people sent, so only its owner may read it.

    Args:
        path: The file; created if it is not there.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, refused: Sequence[Refusal]) -> None:
        """Append records, and return once they are on the disk.

        Raises:
            OSError: The disk is full or gone. Nobody may go on then: the records would be lost.
        """
        if not refused:
            return
        write_all(self._file, b"".join(map(_encode, refused)))
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _encode(refusal: Refusal) -> bytes:
    raw = refusal.record.raw[:SHOWN_BYTES]
    line = {**refusal.record.place, "reason": refusal.reason, "record": raw.decode(errors="replace")}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
