"""Principal directions of a matrix: a truncated singular value decomposition, randomised (Halko et al. 2011)."""

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

ITERATIONS = 4
"""Power iterations of the decomposition."""


def principal_directions(matrix: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first left directions, singular values and right directions.

    Args:
        matrix: ``[N, M]``, dense or sparse.
        width: K, number of directions, if the rank allows.
        seed: Seed of the start; the global random state is left as it was.

    Returns:
        ``[N, K]``, ``[K]``, descending, and ``[M, K]``; K may be smaller than ``width``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, singular, right = torch.svd_lowrank(matrix, q=min(width + OVERSAMPLING, *matrix.shape), niter=ITERATIONS)
    kept = min(width, int((singular > SMALLEST_SHARE * singular[0]).sum()))
    return left[:, :kept], singular[:kept], right[:, :kept]
