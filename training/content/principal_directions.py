"""Principal directions of a matrix: a truncated singular value decomposition, randomised (Halko et al. 2011).

Subspace iteration on the side of the columns, of which there are at most some ten thousand. To make directions of N
rows orthogonal costs four times as much as to multiply them by a sparse matrix, so that happens once, at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

SINGULAR_POWER = 0.5
"""Power of the singular values by which directions are scaled: 1 leaves most of a vector to the few topics that divide
the catalogue best, 0 makes rare topics as loud as those."""

OVERSAMPLING = 16
"""Further directions that the decomposition follows, for exactness."""

SMALLEST_SHARE = 1e-4
"""Singular value, relative to the largest, below which a direction is rounding noise, and left out."""

ITERATIONS = 5
"""Multiplications by the matrix and back, which draw the basis towards the largest directions."""


def principal_directions(matrix: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first left directions, singular values and right directions.

    Args:
        matrix: ``[N, M]``, dense or sparse.
        width: K, number of directions, if the rank allows.
        seed: Seed of the start; the global random state is left as it was.

    Returns:
        ``[N, K]``, ``[K]``, descending, and ``[M, K]``; K may be smaller than ``width``.
    """
    followed = min(width + OVERSAMPLING, *matrix.shape)
    transposed = matrix.t()
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(matrix.shape[1], followed, generator=generator)
    for _ in range(ITERATIONS):
        basis, _ = torch.linalg.qr(transposed @ (matrix @ basis))
        # The decomposition returns columns; a sparse matrix multiplies rows three times as fast.
        basis = basis.contiguous()

    rows, triangle = torch.linalg.qr(matrix @ basis)
    turned, singular, right = torch.linalg.svd(triangle)
    kept = min(width, int((singular > SMALLEST_SHARE * singular[0]).sum()))
    return rows @ turned[:, :kept], singular[:kept], basis @ right[:kept].T
