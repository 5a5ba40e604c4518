"""Weighted ridge regression on sparse input, by conjugate gradients.

Memory and time grow with the number of entries alone. Shapes: N rows, M columns, D quantities that are predicted side
by side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

ITERATIONS = 60
"""Limit on the iterations."""

TOLERANCE = 1e-4
"""Length of the residual, relative to the first one, at which the iterations stop."""

_TINY = 1e-30


class Entries(NamedTuple):
    """Entries of a sparse matrix ``[N, M]``, ordered by row."""

    row: Tensor  # [entries] int64
    column: Tensor  # [entries] int64
    value: Tensor  # [entries]


class _SparseRows(NamedTuple):
    """Sparse matrix in compressed rows, which can be multiplied by a dense matrix."""

    columns: Tensor  # [entries]
    values: Tensor  # [entries]
    offsets: Tensor  # [rows], the first entry of each row

    def __matmul__(self, dense: Tensor) -> Tensor:
        product: Tensor = functional.embedding_bag(
            self.columns, dense, self.offsets, mode="sum", per_sample_weights=self.values
        )
        return product


class Ridge:
    """Minimiser of ``sum_i w_i ||y_i - x_i A||^2 + penalty ||A||^2`` over A ``[M, D]``, for any y and penalty.

    Args:
        entries: Entries of the matrix x.
        shape: N and M.
        weights: Weights w, ``[N]``, not negative.
    """

    def __init__(self, entries: Entries, shape: tuple[int, int], weights: Tensor) -> None:
        by_column = torch.sort(entries.column, stable=True).indices
        self._rows = _sparse_rows(entries.row, entries.column, entries.value, shape[0])
        column, row, value = (part[by_column] for part in (entries.column, entries.row, entries.value))
        self._columns = _sparse_rows(column, row, value, shape[1])
        self._weights = weights[:, None]
        squares = entries.value.square() * weights[entries.row]
        self._diagonal = torch.zeros(shape[1]).index_add_(0, entries.column, squares)

    def solve(self, y: Tensor, penalty: float) -> Tensor:
        """Return A for ``y [N, D]``, by conjugate gradients that are preconditioned by the diagonal."""
        diagonal = (self._diagonal + penalty)[:, None]
        solution = torch.zeros(len(diagonal), y.shape[1])
        residual = self._columns @ (self._weights * y)
        scaled = residual / diagonal
        direction = scaled
        product = (residual * scaled).sum(0)
        enough = TOLERANCE**2 * product

        for _ in range(ITERATIONS):
            if (product <= enough).all():
                break

            image = self._columns @ (self._weights * (self._rows @ direction)) + penalty * direction
            step = product / (direction * image).sum(0).clamp(min=_TINY)
            solution = solution + step * direction
            residual = residual - step * image

            scaled = residual / diagonal
            last_product = product
            product = (residual * scaled).sum(0)
            direction = scaled + product / last_product.clamp(min=_TINY) * direction

        return solution


def _sparse_rows(row: Tensor, column: Tensor, value: Tensor, rows: int) -> _SparseRows:
    count = torch.bincount(row, minlength=rows)
    return _SparseRows(column.contiguous(), value.contiguous(), count.cumsum(0) - count)
