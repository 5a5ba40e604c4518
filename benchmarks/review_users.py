"""Generated users for benchmarks of training."""

from __future__ import annotations

import numpy as np

ITEMS, USERS, MEAN_LENGTH = 12_000, 3_000, 9


def sequences(rng: np.random.Generator) -> list[np.ndarray]:
    """Users with about nine interactions each, long-tailed, as in the Amazon review sets."""
    lengths = np.clip(5 + rng.geometric(1 / (MEAN_LENGTH - 4), USERS) - 1, 5, 200)
    return [rng.integers(0, ITEMS, length) for length in lengths]
