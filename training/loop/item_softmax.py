"""Softmax cross-entropy over items: exact over all of them, or estimated from sampled negatives.

Full. Scores ``[n, N]`` of a batch outgrow the cache, and their gradient needs as much again. Here positions are taken
in slices, and one pass gives loss and gradients: measured 1.3 to 2 times as fast on a CPU, in a fraction of the memory.
The numbers are those of the plain formula up to rounding.

Sampled. The sum over all items in the softmax's denominator is estimated by importance sampling (Bengio and Senecal,
2008): the target's own term is exact, and each of M draws from a proposal q stands for 1 / (M q) of the others, which
subtracts log(M q) from its score (the logQ correction). A draw equal to the target is masked. The estimate of the
denominator is unbiased for independent draws, and loss and gradient approach the full ones as M grows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training.loop.batches import ragged_indices
from training.loop.compute import without_autocast
from training.loop.device import to_device

SAMPLED_ABOVE = 50_000
"""Largest number of items of which all are scored in every step.

Up to here the cost of an epoch grows with the square of the items, from here on it is linear. Here a step with samples
costs a sixth, and training needs more of them: 1.7 times where that was measured (docs/LOG.md)."""

NEGATIVES = 4096
"""Items drawn for a batch, besides its own targets, where not all are scored."""

CPU_SLICE = 256
"""Positions at a time on a CPU."""

GPU_SLICE = 8192
"""Positions at a time on other devices."""

Observer = Callable[[int, Tensor], None]
"""Function that is called with a slice's first row and its probabilities ``[slice, N]``, which it must not keep."""


class Additions(NamedTuple):
    """Numbers to add to some of the scores ``[n, N]``: entries by ascending row; several for one score add up."""

    row: Tensor  # [m] int64
    item: Tensor  # [m] int64
    value: Tensor  # [m]
    row_start: npt.NDArray[np.int64]  # [n + 1] on the host, first entry of each row, and m

    @classmethod
    def of_histories(
        cls, items: Tensor, prefix: Tensor, value: Tensor, real: Tensor, host_prefix: npt.NDArray[np.int64]
    ) -> Additions:
        """Return the additions of histories to the scores of their own items, a row for each real target in order.

        Args:
            items: ``[B, T]``, numbered as the scores are.
            prefix: ``[B, P]``, number of items before each target.
            value: ``[B, P, T]``, number to add for each target and item.
            real: ``[n]``, indices of the real targets into ``[B · P]``.
            host_prefix: ``[n]``, their prefixes on the host.
        """
        row_start = np.concatenate([[0], np.cumsum(host_prefix)])
        row, column = ragged_indices(prefix.flatten()[real], int(row_start[-1]))
        target = real[row]
        return cls(row, items[target // prefix.shape[1], column], value.flatten(0, 1)[target, column], row_start)


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        row: Tensor,
        item: Tensor,
        value: Tensor,
        row_start: npt.NDArray[np.int64],
        targets: Tensor,
        rows: int,
        observe: Observer | None,
        target_weights: Tensor | None,
    ) -> Tensor:
        size = CPU_SLICE if hidden.device.type == "cpu" else GPU_SLICE
        is_trained = ctx.needs_input_grad[1]
        hidden_gradient = torch.empty_like(hidden)
        value_gradient = torch.empty_like(value)
        weight_gradient = torch.zeros_like(weight) if is_trained else None
        total = hidden.new_zeros(())

        for start in range(0, len(targets), size):
            part = hidden[start : start + size]
            wanted = targets[start : start + size, None]
            added = slice(int(row_start[start]), int(row_start[min(start + size, len(targets))]))
            flat_index = (row[added] - start) * len(weight) + item[added]

            score = part @ weight.T
            score.view(-1).index_add_(0, flat_index, value[added])
            log_probability = functional.log_softmax(score, dim=-1)
            gained = log_probability.gather(1, wanted)
            weights = None if target_weights is None else target_weights[start : start + size, None]
            total -= gained.sum() if weights is None else (weights * gained).sum()

            # From here on one buffer holds the probabilities, then the gradient of the scores.
            gradient = log_probability.exp_()
            if observe is not None:
                observe(start, gradient)
            # The gradient of the scores: probabilities, less 1 at the target.
            gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
            if weights is not None:
                gradient *= weights
            if ctx.needs_input_grad[0]:
                torch.mm(gradient, weight, out=hidden_gradient[start : start + size])
            value_gradient[added] = gradient.view(-1)[flat_index]
            if weight_gradient is not None:
                weight_gradient.addmm_(gradient.T, part)

        ctx.save_for_backward(
            hidden_gradient / rows,
            weight_gradient / rows if weight_gradient is not None else None,
            value_gradient / rows,
        )
        return total / rows

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient, value_gradient = ctx.saved_tensors
        weight_gradient = weight_gradient * grad_outputs[0] if weight_gradient is not None else None
        value_gradient = value_gradient * grad_outputs[0]

        # In the order of the arguments of forward: hidden, weight, row, item, value and five without gradients.
        without = (None,) * 5
        return hidden_gradient * grad_outputs[0], weight_gradient, None, None, value_gradient, *without


def full_softmax_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    rows: int | None = None,
    observe: Observer | None = None,
    additions: Additions | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean of -log softmax(hidden · weightᵀ + additions) at the targets.

    For training: gradients are computed at once. All is fp32, also inside autocast.

    Args:
        hidden: ``[n, d]``, at least one row, or ``rows`` given.
        weight: ``[N, d]``, item embeddings.
        targets: ``[n]`` int64, item rows.
        rows: Divisor of the sum, if not n: the rows of all processes together.
        observe: Function that sees the probabilities on the way.
        additions: Numbers to add to the scores.
        target_weights: ``[n]``, factor of each target's term in the sum; None: 1.

    Returns:
        Scalar.
    """
    no_entries = np.zeros(len(targets) + 1, dtype=np.int64)
    added = additions or Additions(targets[:0], targets[:0], hidden.new_empty(0), no_entries)
    count = len(targets) if rows is None else rows
    with without_autocast(hidden.device):
        loss: Tensor = _FullSoftmax.apply(
            hidden.float(), weight.float(), *added, targets, count, observe, target_weights
        )
    return loss


class Candidates(NamedTuple):
    """Sampled items that stand for all others in the denominator of a sampled softmax."""

    items: Tensor  # [C] int64, item rows, each once
    log_weight: Tensor  # [C], log of the number of items that each stands for: times drawn / (M q); -inf for none

    def to(self, device: torch.device) -> Candidates:
        """Return a copy on a device."""
        return Candidates(to_device(self.items, device), to_device(self.log_weight, device))


class Proposal:
    """Sampler that draws items by their frequency as targets, and counts a batch's own targets as draws, too."""

    def __init__(self, targets: npt.NDArray[np.integer], n_items: int, negatives: int) -> None:
        """Estimate q, the probability of a draw, from training targets.

        Args:
            targets: All training targets, item rows.
            n_items: N.
            negatives: Number of draws for a batch, besides its own targets.
        """
        self.probability = np.bincount(targets, minlength=n_items) / len(targets)
        self.negatives = negatives
        self._cumulative = np.cumsum(self.probability)

    def candidates(
        self,
        targets: npt.NDArray[np.integer],
        rng: np.random.Generator | None = None,
        others: npt.NDArray[np.integer] | None = None,
    ) -> Candidates:
        """Return the distinct items among a batch's targets and fresh draws, ascending.

        Args:
            targets: Targets of the batch, item rows.
            rng: Source of the draws; without it nothing is drawn.
            others: Items to put among the candidates that stand for no item, if they are none yet.
        """
        draws = rng.random(self.negatives) if rng is not None else np.empty(0)
        drawn = np.searchsorted(self._cumulative, draws * self._cumulative[-1], side="right")
        items, times = np.unique(np.concatenate([targets, drawn]), return_counts=True)
        log_weight = np.log(times / ((len(targets) + len(draws)) * self.probability[items]))

        if others is not None:
            unsampled = np.setdiff1d(others, items)
            items = np.concatenate([items, unsampled])
            log_weight = np.concatenate([log_weight, np.full(len(unsampled), -np.inf)])
            order = np.argsort(items)
            items, log_weight = items[order], log_weight[order]
        return Candidates(torch.from_numpy(items.astype(np.int64)), torch.from_numpy(log_weight).float())


def sampled_softmax_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidates: Candidates,
    rows: int | None = None,
    additions: Additions | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """Estimate :func:`full_softmax_loss` from candidates; the other arguments are the same, and so is fp32."""
    exact = (hidden * weight[targets]).sum(dim=1)
    with without_autocast(hidden.device):
        estimated = hidden.float() @ weight[candidates.items].T.float() + candidates.log_weight

    if additions is not None:
        row, item, value, _ = additions
        # Entries that do not apply add 0: to leave them out, the host would have to wait for their number.
        exact = exact.index_add(0, row, value.masked_fill(targets[row] != item, 0.0))
        column = torch.searchsorted(candidates.items, item).clamp(max=len(candidates.items) - 1)
        held = value.masked_fill(candidates.items[column] != item, 0.0)
        estimated = estimated.index_put((row, column), held, accumulate=True)

    # A candidate that is the target itself must not count twice.
    estimated = estimated.masked_fill(candidates.items == targets[:, None], -torch.inf)
    first = torch.zeros_like(targets)
    scores = torch.cat([exact[:, None], estimated], dim=1)
    if target_weights is None:
        loss = functional.cross_entropy(scores, first, reduction="sum")
    else:
        loss = (target_weights * functional.cross_entropy(scores, first, reduction="none")).sum()
    return loss / (len(targets) if rows is None else rows)
