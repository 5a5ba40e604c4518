"""Checkpoints of a training stage: saved every minute or so, so that a killed run can resume.

The file is safetensors: weights, moments of optimisers, loss sums and random states as tensors, everything else as JSON
in its metadata, and a SHA-256 over both. It is replaced atomically, and removed once the stage's artefact exists.

Batches of an epoch are drawn when the epoch begins, by the stage's own random generator. So a point in training is: the
state of that generator at the start of the epoch, the number of batches done since, and torch's global random state
(dropout) as it is. A resumed stage draws the same batches and skips those that are done.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model_store.durable_files import write_durably
from model_store.errors import CheckpointError
from training.loop import distributed

SAVE_EVERY_S = 60.0
"""Minimum time between two saves of a stage."""

SAVING_SHARE = 0.05
"""Maximum share of the time that goes into saving; large models are saved less often."""

T = TypeVar("T")


class State(NamedTuple):
    """Saved state of one part of a stage."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]  # JSON values


class Resumable(Protocol):
    """Part of a stage that training changes: a network, an optimiser, a learning curve."""

    def state(self) -> State:
        """Return everything that is needed to resume from here."""

    def restore(self, state: State) -> None:
        """Set everything to what :meth:`state` returned."""


class Weights:
    """Weights of a network, as part of a stage."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def state(self) -> State:
        """See :class:`Resumable`."""
        return State(dict(self.network.state_dict()), {})

    def restore(self, state: State) -> None:
        """See :class:`Resumable`."""
        self.network.load_state_dict(state.tensors)


class BestWeights:
    """Best weights of a network so far, judged by validation.

    Attributes:
        score: Score of the best weights; -1 before the first.
        misses: Number of validations since then.
        metrics: All metrics of the best weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.score = -1.0
        self.misses = 0
        self.metrics: dict[str, float] = {}
        self._weights: dict[str, Tensor] = {}

    def offer(self, score: float, metrics: Mapping[str, float] | None = None) -> None:
        """Keep a copy of the weights if they are better than the best so far."""
        if score <= self.score:
            self.misses += 1
            return

        self.score = score
        self.misses = 0
        self.metrics = dict(metrics or {})
        self._weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def load_best(self) -> None:
        """Load the best weights into the network."""
        self.network.load_state_dict(self._weights)

    def state(self) -> State:
        """See :class:`Resumable`."""
        return State(self._weights, {"score": self.score, "misses": self.misses, "metrics": self.metrics})

    def restore(self, state: State) -> None:
        """See :class:`Resumable`."""
        device = next(self.network.parameters()).device
        self._weights = {name: tensor.to(device) for name, tensor in state.tensors.items()}
        self.score = state.values["score"]
        self.misses = state.values["misses"]
        self.metrics = state.values["metrics"]


class ResumableLoop:
    """Loop over a stage's epochs and batches that saves checkpoints on its way, and resumes from one.

        loop = ResumableLoop(path, rng, {"network": Weights(network), "optimiser": optimiser}, device)
        for epoch in loop.epochs(config.epochs):
            for batch in loop.batches(draw_batches(rng)):
                loop.add(train_step(batch))
            means = loop.means()

    Attributes:
        resumed: True if the stage was resumed from a file.
        epoch: Epochs done.
        step: Batches of this epoch done.
        done: Batches done in all epochs.
    """

    def __init__(
        self,
        path: Path | None,
        rng: np.random.Generator | torch.Generator,
        parts: Mapping[str, Resumable],
        device: torch.device,
    ) -> None:
        """Begin, or restore all ``parts``, ``rng`` and torch's global random state from a file.

        Args:
            path: Checkpoint file of the stage; None: save nothing.
            rng: Generator that draws the batches of an epoch.
            parts: Everything that training changes, by name.
            device: Device of the training.

        Raises:
            CheckpointError: The file is damaged, or belongs to another training.
        """
        self._path = path
        self._rng = rng
        self._parts = parts
        self._device = device
        self.epoch = self.step = self.done = 0
        self._sums: dict[str, Tensor] = {}
        self._epoch_rng_state = _get_state(rng)
        self._started = time.monotonic()
        self._spent = 0.0  # seconds of earlier attempts
        self._next_save = time.monotonic() + SAVE_EVERY_S

        self.resumed = path is not None and path.is_file()
        if path is not None and self.resumed:
            self._restore(path)
        if path is not None:
            self._refuse_another_point(path)

    def epochs(self, most: int) -> Iterator[int]:
        """Yield the numbers of the epochs that are left of ``most``."""
        while self.epoch < most:
            self._epoch_rng_state = _get_state(self._rng)
            yield self.epoch

            self.epoch += 1
            self.step = 0
            self._sums = {}
            self._epoch_rng_state = _get_state(self._rng)
            self._save_if_due()

    def batches(self, drawn: Sequence[T]) -> Iterator[T]:
        """Yield the batches that are left of an epoch's; a batch counts as done when the next is asked for."""
        for at in range(self.step, len(drawn)):
            yield drawn[at]
            self.step = at + 1
            self.done += 1
            self._save_if_due()

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Sum up this process's shares of a step's losses on their device; reading them would make the host wait."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss.detach() if name in self._sums else loss.detach()

    def means(self) -> dict[str, float]:
        """Return the mean of each loss over the batches of this epoch done, all processes together."""
        sums = distributed.sum_over_processes(self._sums)
        return {name: value.item() / max(1, self.step) for name, value in sums.items()}

    def _save_if_due(self) -> None:
        if self._path is None or not distributed.is_first() or time.monotonic() < self._next_save:
            return

        started = time.monotonic()
        states = {name: part.state() for name, part in self._parts.items()}
        tensors = {f"{name}/{key}": tensor for name, part in states.items() for key, tensor in part.tensors.items()}
        tensors |= {f"sums/{name}": value for name, value in self._sums.items()} | _random_states(self._device)
        values = {
            "epoch": self.epoch,
            "step": self.step,
            "done": self.done,
            "rng": self._epoch_rng_state,
            "seconds": started - self._started,
            "losses": list(self._sums),
            "parts": {name: part.values for name, part in states.items()},
        }
        write_state(self._path, State(tensors, values))

        took = time.monotonic() - started
        self._next_save = time.monotonic() + max(SAVE_EVERY_S, took / SAVING_SHARE)

    def _refuse_another_point(self, path: Path) -> None:
        """Refuse to go on from another point than the first process, which would train another model."""
        point = [self.done, self._spent]
        first = distributed.compute_on_first(lambda: point)
        if point != first:
            raise _unusable(
                path, f"this machine has it after {point[0]} batches, and that of the first process after {first[0]}"
            )

    def _restore(self, path: Path) -> None:
        tensors, values = read_state(path)

        try:
            self.epoch = values["epoch"]
            self.step = values["step"]
            self.done = values["done"]
            self._started -= values["seconds"]
            self._spent = values["seconds"]
            self._sums = {name: tensors[f"sums/{name}"].to(self._device) for name in values["losses"]}
            for name, part in self._parts.items():
                part.restore(State(_under(name, tensors), values["parts"][name]))
            _set_state(self._rng, values["rng"])
            _set_random_states(self._device, _under("random", tensors), self.done)
        except (KeyError, TypeError, ValueError, RuntimeError) as cause:
            raise _unusable(path, f"it belongs to another training ({cause})") from cause


def checkpoint_name(artefact: str) -> str:
    """Return the name of the checkpoint file of the stage that makes an artefact."""
    return f"{artefact.removesuffix('.safetensors')}.checkpoint.safetensors"


def seconds_spent(path: Path) -> float:
    """Return the seconds that an unfinished stage has taken so far; 0 if it has not begun.

    Raises:
        CheckpointError: The file is damaged.
    """
    return float(read_state(path).values["seconds"]) if path.is_file() else 0.0


def write_state(path: Path, state: State) -> None:
    """Create or replace a file of tensors and JSON values."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    text = json.dumps(state.values)
    write_durably(path, save(tensors, {"values": text, "sha256": _digest(tensors, text)}))


def read_state(path: Path) -> State:
    """Read what :func:`write_state` wrote.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            metadata = file.metadata() or {}
        is_whole = _digest(tensors, metadata["values"]) == metadata["sha256"]
        values = json.loads(metadata["values"])
    except (OSError, SafetensorError, KeyError, ValueError) as cause:
        raise _unusable(path, f"it is damaged ({cause})") from cause

    if not is_whole:
        raise _unusable(path, "it is damaged (its content does not match its SHA-256)")
    return State(tensors, values)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _unusable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be resumed: {problem}", "remove that file to begin its stage again")


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _get_state(rng: np.random.Generator | torch.Generator) -> Any:
    return rng.get_state().tolist() if isinstance(rng, torch.Generator) else rng.bit_generator.state


def _set_state(rng: np.random.Generator | torch.Generator, state: Any) -> None:
    if isinstance(rng, torch.Generator):
        rng.set_state(torch.tensor(state, dtype=torch.uint8))
    else:
        rng.bit_generator.state = state


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random/cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(device: torch.device, states: Mapping[str, Tensor], done: int) -> None:
    if not distributed.is_first():
        # Only the first process saves, so dropout of the others cannot continue with the same numbers.
        torch.manual_seed(done * distributed.world_size() + distributed.rank())
        return
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
