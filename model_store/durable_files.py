"""Durable writes of files on a local disk; a crash never leaves a file half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path


def write_durably(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Create or replace a file. A crash leaves the old or the new content; after the return it is the new one.

    ``mode`` says who may use the file, as far as the process's umask allows: 0o600 is for secrets.

    A writer that was killed may leave ``.<name>.tmp`` beside it. One that the disk refused leaves nothing: on a full
    disk half a file would take the space that others need.

    Raises:
        OSError: The folder does not exist, or the disk refused.
    """
    with staged(path) as half, open(half, "wb", opener=partial(os.open, mode=mode)) as file:
        file.write(data)


def copy_durably(source: Path, target: Path) -> None:
    """Create or replace a file with the content of another, as :func:`write_durably` does.

    Raises:
        OSError: As there, or the other file cannot be read.
    """
    with staged(target) as half:
        shutil.copyfile(source, half)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a path beside this one to write a file to, which replaces it durably unless the block fails.

    Raises:
        OSError: The folder does not exist, or the disk refused.
    """
    half = path.with_name(f".{path.name}.tmp")
    try:
        half.unlink(missing_ok=True)  # a leftover keeps its own mode
        yield half
        _sync(half)
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise

    sync_folder(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write bytes to a file, however many calls that takes. On an error the first of them may be written."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(path: Path) -> None:
    """Make the created, renamed and deleted names of a folder durable."""
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
