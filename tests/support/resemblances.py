"""Random records of what new items resemble."""

from __future__ import annotations

import numpy as np

from model_store.catalogue.resemblances import MOST_WORDS, NO_WORD, RESEMBLED, Records, nothing_known

WORDS = 20
"""Words that any item has."""


def random_records(rng: np.random.Generator, trained: int, count: int) -> Records:
    """Return the records of new items: 0 to :data:`RESEMBLED` similar items each, 0 to :data:`MOST_WORDS` words.

    Args:
        rng: Draws them.
        trained: Number of trained items.
        count: Number of new items.
    """
    records = nothing_known(count)
    for record in records:
        similar = rng.integers(0, min(RESEMBLED, trained) + 1)
        shares = np.sort(rng.random(similar))[::-1]
        record["similar"][:similar] = rng.choice(trained, similar, replace=False)
        record["share"][:similar] = shares / shares.sum() if similar else 0

        words = rng.integers(0, MOST_WORDS + 1)
        weights = rng.random(words) + 0.1
        record["word"][:words] = rng.choice(WORDS, words, replace=False)
        record["word_weight"][:words] = weights / np.linalg.norm(weights)
    assert NO_WORD > WORDS
    return records
