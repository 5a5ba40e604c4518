"""AdamW for the rows of a large table that a step reads, so that a step's cost does not grow with the table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.loop.checkpoint import State
from training.loop.optimiser import Schedule

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class RowOptimiser:
    """AdamW of a table of vectors, row by row: a step changes the rows that it took, and no others.

    Each row counts its own steps. A row that every step takes is trained as :class:`torch.optim.AdamW` would; the
    others, with their moments and their decay, wait for the next step that takes them ("lazy" Adam).

    A step: ``vectors = take(rows)``, a loss of ``vectors``, :func:`training.loop.optimiser.descend`.

    Args:
        table: ``[N, d]``; it gets no gradient of its own.
        rate: Step size.
        weight_decay: Decay of the rows.
        schedule: Factor of the step size at each step.
    """

    def __init__(self, table: Tensor, rate: float, weight_decay: float, schedule: Schedule) -> None:
        self._table = table
        self._rate = rate
        self._decay = weight_decay
        self._schedule = schedule
        self._mean = torch.zeros_like(table)
        self._square = torch.zeros_like(table)
        self._count = torch.zeros(len(table), dtype=torch.float32, device=table.device)
        self._rows = torch.empty(0, dtype=torch.int64, device=table.device)
        self._vectors = nn.Parameter(table.new_empty(0, table.shape[1]))
        self.steps = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The vectors that were taken, ``[n, d]``."""
        return [self._vectors]

    def take(self, rows: Tensor) -> nn.Parameter:
        """Return a copy of some rows, whose gradient the next step follows.

        Args:
            rows: ``[n]`` int64, each once, the same in all processes.
        """
        self._rows = rows
        self._vectors = nn.Parameter(self._table.detach()[rows])
        return self._vectors

    @torch.no_grad()
    def apply(self) -> None:
        """Step the rows that were taken with the gradient of their copy (Loshchilov and Hutter, 2019)."""
        gradient = self._vectors.grad
        if gradient is None:
            raise RuntimeError("the rows that were taken have no gradient")

        rows = self._rows
        mean = self._mean[rows].lerp_(gradient, 1 - BETAS[0])
        square = self._square[rows].lerp_(gradient.square(), 1 - BETAS[1])
        count = self._count[rows] + 1
        rate = self._rate * self._schedule(self.steps)

        bias = [(1 - beta**count)[:, None] for beta in BETAS]
        change = mean / bias[0] / ((square / bias[1]).sqrt_() + EPSILON)
        self._table.index_copy_(0, rows, self._vectors * (1 - rate * self._decay) - rate * change)
        for kept, value in ((self._mean, mean), (self._square, square), (self._count, count)):
            kept.index_copy_(0, rows, value)
        self.steps += 1

    def state(self) -> State:
        """Return the moments and counts of all rows, and the steps taken."""
        return State({"mean": self._mean, "square": self._square, "count": self._count}, {"steps": self.steps})

    def restore(self, state: State) -> None:
        """Set moments, counts and steps to those that :meth:`state` returned."""
        self._mean.copy_(state.tensors["mean"])
        self._square.copy_(state.tensors["square"])
        self._count.copy_(state.tensors["count"])
        self.steps = state.values["steps"]
