"""Learning curve of a training stage: its losses and metrics, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.loop.checkpoint import State
from training.loop.progress import Bar


@dataclass
class LearningCurve:
    """Losses and metrics by name, one entry an epoch; it is part of the stage's checkpoint."""

    epochs: list[dict[str, float]] = field(default_factory=list)

    def add(self, values: Mapping[str, float], bar: Bar) -> None:
        """Append the values of an epoch, and show them."""
        bar.record(len(self.epochs), values)
        self.epochs.append(dict(values))

    def state(self) -> State:
        """See :class:`training.loop.checkpoint.Resumable`."""
        return State({}, {"epochs": self.epochs})

    def restore(self, state: State) -> None:
        """See :class:`training.loop.checkpoint.Resumable`."""
        self.epochs = state.values["epochs"]
