"""Folder of files that a command needs while it works: it removes them, and nothing that others put there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from model_store.errors import ConfigError

MARK = ".etegrec"
"""Empty file that tells a work folder from a folder of the same name that a person made."""


class WorkFolder:
    """A folder whose files a command replaces when it begins, and removes when it ends.

    Args:
        path: The folder; it need not exist.
        names: Patterns of the names of the files and folders in it, such as ``users-*.parquet``.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self._names = [MARK, *names, *(f".{name}.tmp" for name in names)]  # those of durable writes that were killed

    def foreign(self) -> Path | None:
        """Return the first thing here that no command wrote; ``None`` if all may be removed."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            return self.path
        found = sorted(self.path.iterdir()) if self.path.exists() else []
        if found and not (self.path / MARK).exists():
            return found[0]
        return next((path for path in found if not self._is_own(path)), None)

    def make_empty(self, mode: int = 0o777) -> None:
        """Create the folder, or remove what an earlier command left in it.

        Args:
            mode: Who may use a new folder, as far as the process's umask allows.

        Raises:
            ConfigError: It holds something that no command wrote. Nothing is removed then.
        """
        other = self.foreign()
        if other is not None:
            raise ConfigError(
                f"{other} would be removed, and it is no file of an earlier command",
                "move it away, or give another folder as --out",
            )

        self.remove()
        self.path.mkdir(mode=mode, parents=True)
        (self.path / MARK).touch()

    def remove(self) -> None:
        """Remove the files of commands, and the folder unless something else lies in it.

        A folder without the mark is left as it is.
        """
        if self.path.is_symlink() or not self.path.is_dir():
            return
        found = list(self.path.iterdir())
        if found and not (self.path / MARK).exists():
            return

        own = [path for path in found if self._is_own(path) and path.name != MARK]
        for path in own:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        (self.path / MARK).unlink(missing_ok=True)  # last: a folder that is removed by halves is still known as ours
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _is_own(self, path: Path) -> bool:
        return any(fnmatchcase(path.name, name) for name in self._names)
