"""Bootstrap intervals of means over users (Efron, 1979): how much of a figure is chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
"""Draws of as many users as there are, with replacement."""

CONFIDENCE = 0.95
"""Share of the draws whose mean lies in an interval, if nothing else is said."""


def mean_interval(values: npt.NDArray[np.floating], seed: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the percentile interval of the mean of users' values, the same one for the same seed.

    For an interval of a paired difference, give the difference of each user's two values.

    Args:
        values: ``[n]``, one a user.
        seed: Seed of the draws.
        confidence: Share of the draws whose mean lies in the interval; as many lie below it as above.

    Raises:
        ValueError: There are no values.
    """
    if not len(values):
        raise ValueError("an interval needs the value of at least one user")

    # Gains take few distinct values. How often a draw holds each of them is multinomial, so no user need be drawn.
    distinct, times = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), times / len(values), RESAMPLES)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn @ distinct / len(values), [tail, 1 - tail])
    return float(low), float(high)
