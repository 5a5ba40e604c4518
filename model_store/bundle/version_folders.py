"""Folders of versions in a model store: which are sealed, and what killed publishers left."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from model_store.bundle.manifest import MANIFEST, VERSION
from model_store.bundle.storage import Folder

STAGING_PREFIX = ".staging-"

_GENERATED_NAME = re.compile(r"\d{8}t\d{6}z-[0-9a-f]{8}")


def sealed_versions(root: Folder) -> list[str]:
    """List the sealed versions, oldest first (names begin with the time); damaged ones are listed, too."""
    folders = [each.name for each in root.entries() if each.kind == "folder" and VERSION.fullmatch(each.name)]
    return [name for name in folders if _is_sealed(root, name)]


def find_leftovers(root: Folder, older_than_s: float) -> Iterator[str]:
    """Yield old staging folders, and old folders with a generated version name that have no seal.

    Args:
        root: Folder of the model store.
        older_than_s: Seconds since the newest change in a folder; what changed later may still be written.
    """
    limit = time.time() - older_than_s
    for entry in root.entries():
        is_staging = entry.name.startswith(STAGING_PREFIX)
        is_unsealed = _GENERATED_NAME.fullmatch(entry.name) is not None and not _is_sealed(root, entry.name)
        if entry.kind != "folder" or not (is_staging or is_unsealed):
            continue

        changed = root.child(entry.name).newest_change()
        if changed is not None and changed <= limit:
            yield entry.name


def remove_version(root: Folder, name: str) -> None:
    """Remove the folder of a version, or what is left of one."""
    folder = root.child(name)
    folder.remove(MANIFEST)  # first, so that nobody can load the rest if this process is killed
    folder.remove_all()


def _is_sealed(root: Folder, name: str) -> bool:
    return any(entry.name == MANIFEST for entry in root.child(name).entries())
