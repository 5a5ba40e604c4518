"""Calibration: whether the search finds what users choose as often as its probabilities say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOST_GROUPS = 10
USERS_A_GROUP = 100
"""Groups have at least so many users, or chance alone would be most of the error."""


def calibration_error(expected: npt.NDArray[np.floating], hits: npt.NDArray[np.bool_]) -> float:
    """Return the expected calibration error (Naeini et al., AAAI 2015), 0 at best and 1 at worst.

    Users are sorted by what is expected of them and cut into groups of equal size. The error is the mean over groups of
    the distance between the mean expectation and the share of hits.

    Args:
        expected: Probability of a hit of each user, ``[n]``.
        hits: Whether it was one, ``[n]``.

    Raises:
        ValueError: There are no users.
    """
    if not len(expected):
        raise ValueError("a calibration error needs at least one user")

    groups = min(MOST_GROUPS, max(len(expected) // USERS_A_GROUP, 1))
    order = np.argsort(expected, kind="stable")
    parts = [(expected[rows].mean() - hits[rows].mean(), len(rows)) for rows in np.array_split(order, groups)]
    return float(sum(abs(gap) * users for gap, users in parts) / len(expected))
