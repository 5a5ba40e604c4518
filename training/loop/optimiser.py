"""Optimisers that step only the networks of a phase: AdamW, schedules, clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from model_store.network.recommender import Recommender
from training.loop import distributed
from training.loop.checkpoint import State

Schedule = Callable[[int], float]
"""Factor of the step size at each step, counted from 0."""


class Descent(Protocol):
    """What takes steps down a gradient."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """Parameters whose gradients a step follows."""

    def apply(self) -> None:
        """Take one step with the gradients that the parameters hold."""


class Optimiser:
    """Optimiser of one network: step sizes follow a schedule, gradients are clipped.

    Attributes:
        steps: Number of steps taken.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, clip: float = math.inf) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        self.parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        self.steps = 0
        self._rates: list[float] = [group["lr"] for group in optimizer.param_groups]

    def apply(self) -> None:
        """Take one step with the gradients that the parameters hold, and clear them."""
        if math.isfinite(self.clip):
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.schedule(self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1

    def state(self) -> State:
        """Return the moments by number of their parameter, and the steps taken."""
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"{index}.{name}": value for index, kept in moments.items() for name, value in kept.items()}
        return State(tensors, {"steps": self.steps})

    def restore(self, state: State) -> None:
        """Set moments and steps to those that :meth:`state` returned."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.tensors.items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.steps = state.values["steps"]


def descend(loss: Tensor, *optimisers: Descent) -> None:
    """Update the parameters of these optimisers, and no others, down the gradient of ``loss``.

    With several processes ``loss`` is this one's share, and all take the same step down the sum of shares.
    """
    trained = [parameter for optimiser in optimisers for parameter in optimiser.parameters]
    loss.backward(inputs=trained)
    distributed.sum_gradients(trained)
    for optimiser in optimisers:
        optimiser.apply()


def cosine(steps: int, warmup: float = 0.0) -> Schedule:
    """Return a schedule that rises linearly over the share ``warmup`` of all steps, then falls to zero on a cosine."""
    rising = round(steps * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))

    return factor


def recommender_optimizer(recommender: Recommender, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Create an AdamW for all trainable weights that decays matrices, not the gains of norms."""
    trained = [p for p in recommender.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2]
    gains = [p for p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, fused=True)
