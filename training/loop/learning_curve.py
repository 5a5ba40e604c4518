"""What a stage measures in every epoch: kept while the stage is interrupted, stored when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.loop.checkpoint import State
from training.loop.progress import Bar


@dataclass
class LearningCurve:
    """Losses and metrics by name, an entry per epoch; a part of a stage that can be resumed."""

    epochs: list[dict[str, float]] = field(default_factory=list)

    def add(self, values: Mapping[str, float], bar: Bar) -> None:
        """Keep and show what an epoch measured."""
        bar.record(len(self.epochs), values)
        self.epochs.append(dict(values))

    def state(self) -> State:
        """See :class:`training.loop.checkpoint.Resumable`."""
        return State({}, {"epochs": self.epochs})

    def restore(self, state: State) -> None:
        """See :class:`training.loop.checkpoint.Resumable`."""
        self.epochs = state.values["epochs"]
