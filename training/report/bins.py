"""Shares of users by bin, with standard errors: the numbers behind the charts of accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
"""Possible lower edges of bins; the first bin starts at the smallest value."""

FEWEST = 30
"""Least number of users in a bin. A smaller bin is merged with its neighbour, because its share would say little."""


@dataclass(frozen=True)
class Share:
    """Share of users and its standard error."""

    users: int
    share: float
    error: float


def share_of(hits: npt.NDArray[np.bool_]) -> Share:
    """Return the share of hits ``[n]``, n at least 1, and the standard error of a proportion, sqrt(p (1 - p) / n)."""
    found = float(hits.mean())
    return Share(len(hits), found, float(np.sqrt(found * (1 - found) / len(hits))))


def bin_edges(values: npt.NDArray[np.integer], fewest: int = FEWEST) -> list[int]:
    """Return the lower edges of bins with at least ``fewest`` of the values ``[n]`` each, or of one bin for all."""
    edges = [int(values.min())]
    for step in STEPS:
        inside = np.count_nonzero((values >= edges[-1]) & (values < step))
        if inside >= fewest and np.count_nonzero(values >= step) >= fewest:
            edges.append(step)
    return edges


def bin_names(edges: Sequence[int], largest: int) -> list[str]:
    """Return the names of bins, ``0``, ``1–4``, ``5–19`` …; the last bin ends at ``largest``."""
    highs = [*(edge - 1 for edge in edges[1:]), largest]
    return [str(low) if low >= high else f"{low}–{high}" for low, high in zip(edges, highs, strict=True)]


def shares_by_bin(values: npt.NDArray[np.integer], hits: npt.NDArray[np.bool_], edges: Sequence[int]) -> list[Share]:
    """Return the share of hits ``[n]`` in each bin of ``values [n]``; no bin may be empty."""
    bin_of = np.searchsorted(np.asarray(edges), values, side="right") - 1
    return [share_of(hits[bin_of == index]) for index in range(len(edges))]
