"""Folders on any file system that fsspec supports, with the few operations that the model store needs.

On a local disk writes are durable and atomic (temporary file, fsync, rename, fsync of the folder), and links inside the
folder are never followed. Elsewhere (buckets, memory) the upload of one object is atomic by itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from model_store.durable_files import copy_durably, staged, sync_folder, write_durably
from model_store.errors import ConfigError, ModelStoreError

_PIECE = 1 << 20
"""Bytes that are hashed at a time."""


@dataclass(frozen=True)
class Entry:
    """An entry of a folder. ``size`` is in bytes, 0 for folders; links and devices are ``other``."""

    name: str
    kind: Literal["file", "folder", "other"]
    size: int


@dataclass(frozen=True)
class Folder:
    """A folder that need not exist yet. All methods raise :class:`ModelStoreError` if the file system fails."""

    fs: Any  # fsspec.AbstractFileSystem, which is untyped
    path: str

    @classmethod
    def at(cls, url: str) -> Folder:
        """Open a path or an fsspec URL (``./models``, ``file://…``, ``memory://…``, ``s3://…``).

        Raises:
            ConfigError: The protocol is unknown or its driver is not installed.
        """
        try:
            fs, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as cause:
            raise ConfigError(
                f"a URL of the protocol {url.partition('://')[0]!r} cannot be opened: {cause}",
                "use a path, or install the fsspec driver of that protocol (s3fs for s3://, gcsfs for gs://)",
            ) from cause
        return cls(fs, path.rstrip("/"))

    def child(self, name: str) -> Folder:
        """Return a folder inside this one."""
        return Folder(self.fs, self._at(name))

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """Local path of the folder; ``None`` on any other file system."""
        return Path(self.path) if isinstance(self.fs, LocalFileSystem) else None

    def entries(self) -> list[Entry]:
        """List the entries of the folder by name; empty if there is no such folder."""
        with self._translate_errors("list"):
            try:
                self.fs.invalidate_cache(self.path)
                found = self.fs.ls(self.path, detail=True)
            except FileNotFoundError:
                return []
            except NotADirectoryError:
                return []

        # A bucket may list the folder's own marker, and a file system lists a plain file as itself.
        here = self.path.strip("/")
        entries = [_entry(info) for info in found if info["name"].strip("/") != here]
        return sorted(entries, key=lambda entry: entry.name)

    def files(self) -> Iterator[Entry]:
        """Yield all entries in the folder and below that are not folders, named relative to it."""
        for entry in self.entries():
            if entry.kind != "folder":
                yield entry
                continue
            for below in self.child(entry.name).files():
                yield Entry(f"{entry.name}/{below.name}", below.kind, below.size)

    def read(self, name: str, limit: int) -> bytes | None:
        """Read a file, at most ``limit`` + 1 bytes of it, so that the caller sees when it is larger.

        Returns:
            ``None`` if there is no such file.
        """
        with self.opened(name) as file:
            return None if file is None else bytes(file.read(limit + 1))

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO | None]:
        """Yield a file opened for reading, ``None`` if there is no such file."""
        with self._translate_errors(f"read {name}"):
            try:
                file = self.fs.open(self._at(name), "rb")
            except FileNotFoundError:
                yield None
                return
            with file:
                yield file

    def digest(self, name: str, limit: int) -> tuple[str, int] | None:
        """Hash a file piece by piece, at most ``limit`` + 1 bytes of it.

        Returns:
            The SHA-256 in hexadecimal and the number of bytes; ``None`` if there is no such file.
        """
        sha256 = hashlib.sha256()
        size = 0
        with self._translate_errors(f"read {name}"):
            try:
                with self.fs.open(self._at(name), "rb") as file:
                    while piece := file.read(min(_PIECE, limit + 1 - size)):
                        sha256.update(piece)
                        size += len(piece)
            except FileNotFoundError:
                return None
        return sha256.hexdigest(), size

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file. Afterwards it holds all of ``data``; after a crash, the old or the new content."""
        with self._translate_errors(f"write {name}"):
            if self.local is None:
                self.fs.pipe_file(self._at(name), data)
                return

            target = self.local / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_durably(target, data)

    def upload(self, source: Path, name: str) -> None:
        """Create or replace a file with the content of a local one, as :meth:`write` does, without holding it all."""
        with self._translate_errors(f"write {name}"):
            if self.local is None:
                self.fs.put_file(str(source), self._at(name))
                return

            target = self.local / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_durably(source, target)

    def download(self, name: str, target: Path) -> None:
        """Create or replace a local file with the content of one here; after a crash it is the old or the new one."""
        with self._translate_errors(f"read {name}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with staged(target) as half:
                self.fs.get_file(self._at(name), str(half))

    def replace(self, name: str, data: bytes, staging: Folder) -> None:
        """Create or replace a file as :meth:`write` does, without any other file in this folder meanwhile.

        Args:
            name: The file.
            data: Its content.
            staging: Folder on the same file system, where the file is prepared if it is a local one.
        """
        if self.local is None or staging.local is None:
            self.write(name, data)
            return

        staging.write(name, data)
        with self._translate_errors(f"write {name}"):
            (staging.local / name).replace(self.local / name)
            sync_folder(self.local)
        staging.remove_all()

    def remove(self, name: str) -> None:
        """Delete one file; nothing happens if it is not there."""
        with self._translate_errors(f"remove {name}"):
            try:
                self.fs.rm_file(self._at(name))
            except FileNotFoundError:
                return
            if self.local is not None:
                sync_folder(self.local)

    def remove_all(self) -> None:
        """Delete the folder with everything in it; nothing happens if it is not there."""
        with self._translate_errors("remove"):
            try:
                self.fs.rm(self.path, recursive=True)
            except FileNotFoundError:
                return

    def rename(self, target: Folder) -> None:
        """Move the folder on a local disk to a free name, in one step."""
        with self._translate_errors("rename a folder"):
            os.rename(self.path, target.path)

    def newest_change(self) -> float | None:
        """Return the Unix time of the newest change inside, in seconds; ``None`` if the file system has no times."""
        paths = [self._at(entry.name) for entry in self.files()]
        if self.local is not None:
            paths.append(self.path)

        with self._translate_errors("read the age of"):
            try:
                return max((self.fs.modified(path).timestamp() for path in paths), default=None)
            except (FileNotFoundError, NotImplementedError):
                return None

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextmanager
    def _translate_errors(self, action: str) -> Iterator[None]:
        """Raise :class:`ModelStoreError` for errors of the operating system."""
        try:
            yield
        except OSError as cause:
            raise ModelStoreError(
                f"cannot {action} in {self.path}: {cause.strerror or cause}",
                "check that it exists, has space left, and that this user may access it",
            ) from cause


def _entry(info: dict[str, Any]) -> Entry:
    """Translate fsspec's description of an entry."""
    name = info["name"].rstrip("/").rpartition("/")[2]
    if info["type"] == "directory":
        return Entry(name, "folder", 0)
    is_plain = info["type"] == "file" and not info.get("islink", False)
    return Entry(name, "file" if is_plain else "other", int(info["size"] or 0))
