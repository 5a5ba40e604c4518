"""Arithmetic of growth: how a stage's cost grows from size to size, and whether that is at most n log n."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

TOLERANCE = 1.3
"""Factor by which a cost may exceed n log n: what the noise of a machine with other work comes to."""


def exponents(cost: Mapping[int, float]) -> dict[str, float]:
    """Return the slope of log cost over log size between neighbouring sizes: 1 is linear, 2 quadratic."""
    return {
        f"{smaller}-{larger}": round(math.log(cost[larger] / cost[smaller]) / math.log(larger / smaller), 2)
        for smaller, larger in pairwise(sorted(cost))
    }


def grows_faster(cost: Mapping[int, float]) -> bool:
    """Return whether the cost grows faster than n log n from the smallest to the largest size."""
    smallest = min(cost)
    largest = max(cost)
    allowed = largest * math.log(largest) / (smallest * math.log(smallest))
    return cost[largest] > cost[smallest] * allowed * TOLERANCE
