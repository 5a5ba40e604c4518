"""Progress in a folder of files: how much of each is recorded, as one JSON file on a disk or in a bucket."""

from __future__ import annotations

from collections.abc import Set

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.bundle.storage import Folder
from model_store.errors import ConfigError

MAX_BYTES = 256 * 1024 * 1024
"""Largest file of progress: two million files."""


class FileProgress(BaseModel):
    """How much of one file is recorded."""

    model_config = ConfigDict(extra="forbid")

    records: int = Field(0, ge=0, description="lines or rows")
    offset: int = Field(0, ge=0, description="bytes of lines; 0 for compressed files and Parquet")
    size: int = Field(-1, ge=-1, description="bytes of the file when it was read to its end; -1: it was not yet")
    tail: str = Field(
        "", description="digest of the last bytes before `offset`; empty for compressed files and Parquet"
    )
    is_changed: bool = Field(False, description="the file holds something else than what was read, and is left out")


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    source: str
    files: dict[str, FileProgress]


class Progress:
    """The file of progress.

    Args:
        url: Path or fsspec URL.
        source: What is read, as it was named. Another one must not go on with this progress.

    Raises:
        ConfigError: It cannot be opened, is damaged, or belongs to another source.
        ModelStoreError: Its folder cannot be read.
    """

    def __init__(self, url: str, source: str) -> None:
        parent, _, self._name = url.rpartition("/")
        try:
            self._folder = Folder.at(parent or ".")
        except ConfigError as cause:
            raise ConfigError(f"the file of progress {url!r} cannot be opened", cause.hint) from cause
        self._source = source
        self.files = self._read(url)

    def save(self) -> None:
        """Write it. Raises :class:`ModelStoreError` if that fails: files would be read again after a restart."""
        document = _Document(source=self._source, files=self.files)
        self._folder.write(self._name, document.model_dump_json(exclude_defaults=True).encode())

    def forget_missing(self, paths: Set[str]) -> None:
        """Forget files that are not there any more."""
        for path in self.files.keys() - paths:
            del self.files[path]

    def _read(self, url: str) -> dict[str, FileProgress]:
        data = self._folder.read(self._name, MAX_BYTES)
        if data is None:
            return {}
        try:
            document = _Document.model_validate_json(data)
        except ValidationError as cause:
            hint = "restore it, or remove it: then all files are read again, and events of the last day are duplicates"
            raise ConfigError(f"the file of progress {url!r} does not decode", hint) from cause
        if document.source != self._source:
            raise ConfigError(
                f"the file of progress {url!r} belongs to {document.source!r}", "name another file with --progress"
            )
        return document.files
