"""A folder on any file system that fsspec reaches, with the few operations that the store is built from.

On a local disk writes are durable and atomic (temporary file, fsync, rename, fsync of the folder) and links are never
followed inside the folder. Elsewhere (buckets, memory) putting one object is atomic by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from model_store.durable_files import sync_folder, write_durably
from model_store.errors import ConfigError, ModelStoreError


@dataclass(frozen=True)
class Entry:
    """One thing that a folder holds. ``size`` in bytes, 0 for folders; links and devices are ``other``."""

    name: str
    kind: Literal["file", "folder", "other"]
    size: int


@dataclass(frozen=True)
class Folder:
    """A folder that may not exist yet. All methods raise :class:`ModelStoreError` when the file system refuses."""

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
                f"the store URL {url!r} cannot be opened: {cause}",
                "use a path, or install the fsspec driver of that protocol (s3fs for s3://, gcsfs for gs://)",
            ) from cause
        return cls(fs, path.rstrip("/"))

    def child(self, name: str) -> Folder:
        """A folder inside this one."""
        return Folder(self.fs, self._at(name))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """The folder as a local path; ``None`` on any other file system."""
        return Path(self.path) if isinstance(self.fs, LocalFileSystem) else None

    def entries(self) -> list[Entry]:
        """What the folder holds, by name; empty if there is no such folder."""
        with self._reporting("list"):
            try:
                self.fs.invalidate_cache(self.path)
                found = self.fs.ls(self.path, detail=True)
            except FileNotFoundError:
                return []
            except NotADirectoryError:
                return []
        named = ((info["name"].rstrip("/"), info) for info in found)
        here = self.path.strip("/")  # buckets may list the folder's own marker, file systems a plain file as itself
        return sorted((_entry(name, info) for name, info in named if name.strip("/") != here), key=lambda one: one.name)

    def files(self) -> Iterator[Entry]:
        """Everything in the folder and below that is no folder, named relative to it."""
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
        with self._reporting(f"read {name}"):
            try:
                with self.fs.open(self._at(name), "rb") as file:
                    return bytes(file.read(limit + 1))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file: afterwards it holds all of ``data``, after a crash the old content or the new."""
        with self._reporting(f"write {name}"):
            if self.local is None:
                self.fs.pipe_file(self._at(name), data)
                return
            target = self.local / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_durably(target, data)

    def remove(self, name: str) -> None:
        """Delete one file; nothing happens if it is not there."""
        with self._reporting(f"remove {name}"):
            try:
                self.fs.rm_file(self._at(name))
            except FileNotFoundError:
                return
            if self.local is not None:
                sync_folder(self.local)

    def remove_all(self) -> None:
        """Delete the folder with everything in it; nothing happens if it is not there."""
        with self._reporting("remove"):
            try:
                self.fs.rm(self.path, recursive=True)
            except FileNotFoundError:
                return

    def rename(self, target: Folder) -> None:
        """Move a folder of a local disk, in one step, to a name that is free."""
        with self._reporting("rename a folder"):
            os.rename(self.path, target.path)

    def newest_change(self) -> float | None:
        """Unix time in seconds of the newest change inside; ``None`` if the file system does not tell."""
        paths = [self._at(entry.name) for entry in self.files()]
        if self.local is not None:
            paths.append(self.path)
        with self._reporting("read the age of"):
            try:
                return max((self.fs.modified(path).timestamp() for path in paths), default=None)
            except (FileNotFoundError, NotImplementedError):
                return None

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextmanager
    def _reporting(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as cause:
            raise ModelStoreError(
                f"cannot {action} in {self.path}: {cause.strerror or cause}",
                "check that the store exists, has space and that this user may access it",
            ) from cause


def _entry(name: str, info: dict[str, Any]) -> Entry:
    last = name.rpartition("/")[2]
    if info["type"] == "directory":
        return Entry(last, "folder", 0)
    is_plain = info["type"] == "file" and not info.get("islink", False)
    return Entry(last, "file" if is_plain else "other", int(info["size"] or 0))
