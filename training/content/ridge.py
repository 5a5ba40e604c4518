"""Weighted ridge regression on sparse input, by conjugate gradients: memory and time grow with the entries alone.

Shapes: N rows, M columns, D quantities that are predicted side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

ITERATIONS, TOLERANCE = 60, 1e-4
"""At most, and the length of what is left, relative to the start, at which to stop."""

_TINY = 1e-30


class Entries(NamedTuple):
    """What a sparse matrix ``[N, M]`` holds, ordered by row."""

    row: Tensor  # [entries] int64
    column: Tensor  # [entries] int64
    value: Tensor  # [entries]


class _Bags(NamedTuple):
    """A sparse matrix in compressed rows, which multiplies dense ones."""

    columns: Tensor  # [entries]
    values: Tensor  # [entries]
    offsets: Tensor  # [rows], where each begins

    def __matmul__(self, dense: Tensor) -> Tensor:
        product: Tensor = functional.embedding_bag(
            self.columns, dense, self.offsets, mode="sum", per_sample_weights=self.values
        )
        return product


class Ridge:
    """Minimises ``sum_i w_i ||y_i - x_i A||^2 + penalty ||A||^2`` over A ``[M, D]``, for any y and penalty.

    Args:
        entries: The x.
        shape: N and M.
        weights: w, ``[N]``, not negative.
    """

    def __init__(self, entries: Entries, shape: tuple[int, int], weights: Tensor) -> None:
        by_column = torch.sort(entries.column, stable=True).indices
        self._rows = _bags(entries.row, entries.column, entries.value, shape[0])
        column, row, value = (part[by_column] for part in (entries.column, entries.row, entries.value))
        self._columns = _bags(column, row, value, shape[1])
        self._weights = weights[:, None]
        squares = entries.value.square() * weights[entries.row]
        self._diagonal = torch.zeros(shape[1]).index_add_(0, entries.column, squares)

    def solve(self, y: Tensor, penalty: float) -> Tensor:
        """A for ``y [N, D]``; conjugate gradients, preconditioned by the diagonal."""
        diagonal = (self._diagonal + penalty)[:, None]
        found, residual = torch.zeros(len(diagonal), y.shape[1]), self._columns @ (self._weights * y)
        direction = scaled = residual / diagonal
        product = (residual * scaled).sum(0)
        enough = TOLERANCE**2 * product
        for _ in range(ITERATIONS):
            if (product <= enough).all():
                break
            image = self._columns @ (self._weights * (self._rows @ direction)) + penalty * direction
            step = product / (direction * image).sum(0).clamp(min=_TINY)
            found, residual = found + step * direction, residual - step * image
            scaled = residual / diagonal
            product, before = (residual * scaled).sum(0), product
            direction = scaled + product / before.clamp(min=_TINY) * direction
        return found


def _bags(row: Tensor, column: Tensor, value: Tensor, rows: int) -> _Bags:
    count = torch.bincount(row, minlength=rows)
    return _Bags(column.contiguous(), value.contiguous(), count.cumsum(0) - count)
