"""Folder of one training run: configuration, artefacts of the finished stages, and their seconds.

A finished stage leaves its artefact under a final name, so a run that is killed at any moment resumes after the last
finished stage. All files are JSON or safetensors; nothing is pickled.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from model_store.durable_files import write_durably
from model_store.errors import CheckpointError, ConfigError
from training.config import TrainingConfig
from training.data.remote import is_remote, redacted
from training.loop import distributed

CONFIG = "config.json"
SECONDS = "seconds.json"


class RunFolder:
    """Artefacts of a run by name. Files are replaced atomically; a half-written file never has a final name."""

    def __init__(self, path: Path, config: TrainingConfig, source: str = "") -> None:
        self.path = path
        self.config = config
        self._source = source  # with its password, which is not stored

    @classmethod
    def create_or_resume(cls, path: Path, config: TrainingConfig, source: str, resume: bool | None = None) -> Self:
        """Start a run, or resume one with the same configuration and data source.

        A run in which nothing was trained yet may change both: a mistake in the first command costs no new folder.
        Paths are stored as absolute ones, so that later commands work from any folder, and URLs without passwords.

        Args:
            path: The folder.
            config: Configuration of the run. Settings that the run's file lacks count as defaults.
            source: Data source.
            resume: Require a run to resume (True), or no run (False).

        Raises:
            CheckpointError: The folder holds another run, or does not meet ``resume``.
        """
        source = _absolute(source)
        config = config.with_items_file(_absolute(config.data.items_file))
        run = cls(path, config, source)
        found = run.read_json(CONFIG) if run.has(CONFIG) else None
        is_foreign = found is not None and not (isinstance(found, dict) and {"source", "config"} <= found.keys())
        is_begun = found is not None and (run.has_trained or is_foreign)
        if resume is not None and (run.has(CONFIG) if resume else is_begun) != resume:
            problem = "there is no run to resume in" if resume else "there is a run already in"
            fix = "leave --resume out to start one" if resume else "choose another --out, or remove that folder"
            raise CheckpointError(f"{problem} {path}", fix)

        changed = "configuration" if found is None else _difference(found, config, source)
        if changed and is_begun:
            raise CheckpointError(
                f"{path} holds a run with another {changed}", "choose another --out, or remove that folder"
            )
        if changed:
            path.mkdir(parents=True, exist_ok=True)
            run.write_json(CONFIG, {"source": redacted(source), "config": config.stored()})
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing run.

        Raises:
            CheckpointError: There is none, or its configuration does not fit this release.
        """
        if not (path / CONFIG).is_file():
            raise CheckpointError(
                f"{path} is not a run folder: it has no {CONFIG}", "give the --out of etegrec-train run"
            )
        run = cls(path, TrainingConfig())
        try:
            run.config = TrainingConfig.model_validate(run.read_json(CONFIG)["config"])
        except (KeyError, TypeError, ValueError) as cause:
            raise CheckpointError(f"{path / CONFIG} does not fit this release: {cause}") from cause
        return run

    def require_shared(self) -> None:
        """Check that all processes that train together see this folder, on whatever machines they are.

        Raises:
            ConfigError: This process sees another folder than the first one.
        """
        name = ".shared"
        token = distributed.compute_on_first(lambda: secrets.token_hex(16))
        self.write_bytes(name, token.encode())
        distributed.barrier()
        is_shared = self.has(name) and (self.path / name).read_text(encoding="ascii") == token
        distributed.barrier()
        self.remove(name)
        if not is_shared:
            raise ConfigError(
                f"{self.path} is not the same folder on all machines: process {distributed.rank()} does not see what "
                "the first one wrote",
                "give --out a folder of a file system that all of them have mounted",
            )

    @property
    def source(self) -> str:
        """Data source that the run was started with; its password is known only to the command that gave it."""
        return self._source or str(self.read_json(CONFIG)["source"])

    @property
    def has_trained(self) -> bool:
        """Whether a stage was trained, or has left a checkpoint."""
        return any(self.path.glob("*.safetensors"))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, in order; a reused stage keeps the seconds of the time it ran."""
        found: dict[str, float] = self.read_json(SECONDS) if self.has(SECONDS) else {}
        return found

    @contextmanager
    def timed(self, stage: str, before: float = 0.0) -> Iterator[None]:
        """Record the seconds of a stage if it succeeds, plus ``before`` seconds of earlier attempts."""
        started = time.monotonic() - before
        yield
        self.write_json(SECONDS, self.seconds | {stage: round(time.monotonic() - started, 1)})

    def has(self, name: str) -> bool:
        """Return whether an artefact exists."""
        return (self.path / name).is_file()

    def remove(self, name: str) -> None:
        """Delete an artefact if it exists."""
        if distributed.is_first():
            (self.path / name).unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """Write plain values."""
        self.write_bytes(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read values that :meth:`write_json` wrote.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_bytes())
        except (OSError, ValueError) as cause:
            raise self._damaged(name, cause) from cause

    def write_tensors(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write tensors by name."""
        self.write_bytes(name, save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}))

    def read_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Read tensors that :meth:`write_tensors` wrote.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        try:
            tensors: dict[str, torch.Tensor] = load_file(self.path / name)
        except (OSError, SafetensorError) as cause:
            raise self._damaged(name, cause) from cause
        return tensors

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write bytes. If several processes train together, only the first one writes."""
        if not distributed.is_first():
            return
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, data)

    def _damaged(self, name: str, cause: Exception) -> CheckpointError:
        return CheckpointError(f"{self.path / name} cannot be read: {cause}", "remove that file to redo its stage")


def _difference(found: Any, config: TrainingConfig, source: str) -> str:
    """Name the part in which a stored run differs from the wanted one; empty if they are the same."""
    try:
        stored = TrainingConfig.model_validate(found["config"])
        if stored.with_items_file(_absolute(stored.data.items_file)).stored() != config.stored():
            return "configuration"
        return "" if _absolute(found["source"]) == redacted(source) else "data source"
    except (KeyError, TypeError, ValueError):
        return "configuration"


def _absolute(source: str) -> str:
    """Return a path as an absolute one; names and URLs stay."""
    is_path = source and not is_remote(source) and Path(source).exists()
    return str(Path(source).absolute()) if is_path else source
