"""Generated users for training benchmarks."""

from __future__ import annotations

import numpy as np

ITEMS = 12_000
USERS = 3_000
MEAN_LENGTH = 9


def sequences(rng: np.random.Generator) -> list[np.ndarray]:
    """Return users with about nine interactions each, long-tailed, as in the Amazon review sets."""
    lengths = np.clip(5 + rng.geometric(1 / (MEAN_LENGTH - 4), USERS) - 1, 5, 200)
    return [rng.integers(0, ITEMS, length) for length in lengths]
