"""Folder of one training run: configuration, artefacts of the finished stages, and their seconds.

A finished stage leaves its artefact under a final name, so a run that is killed at any moment resumes after the last
finished stage. All files are JSON or safetensors; nothing is pickled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from model_store.durable_files import write_durably
from model_store.errors import CheckpointError
from training.config import TrainingConfig
from training.loop import distributed

CONFIG = "config.json"
SECONDS = "seconds.json"


class RunFolder:
    """Artefacts of a run by name. Files are replaced atomically; a half-written file never has a final name."""

    def __init__(self, path: Path, config: TrainingConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def create_or_resume(cls, path: Path, config: TrainingConfig, source: str, resume: bool | None = None) -> Self:
        """Start a run, or resume one with the same configuration and data source.

        Args:
            path: The folder.
            config: Configuration of the run. Settings that the run's file lacks count as defaults.
            source: Data source.
            resume: Require a run to resume (True), or no run (False).

        Raises:
            CheckpointError: The folder holds another run, or does not meet ``resume``.
        """
        run = cls(path, config)
        if resume is not None and run.has(CONFIG) != resume:
            problem = "there is no run to resume in" if resume else "there is a run already in"
            fix = "leave --resume out to start one" if resume else "choose another --out, or remove that folder"
            raise CheckpointError(f"{problem} {path}", fix)

        if not run.has(CONFIG):
            path.mkdir(parents=True, exist_ok=True)
            run.write_json(CONFIG, {"source": source, "config": config.model_dump(mode="json")})
        elif changed := _difference(run.read_json(CONFIG), config, source):
            raise CheckpointError(
                f"{path} holds a run with another {changed}", "choose another --out, or remove that folder"
            )
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

    @property
    def source(self) -> str:
        """Data source that the run was started with."""
        return str(self.read_json(CONFIG)["source"])

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
        if TrainingConfig.model_validate(found["config"]) != config:
            return "configuration"
        return "" if found["source"] == source else "data source"
    except (KeyError, TypeError, ValueError):
        return "configuration"
