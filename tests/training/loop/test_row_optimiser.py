"""Rows of a table that steps take are trained as AdamW trains them; all others stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.loop.optimiser import Optimiser, cosine, descend
from training.loop.row_optimiser import RowOptimiser

ROWS, WIDTH, STEPS = 6, 4, 12


def table() -> nn.Parameter:
    return nn.Parameter(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)))


def loss_of(vectors: torch.Tensor) -> torch.Tensor:
    return (vectors.cos() * torch.arange(1.0, WIDTH + 1)).sum()


def test_rows_that_every_step_takes_are_trained_as_by_adamw() -> None:
    ours, theirs = table(), table()
    rows = RowOptimiser(ours, 0.05, 0.1, cosine(STEPS, 0.2))
    plain = Optimiser(torch.optim.AdamW([theirs], 0.05, weight_decay=0.1), cosine(STEPS, 0.2))
    for _ in range(STEPS):
        descend(loss_of(rows.take(torch.arange(ROWS))), rows)
        descend(loss_of(theirs), plain)
    torch.testing.assert_close(ours, theirs)


def test_rows_that_no_step_takes_stay_and_a_late_row_starts_like_a_new_one() -> None:
    ours, late = table(), table()
    rows = RowOptimiser(ours, 0.05, 0.1, lambda _: 1.0)
    before = ours.detach().clone()
    for _ in range(5):
        descend(loss_of(rows.take(torch.tensor([1, 4]))), rows)
    still = [0, 2, 3, 5]
    assert torch.equal(ours[still], before[still])
    assert (ours[[1, 4]] != before[[1, 4]]).all()

    plain = Optimiser(torch.optim.AdamW([late], 0.05, weight_decay=0.1), lambda _: 1.0)
    descend(loss_of(rows.take(torch.tensor([2]))), rows)
    descend(loss_of(late), plain)
    torch.testing.assert_close(ours[2], late[2])


def test_a_restored_optimiser_goes_on_as_if_nothing_had_happened() -> None:
    ours, resumed = table(), table()
    calm = RowOptimiser(ours, 0.05, 0.1, cosine(8))
    for step in range(4):
        descend(loss_of(calm.take(torch.tensor([step, 5]))), calm)
    again = RowOptimiser(resumed, 0.05, 0.1, cosine(8))
    again.restore(calm.state())
    with torch.no_grad():
        resumed.copy_(ours)
    for optimiser in (calm, again):
        descend(loss_of(optimiser.take(torch.tensor([3, 5]))), optimiser)
    assert torch.equal(ours, resumed)


def test_a_step_without_a_gradient_is_a_mistake() -> None:
    rows = RowOptimiser(table(), 0.05, 0.1, lambda _: 1.0)
    rows.take(torch.tensor([0]))
    with pytest.raises(RuntimeError, match="no gradient"):
        rows.apply()
