"""Cross-entropy over all items without ever holding the scores of a whole batch.

Scores ``[n, N]`` of a batch outgrow the cache, and its gradient needs as much again. Taken in slices of positions, loss
and gradients come out of one pass: measured 1.3 to 2 times as fast on a CPU, in a fraction of the memory. The numbers
are those of the plain formula up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CPU_SLICE, GPU_SLICE = 256, 8192
"""Positions at a time."""


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        size = CPU_SLICE if hidden.device.type == "cpu" else GPU_SLICE
        count = len(targets)
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight)
        total = hidden.new_zeros(())
        for start in range(0, count, size):
            part, wanted = hidden[start : start + size], targets[start : start + size, None]
            log_probability = functional.log_softmax(part @ weight.T, dim=-1)
            total -= log_probability.gather(1, wanted).sum()
            gradient = log_probability.exp_()  # of the scores: probabilities, less 1 at the target
            gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
            torch.mm(gradient, weight, out=hidden_gradient[start : start + size])
            weight_gradient.addmm_(gradient.T, part)
        ctx.save_for_backward(hidden_gradient / count, weight_gradient / count)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * grad_outputs[0], weight_gradient * grad_outputs[0], None


def full_softmax_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(hidden · weightᵀ) at the targets; for training (gradients are computed at once).

    Args:
        hidden: ``[n, d]``, at least one row.
        weight: ``[N, d]``, item embeddings.
        targets: ``[n]`` int64, item rows.

    Returns:
        Scalar.
    """
    loss: Tensor = _FullSoftmax.apply(hidden, weight, targets)
    return loss
