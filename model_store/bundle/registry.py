"""The model store: the registry of all versions of the model, and of the live one.

``LIVE`` is a text file that is replaced atomically. Its first line is the live version, the lines below are the
versions that were live before, newest first. On a local disk one writer at a time holds a lock; readers need none. A
bucket has no lock: let only one process publish and promote there. The folder may hold other things (``events/``); only
versions are ever touched.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout

from model_store.bundle.bundle import Bundle, load_bundle
from model_store.bundle.manifest import LIST_HINT, MANIFEST, VERSION
from model_store.bundle.signature import EVERYONE, SIGNATURE, SIGNATURE_LIMIT, SigningKey, Trust
from model_store.bundle.storage import Folder
from model_store.durable_files import sync_folder
from model_store.errors import ConfigError, LockHeld, ModelStoreError, VersionNotFound

STORE_ENV = "ETEGREC_STORE"
DEFAULT_STORE = "./models"

LIVE = "LIVE"
LIVE_LIMIT = 4096
"""Size of the largest ``LIVE`` file that is read, in bytes."""

MAX_LIVE_LINES = 20
"""Most versions in ``LIVE``, the live one included."""

STAGING_PREFIX = ".staging-"
_GENERATED_NAME = re.compile(r"\d{8}t\d{6}z-[0-9a-f]{8}")
_LOCK = ".lock"


def default_store() -> str:
    """Return the URL of the model store if none is given: ``ETEGREC_STORE``, else ``./models``."""
    return os.environ.get(STORE_ENV) or DEFAULT_STORE


@dataclass(frozen=True)
class Collected:
    """The versions and leftovers that :meth:`ModelStore.gc` removed, and the versions that it kept."""

    removed: tuple[str, ...]
    leftovers: tuple[str, ...]
    kept: tuple[str, ...]


class ModelStore:
    """A folder of bundles, at a path or any fsspec URL.

    Args:
        url: Its place; :func:`default_store` if not given. It need not exist until something is published.
        lock_timeout_s: Longest time that a writer waits for another one.
        trust: Whose versions may be opened; :meth:`Trust.configured` if not given, so no command can forget it.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        lock_timeout_s: float = 10.0,
        trust: Trust | None = None,
    ) -> None:
        self.url = default_store() if url is None else os.fspath(url)
        self.trust = Trust.configured() if trust is None else trust
        self.root = Folder.at(self.url)
        local = self.root.local
        self._lock = None if local is None else FileLock(local / _LOCK, timeout=lock_timeout_s)

    def versions(self) -> list[str]:
        """List the sealed versions, oldest first (names begin with the time); damaged ones are listed, too."""
        return [name for name in self._version_folders() if self._is_sealed(name)]

    def live(self) -> str | None:
        """Return the promoted version, the one to serve; ``None`` before the first promotion.

        Raises:
            ModelStoreError: ``LIVE`` is damaged.
        """
        return next(iter(self._history()), None)

    def previous(self) -> str | None:
        """Return the version that :meth:`rollback` would make live, ``None`` if there is none."""
        live, *before = self._history() or [""]
        existing = set(self.versions())
        return next((version for version in before if version != live and version in existing), None)

    def bundle(self, version: str | None = None) -> Bundle:
        """Open a version, by default the live one.

        Raises:
            VersionNotFound: There is no such version, or none is live.
            BundleRefused: It is damaged, or not signed by a trusted key.
        """
        return load_bundle(self.root, version or self._require_live(), self.trust)

    def sign(self, version: str, key: SigningKey) -> None:
        """Add a signature to a version, after verifying all of it; its signatures by other keys stay.

        It need not be signed by a trusted key before: whoever has the key vouches for what is there.

        Raises:
            VersionNotFound: There is no such version.
            BundleRefused: It is damaged.
            LockHeld: Another process holds the lock.
        """
        with self.lock():
            bundle = load_bundle(self.root, version, EVERYONE)
            bundle.verify()
            signatures = bundle.folder.read(SIGNATURE, limit=SIGNATURE_LIMIT)
            staging = self.root.child(f"{STAGING_PREFIX}{version}-{SIGNATURE}")
            bundle.folder.replace(SIGNATURE, key.sign(bundle.manifest.to_bytes(), signatures), staging)

    def promote(self, version: str) -> str | None:
        """Make a version live after verifying all of it; nothing changes if it is live already.

        Returns:
            The version that was live before.

        Raises:
            VersionNotFound: There is no such version.
            BundleRefused: It is damaged, or not signed by a trusted key.
            LockHeld: Another process holds the lock.
        """
        self.bundle(version)  # before the lock, so that a wrong name fails without waiting
        with self.lock():
            self.bundle(version).verify()

            history = self._history()
            live = next(iter(history), None)
            if version != live:
                self._write_history([version, *history])
            return live

    def rollback(self) -> str:
        """Make the previously live version live again, after verifying it; a second call goes further back.

        Returns:
            The version that is live now.

        Raises:
            VersionNotFound: No version was live before, or none of those is left.
            BundleRefused: It is damaged, or not signed by a trusted key; promote another one.
        """
        self._require_live()
        with self.lock():
            target = self.previous()
            if target is None:
                raise VersionNotFound(
                    f"there is nothing to roll back to: no version that was live before {self.live()} is left",
                    "`etegrec-models promote` makes any listed version live",
                )
            self.bundle(target).verify()

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
        """Remove old versions, and the leftovers of killed publishers and killed collections.

        The live version, the one to roll back to, pinned ones and the ``keep`` newest are never removed.

        Raises:
            VersionNotFound: A pinned version does not exist.
            ModelStoreError: ``LIVE`` cannot be read, so it is unknown which versions must stay.
        """
        if keep < 0:
            raise ConfigError(f"keep is {keep}, it must be at least 0", "choose how many of the newest versions stay")
        if not self.root.entries():
            return Collected((), (), ())

        with self.lock():
            versions = self.versions()
            unknown = set(pinned) - set(versions)
            if unknown:
                raise VersionNotFound(f"the pinned version {min(unknown)} is not in the model store", LIST_HINT)

            newest = versions[max(0, len(versions) - keep) :]
            must_stay = {self.live(), self.previous(), *pinned, *newest}
            removed = tuple(version for version in versions if version not in must_stay)
            kept = tuple(version for version in versions if version in must_stay)
            leftovers = tuple(self._leftovers(leftovers_older_than_s))

            if not dry_run:
                for name in (*removed, *leftovers):
                    self._remove(name)
            return Collected(removed, leftovers, kept)

    def require(self) -> None:
        """Refuse a local model store whose folder does not exist: its name is probably mistyped.

        Raises:
            ModelStoreError: It does not exist; the message names a folder beside it with a similar name.
        """
        local = self.root.local
        if local is None or local.is_dir():
            return
        beside = [each.name for each in local.parent.iterdir() if each.is_dir()] if local.parent.is_dir() else []
        close = difflib.get_close_matches(local.name, beside, n=1)
        question = f" (did you mean {local.parent / close[0]}?)" if close else ""
        raise ModelStoreError(
            f"the model store {self.url} does not exist{question}",
            "check the path; `etegrec-train publish RUN --store PATH --create-store` begins a new one",
        )

    def create(self) -> None:
        """Create the folder of a local model store if it does not exist."""
        local = self.root.local
        if local is None or local.is_dir():
            return
        try:
            local.mkdir(parents=True, exist_ok=True)
            sync_folder(local.parent)
        except OSError as cause:
            raise ModelStoreError(
                f"cannot create the model store {self.url}: {cause.strerror}", "choose another path"
            ) from cause

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the model store for writing; may be nested in one thread. Does nothing if it is not on a local disk.

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
                f"another process is writing to the model store {self.url}",
                "wait until it has finished and try again; the lock ends with the process that holds it",
            ) from cause
        except OSError as cause:
            raise ModelStoreError(
                f"cannot lock the model store {self.url}: {cause.strerror or cause}",
                "check that the folder exists and that this user may write to it",
            ) from cause

        try:
            yield
        finally:
            self._lock.release()

    def _history(self) -> list[str]:
        """Return the lines of ``LIVE``: the live version, and those live before it, newest first."""
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
        self.root.write(LIVE, "".join(f"{version}\n" for version in history[:MAX_LIVE_LINES]).encode())

    def _require_live(self) -> str:
        live = self.live()
        if live is None:
            raise VersionNotFound(
                f"no version is live in the model store {self.url}", "publish one, then `etegrec-models promote` it"
            )
        return live

    def _version_folders(self) -> list[str]:
        return [one.name for one in self.root.entries() if one.kind == "folder" and VERSION.fullmatch(one.name)]

    def _is_sealed(self, version: str) -> bool:
        return any(entry.name == MANIFEST for entry in self.root.child(version).entries())

    def _leftovers(self, older_than_s: float) -> Iterator[str]:
        """Yield old staging folders, and old folders with a generated version name that have no seal."""
        limit = time.time() - older_than_s
        for entry in self.root.entries():
            is_staging = entry.name.startswith(STAGING_PREFIX)
            is_unsealed = _GENERATED_NAME.fullmatch(entry.name) is not None and not self._is_sealed(entry.name)
            if entry.kind != "folder" or not (is_staging or is_unsealed):
                continue

            changed = self.root.child(entry.name).newest_change()
            if changed is not None and changed <= limit:
                yield entry.name

    def _remove(self, name: str) -> None:
        folder = self.root.child(name)
        folder.remove(MANIFEST)  # first, so that nobody can load the rest if this process is killed
        folder.remove_all()
