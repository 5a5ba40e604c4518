"""The store: all versions of the model, and which of them is live.

``LIVE`` is a text file, replaced atomically: the live version in the first line, below it those that were live before,
newest first. On a local disk one writer at a time holds a lock; readers need none. A bucket has no lock: there, let
one process publish and promote. The folder may hold other things (``events/``): only versions are ever touched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout

from model_store.bundle.bundle import Bundle, load_bundle
from model_store.bundle.manifest import MANIFEST, VERSION
from model_store.bundle.storage import Folder
from model_store.durable_files import sync_folder
from model_store.errors import ConfigError, LockHeld, ModelStoreError, VersionNotFound

STORE_ENV = "ETEGREC_STORE"
DEFAULT_STORE = "./models"

LIVE = "LIVE"
LIVE_LIMIT = 4096
REMEMBERED = 20
"""Versions that ``LIVE`` remembers, the live one included."""

STAGING_PREFIX = ".staging-"
_NAMED_BY_US = re.compile(r"\d{8}t\d{6}z-[0-9a-f]{8}")
_LOCK = ".lock"
_LIST_HINT = "`etegrec-models list` shows the versions"


def default_store() -> str:
    """URL of the store if the reader names none: ``ETEGREC_STORE``, else ``./models``."""
    return os.environ.get(STORE_ENV) or DEFAULT_STORE


@dataclass(frozen=True)
class Collected:
    """What :meth:`ModelStore.gc` removed, and the versions that it kept."""

    removed: tuple[str, ...]
    leftovers: tuple[str, ...]
    kept: tuple[str, ...]


class ModelStore:
    """A folder of bundles, at a path or any fsspec URL.

    Args:
        url: Where it is; :func:`default_store` if not given. It need not exist until something is published.
        lock_timeout_s: How long a writer waits for another one.
    """

    def __init__(self, url: str | os.PathLike[str] | None = None, lock_timeout_s: float = 10.0) -> None:
        self.url = default_store() if url is None else os.fspath(url)
        self.root = Folder.at(self.url)
        local = self.root.local
        self._lock = None if local is None else FileLock(local / _LOCK, timeout=lock_timeout_s)

    def versions(self) -> list[str]:
        """Sealed versions, oldest first (names begin with the time). Damaged ones are listed until they are opened."""
        return [name for name in self._version_folders() if self._is_sealed(name)]

    def live(self) -> str | None:
        """The version that should be served, ``None`` before the first promotion.

        Raises:
            ModelStoreError: ``LIVE`` is not what this class writes.
        """
        return next(iter(self._history()), None)

    def previous(self) -> str | None:
        """The version that :meth:`rollback` would make live."""
        live, *before = self._history() or [""]
        existing = set(self.versions())
        return next((version for version in before if version != live and version in existing), None)

    def bundle(self, version: str | None = None) -> Bundle:
        """Open a version, or the live one.

        Raises:
            VersionNotFound: There is no such version, or none is live.
            BundleRefused: It is damaged.
        """
        return load_bundle(self.root, version or self._require_live())

    def promote(self, version: str) -> str | None:
        """Make a version live after verifying all of it; nothing changes if it already is.

        Returns:
            The version that was live before.

        Raises:
            VersionNotFound: There is no such version.
            BundleRefused: It is damaged.
            LockHeld: Another process holds the lock.
        """
        load_bundle(self.root, version)  # before the lock: a wrong name should not need to wait
        with self.lock():
            load_bundle(self.root, version).verify()
            history = self._history()
            live = next(iter(history), None)
            if version != live:
                self._write_history([version, *history])
            return live

    def rollback(self) -> str:
        """Make the version live that was live before, after verifying it. Doing it again goes further back.

        Returns:
            The version that is live now.

        Raises:
            VersionNotFound: None was live before, or none of those is left.
            BundleRefused: It is damaged; promote another one.
        """
        self._require_live()
        with self.lock():
            target = self.previous()
            if target is None:
                raise VersionNotFound(
                    f"there is nothing to roll back to: no version that was live before {self.live()} is left",
                    "`etegrec-models promote` makes any listed version live",
                )
            load_bundle(self.root, target).verify()
            history = self._history()
            self._write_history(history[history.index(target, 1) :])
            return target

    def gc(
        self,
        keep: int = 5,
        pinned: Collection[str] = (),
        leftovers_older_than_s: float = 86_400.0,
        dry_run: bool = False,
    ) -> Collected:
        """Remove old versions, and what publishers and collectors that were killed left behind.

        Never removed: the live version, the one to roll back to, pinned ones and the ``keep`` newest.

        Raises:
            VersionNotFound: A pinned version does not exist.
            ModelStoreError: ``LIVE`` cannot be read, so it is unknown what must stay.
        """
        if keep < 0:
            raise ConfigError(f"keep is {keep}, it must be at least 0", "choose how many of the newest versions stay")
        if not self.root.entries():
            return Collected((), (), ())
        with self.lock():
            versions = self.versions()
            if unknown := set(pinned) - set(versions):
                raise VersionNotFound(f"the pinned version {min(unknown)} is not in the store", _LIST_HINT)
            kept = {self.live(), self.previous(), *pinned, *versions[max(0, len(versions) - keep) :]}
            removed = tuple(version for version in versions if version not in kept)
            leftovers = tuple(self._leftovers(leftovers_older_than_s))
            for name in () if dry_run else (*removed, *leftovers):
                self._remove(name)
            return Collected(removed, leftovers, tuple(version for version in versions if version in kept))

    def create(self) -> None:
        """Create the folder of a local store, if need be."""
        local = self.root.local
        if local is None or local.is_dir():
            return
        try:
            local.mkdir(parents=True, exist_ok=True)
            sync_folder(local.parent)
        except OSError as cause:
            raise ModelStoreError(
                f"cannot create the store {self.url}: {cause.strerror}", "choose another path"
            ) from cause

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for writing; may be nested in one thread. Does nothing on a store that is not local.

        Raises:
            LockHeld: Another writer did not finish in time.
        """
        if self._lock is None:
            yield
            return
        try:
            self._lock.acquire()
        except Timeout as cause:
            raise LockHeld(
                f"another process is writing to the store {self.url}",
                "wait until it is done and try again; the lock goes away with the process that holds it",
            ) from cause
        except OSError as cause:
            raise ModelStoreError(
                f"cannot lock the store {self.url}: {cause.strerror or cause}",
                "check that the folder exists and that this user may write to it",
            ) from cause
        try:
            yield
        finally:
            self._lock.release()

    def _history(self) -> list[str]:
        data = self.root.read(LIVE, limit=LIVE_LIMIT)
        if data is None:
            return []
        lines = data.decode("ascii", errors="replace").splitlines()
        if len(data) > LIVE_LIMIT or not lines or not all(VERSION.fullmatch(line) for line in lines):
            raise ModelStoreError(
                f"{LIVE} in {self.url} is damaged: it must hold one version name a line",
                f"delete {LIVE}, then `etegrec-models promote` the version to serve",
            )
        return lines

    def _write_history(self, history: list[str]) -> None:
        self.root.write(LIVE, "".join(f"{version}\n" for version in history[:REMEMBERED]).encode())

    def _require_live(self) -> str:
        live = self.live()
        if live is None:
            raise VersionNotFound(
                f"no version is live in the store {self.url}", "publish one, then `etegrec-models promote` it"
            )
        return live

    def _version_folders(self) -> list[str]:
        return [one.name for one in self.root.entries() if one.kind == "folder" and VERSION.fullmatch(one.name)]

    def _is_sealed(self, version: str) -> bool:
        return any(entry.name == MANIFEST for entry in self.root.child(version).entries())

    def _leftovers(self, older_than_s: float) -> Iterator[str]:
        """Staging folders, and folders named as only this store names versions that lack their seal."""
        limit = time.time() - older_than_s
        for entry in self.root.entries():
            is_staging = entry.name.startswith(STAGING_PREFIX)
            is_unsealed = _NAMED_BY_US.fullmatch(entry.name) is not None and not self._is_sealed(entry.name)
            if entry.kind != "folder" or not (is_staging or is_unsealed):
                continue
            changed = self.root.child(entry.name).newest_change()
            if changed is not None and changed <= limit:
                yield entry.name

    def _remove(self, name: str) -> None:
        folder = self.root.child(name)
        folder.remove(MANIFEST)  # first, so that what is left of a collector that was killed cannot be loaded
        folder.remove_all()
