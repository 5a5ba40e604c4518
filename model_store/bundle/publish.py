"""Publication of a bundle: the whole version becomes visible at once, or nothing does.

This holds at whatever moment the publisher is killed. On a local disk the files are staged in a hidden folder beside
the versions and renamed into place. Elsewhere they are put under their final names with the manifest last: without it a
folder is not a version. The service never imports this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from model_store.bundle.bundle import check_contents
from model_store.bundle.manifest import MANIFEST, Description, FileSeal, Manifest, first_problem, new_version
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SIGNATURE, SigningKey
from model_store.bundle.storage import Folder
from model_store.bundle.version_folders import STAGING_PREFIX
from model_store.durable_files import sync_folder
from model_store.errors import ModelStoreError

Source = bytes | Path
_EXPORT_HINT = "export the model again; see docs/ARCHITECTURE.md for the files of a bundle"


class Step(NamedTuple):
    """One step of a publication. A crash between two steps leaves the model store loadable."""

    name: str
    run: Callable[[], None]


def publish(
    store: ModelStore,
    files: Mapping[str, Source],
    about: Description,
    created_at: datetime | None = None,
    key: SigningKey | None = None,
) -> str:
    """Add a version to the model store. It is not live until :meth:`ModelStore.promote`.

    Args:
        store: Created if it does not exist.
        files: Content or path of each file by its name in the bundle; see ``REQUIRED_FILES`` of the manifest.
        about: The description of the model for the manifest.
        created_at: Time of the version; now, if not given.
        key: Signs the manifest, if given.

    Returns:
        The name of the version.

    Raises:
        BundleRefused: The files do not decode or contradict each other; nothing was written.
        ModelStoreError: A file is missing, unexpected or changed meanwhile, or the version exists.
        LockHeld: Another process writes to the model store.
    """
    publication = Publication.plan(store, files, about, created_at or datetime.now(UTC), key)
    store.create()
    with store.lock():
        try:
            for step in publication.steps():
                step.run()
        finally:
            publication.clean_up()
    return publication.manifest.version


@dataclass(frozen=True)
class Publication:
    """A planned publication of a version: checked and named, but not written yet."""

    store: ModelStore
    files: Mapping[str, Source]
    manifest: Manifest
    key: SigningKey | None = None

    @classmethod
    def plan(
        cls,
        store: ModelStore,
        files: Mapping[str, Source],
        about: Description,
        created_at: datetime,
        key: SigningKey | None = None,
    ) -> Publication:
        """Hash and check the files, and name the version."""
        seals = {name: FileSeal.of(_content(name, source)) for name, source in files.items()}
        version = new_version(created_at, seals)
        fields = {name: getattr(about, name) for name in Description.model_fields}
        try:
            manifest = Manifest(**fields, version=version, created_at=created_at.astimezone(UTC), files=seals)
            Manifest.from_bytes(manifest.to_bytes())
        except ValidationError as cause:
            raise ModelStoreError(f"the bundle cannot be published: {first_problem(cause)}", _EXPORT_HINT) from cause

        check_contents(lambda name: _content(name, files[name]), files, about.config, about.fusion)
        return cls(store, files, manifest, key)

    @property
    def staging(self) -> Folder:
        """Folder in which files are collected on a local disk; it never exists on other file systems."""
        return self.store.root.child(f"{STAGING_PREFIX}{self.manifest.version}")

    @property
    def target(self) -> Folder:
        """Folder of the published version."""
        return self.store.root.child(self.manifest.version)

    def steps(self) -> Iterator[Step]:
        """Yield the steps in order; the caller holds the lock of the model store while it runs them."""
        is_local = self.target.local is not None
        folder = self.staging if is_local else self.target

        yield Step("claim the name", self._claim)
        for name in sorted(self.files):
            yield Step(f"write {name}", partial(self._write, folder, name))
        if is_local:
            yield Step("sync folders", partial(_sync_tree, folder))

        sealed = self.manifest.to_bytes()
        if self.key is not None:
            yield Step(f"write {SIGNATURE}", partial(folder.write, SIGNATURE, self.key.sign(sealed)))
        yield Step(f"write {MANIFEST}", partial(folder.write, MANIFEST, sealed))
        if is_local:
            yield Step("rename", partial(folder.rename, self.target))
            yield Step("sync model store", partial(_sync, self.store.root))

    def clean_up(self) -> None:
        """Remove the files left in staging: none after success, all of them after an error."""
        if self.staging.local is not None:
            self.staging.remove_all()

    def _claim(self) -> None:
        """Make the name of the version free, or raise :class:`ModelStoreError` if the version exists."""
        found = next((entry for entry in self.store.root.entries() if entry.name == self.target.name), None)
        if found and (found.kind != "folder" or any(entry.name == MANIFEST for entry in self.target.entries())):
            raise ModelStoreError(
                f"version {self.manifest.version} exists already; versions never change",
                "if this is the same model, nothing is left to do; else publish again, and it gets a new name",
            )

        # This process holds the lock, so only killed ones can have left something.
        self.clean_up()
        self.target.remove_all()

    def _write(self, folder: Folder, name: str) -> None:
        data = _content(name, self.files[name])
        if FileSeal.of(data) != self.manifest.files[name]:
            raise ModelStoreError(
                f"{name} changed while it was being published", "publish again when its writer has finished"
            )
        folder.write(name, data)


def _content(name: str, source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as cause:
        raise ModelStoreError(f"cannot read {name} from {source}: {cause.strerror}", _EXPORT_HINT) from cause


def _sync(folder: Folder) -> None:
    if folder.local is not None:
        sync_folder(folder.local)


def _sync_tree(folder: Folder) -> None:
    if folder.local is None:
        return
    for parent, _, _ in os.walk(folder.local):
        sync_folder(Path(parent))
