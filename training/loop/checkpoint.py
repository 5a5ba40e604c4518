"""A stage that is under way, kept in one file from time to time, so that a killed run loses a minute at most.

The file is safetensors: weights, moments of optimisers, sums and states of randomness as tensors, everything else as
JSON in its metadata, and a SHA-256 over both. It is replaced atomically and removed when the stage's artefact is there.

Batches of an epoch are drawn when the epoch begins, by the stage's own source of randomness. So a place in training is:
the state of that source at the start of the epoch, the number of batches done since, and torch's global randomness
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
"""Least time between two saves of a stage."""

SAVING_SHARE = 0.05
"""Most of the time that goes into saving; large models are saved less often."""

T = TypeVar("T")


class State(NamedTuple):
    """What is kept of one part of a stage."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]  # plain values, as JSON has them


class Resumable(Protocol):
    """A part of a stage that training changes."""

    def state(self) -> State:
        """Everything that is needed to go on from here."""

    def restore(self, state: State) -> None:
        """Become what :meth:`state` described."""


class Weights:
    """A network as part of a stage."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def state(self) -> State:
        """See :class:`Resumable`."""
        return State(dict(self.network.state_dict()), {})

    def restore(self, state: State) -> None:
        """See :class:`Resumable`."""
        self.network.load_state_dict(state.tensors)


class Best:
    """The best weights of a network so far, judged by validation.

    Attributes:
        score: That of the best weights; -1 before the first.
        misses: Validations since then.
        metrics: What else was measured with the best weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.score, self.misses = -1.0, 0
        self.metrics: dict[str, float] = {}
        self._weights: dict[str, Tensor] = {}

    def offer(self, score: float, metrics: Mapping[str, float] | None = None) -> None:
        """Keep a copy of the weights if they are better than the best so far."""
        if score <= self.score:
            self.misses += 1
            return
        self.score, self.misses, self.metrics = score, 0, dict(metrics or {})
        self._weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def put_back(self) -> None:
        """Give the network its best weights again."""
        self.network.load_state_dict(self._weights)

    def state(self) -> State:
        """See :class:`Resumable`."""
        return State(self._weights, {"score": self.score, "misses": self.misses, "metrics": self.metrics})

    def restore(self, state: State) -> None:
        """See :class:`Resumable`."""
        place = next(self.network.parameters()).device
        self._weights = {name: tensor.to(place) for name, tensor in state.tensors.items()}
        self.score, self.misses, self.metrics = (state.values[key] for key in ("score", "misses", "metrics"))


class Course:
    """How far a stage is, and the way through its epochs and batches.

        course = Course(path, rng, {"network": Weights(network), "optimiser": optimiser}, device)
        for epoch in course.epochs(config.epochs):
            for batch in course.batches(drawn_from(rng)):
                course.add(losses_of_a_step)
            means = course.means()

    Attributes:
        resumed: Whether the stage goes on from a file.
        epoch: Epochs done.
        step: Batches of this epoch done.
        done: Batches done in all.
    """

    def __init__(
        self,
        path: Path | None,
        rng: np.random.Generator | torch.Generator,
        parts: Mapping[str, Resumable],
        device: torch.device,
    ) -> None:
        """Begin, or restore all ``parts``, ``rng`` and torch's global randomness from a file.

        Args:
            path: Where to keep the stage; None: nowhere.
            rng: What draws the batches of an epoch.
            parts: All that training changes, by name.
            device: Where training happens.

        Raises:
            CheckpointError: The file is damaged, or of another training.
        """
        self._path, self._rng, self._parts, self._device = path, rng, parts, device
        self.epoch = self.step = self.done = 0
        self._sums: dict[str, Tensor] = {}
        self._drawn_from = _state_of(rng)
        self._began, self._due = time.monotonic(), time.monotonic() + SAVE_EVERY_S
        self.resumed = path is not None and path.is_file()
        if path is not None and self.resumed:
            self._restore(path)

    def epochs(self, most: int) -> Iterator[int]:
        """Numbers of the epochs that are left of ``most``."""
        while self.epoch < most:
            self._drawn_from = _state_of(self._rng)
            yield self.epoch
            self.epoch, self.step, self._sums = self.epoch + 1, 0, {}
            self._drawn_from = _state_of(self._rng)
            self._save_if_due()

    def batches(self, drawn: Sequence[T]) -> Iterator[T]:
        """What is left of an epoch's batches; one counts as done when the next is asked for."""
        for at in range(self.step, len(drawn)):
            yield drawn[at]
            self.step, self.done = at + 1, self.done + 1
            self._save_if_due()

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Sum up this process's shares of a step's losses, on their device: reading one would make the host wait."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss.detach() if name in self._sums else loss.detach()

    def means(self) -> dict[str, float]:
        """The mean of each loss over the batches of this epoch done, all processes together."""
        return {name: value.item() / max(1, self.step) for name, value in distributed.total(self._sums).items()}

    def _save_if_due(self) -> None:
        if self._path is None or not distributed.is_first() or time.monotonic() < self._due:
            return
        started = time.monotonic()
        states = {name: part.state() for name, part in self._parts.items()}
        tensors = {f"{name}/{key}": tensor for name, part in states.items() for key, tensor in part.tensors.items()}
        tensors |= {f"sums/{name}": value for name, value in self._sums.items()} | _randomness(self._device)
        place = {"epoch": self.epoch, "step": self.step, "done": self.done, "rng": self._drawn_from}
        spent = {"seconds": started - self._began, "losses": list(self._sums)}
        values = {name: part.values for name, part in states.items()}
        write_state(self._path, State(tensors, place | spent | {"parts": values}))
        took = time.monotonic() - started
        self._due = time.monotonic() + max(SAVE_EVERY_S, took / SAVING_SHARE)

    def _restore(self, path: Path) -> None:
        tensors, values = read_state(path)
        try:
            self.epoch, self.step, self.done = values["epoch"], values["step"], values["done"]
            self._began -= values["seconds"]
            self._sums = {name: tensors[f"sums/{name}"].to(self._device) for name in values["losses"]}
            for name, part in self._parts.items():
                part.restore(State(_under(name, tensors), values["parts"][name]))
            _set_state(self._rng, values["rng"])
            _set_randomness(self._device, _under("random", tensors), self.done)
        except (KeyError, TypeError, ValueError, RuntimeError) as cause:
            raise _unusable(path, f"it is of another training ({cause})") from cause


def checkpoint_name(artefact: str) -> str:
    """Name of the file that keeps the stage of an artefact while it is under way."""
    return f"{artefact.removesuffix('.safetensors')}.checkpoint.safetensors"


def seconds_spent(path: Path) -> float:
    """Seconds that went into a stage under way; 0 if it has not begun.

    Raises:
        CheckpointError: The file is damaged.
    """
    return float(read_state(path).values["seconds"]) if path.is_file() else 0.0


def write_state(path: Path, state: State) -> None:
    """Create or replace a file of tensors and plain values."""
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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
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


def _state_of(rng: np.random.Generator | torch.Generator) -> Any:
    return rng.get_state().tolist() if isinstance(rng, torch.Generator) else rng.bit_generator.state


def _set_state(rng: np.random.Generator | torch.Generator, state: Any) -> None:
    if isinstance(rng, torch.Generator):
        rng.set_state(torch.tensor(state, dtype=torch.uint8))
    else:
        rng.bit_generator.state = state


def _randomness(device: torch.device) -> dict[str, Tensor]:
    found = {"random/cpu": torch.get_rng_state()}
    return found | ({"random/cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_randomness(device: torch.device, states: Mapping[str, Tensor], done: int) -> None:
    if not distributed.is_first():
        # Only the first process saves; dropout of the others goes on with other numbers than it would have.
        torch.manual_seed(done * distributed.processes() + distributed.rank())
        return
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
