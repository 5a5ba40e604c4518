"""The file ``LIVE``: the live version, and those that were live before it.

It is a text file that is replaced atomically. Its first line is the live version, the lines below are the versions that
were live before, newest first.
"""

from __future__ import annotations

from collections.abc import Sequence

from model_store.bundle.manifest import VERSION
from model_store.bundle.storage import Folder
from model_store.errors import ModelStoreError

LIVE = "LIVE"

LIVE_LIMIT = 4096
"""Size of the largest file that is read, in bytes."""

MAX_LIVE_LINES = 20
"""Most versions in the file, the live one included."""


def read_live(root: Folder, url: str) -> list[str]:
    """Return the live version, and those live before it, newest first; nothing before the first promotion.

    Args:
        root: Folder of the model store.
        url: Its place, for the message.

    Raises:
        ModelStoreError: The file is damaged.
    """
    data = root.read(LIVE, limit=LIVE_LIMIT)
    if data is None:
        return []
    lines = data.decode("ascii", errors="replace").splitlines()
    if len(data) > LIVE_LIMIT or not lines or not all(VERSION.fullmatch(line) for line in lines):
        raise ModelStoreError(
            f"{LIVE} in {url} is damaged: it must hold one version name a line",
            f"delete {LIVE}, then `etegrec-models promote` the version to serve",
        )
    return lines


def write_live(root: Folder, versions: Sequence[str]) -> None:
    """Replace the file: the live version first, then those live before it; the oldest ones are left out."""
    root.write(LIVE, "".join(f"{version}\n" for version in versions[:MAX_LIVE_LINES]).encode())
