"""Files on a local disk that a crash leaves whole. Every durable write of the project goes through here."""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Create or replace a file: a crash leaves the old or the new content, and the new one once this returns.

    A writer that was killed may leave ``.<name>.tmp`` beside it.

    Raises:
        OSError: The folder does not exist, or the disk refused.
    """
    staged = path.with_name(f".{path.name}.tmp")
    with staged.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make created, renamed and deleted names of a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
