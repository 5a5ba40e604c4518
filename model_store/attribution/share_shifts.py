"""Shares of bins before and since, and what each bin adds to the population stability index (PSI)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


def smoothed_shares(counts: npt.NDArray[np.int64] | Float64Array) -> Float64Array:
    """Return the share of each bin ``[B]`` with half an event more in each, so that none is 0."""
    return np.asarray((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))


def psi_parts(before: Float64Array, since: Float64Array) -> Float64Array:
    """Return what each bin adds to the PSI, ``[B]``: ``(q - p) * log(q / p)``, at least 0.

    Args:
        before: Shares p, ``[B]``, none of them 0.
        since: Shares q, ``[B]``, none of them 0.
    """
    return np.asarray((since - before) * np.log(since / before))
