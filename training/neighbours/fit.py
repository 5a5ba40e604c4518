"""Fit of the neighbourhood to a data set: the exponents, the decay, and whether items of the history count.

Whether popular items make good neighbours, and for how long an item of the history tells what comes next, differ from
shop to shop: on MovieLens-1M other values are best than on Beauty (docs/LOG.md). So they are chosen by the NDCG@10 of
neighbour scores alone on validation users, from a small grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from model_store.search.neighbours import Neighbours
from training.data.dataset import Sequences, Split
from training.evaluation.full_ranking import FIT_CUTOFF, sample_split
from training.evaluation.metrics import ndcg
from training.neighbours.counts import NeighbourCounts, count_neighbours
from training.neighbours.ranks import neighbour_ranks

OUT_EXPONENTS = (0.3, 0.5, 0.85)
IN_EXPONENTS = (0.15, 0.3)
DECAYS = (0.6, 0.7, 0.8)

MOST_USERS = 4000
"""Validation users by which the values are chosen, at most."""


def fit_neighbours(sequences: Sequences, items: int, valid: Split, max_history: int, seed: int) -> Neighbours:
    """Count the neighbours in training sequences, and choose the values that rank validation targets best.

    Ties go to the first values; without validation users these are taken.

    Args:
        sequences: Item rows of each user, oldest first.
        items: Number of items.
        valid: Histories and targets of validation users.
        max_history: Number of newest items that are read of each history.
        seed: Draws the validation users, if there are more than :data:`MOST_USERS`.
    """
    counts = count_neighbours(sequences, items)
    sample = sample_split(valid, MOST_USERS, seed)
    if not len(sample.targets):
        return next(candidates(counts))
    return max(
        candidates(counts),
        key=lambda one: ndcg(neighbour_ranks(one, sample, max_history).all_items, FIT_CUTOFF),
    )


def candidates(counts: NeighbourCounts) -> Iterator[Neighbours]:
    """Return the memory of every point of the grid, one after the other."""
    items = len(counts.outgoing)
    for out_exponent, in_exponent in product(OUT_EXPONENTS, IN_EXPONENTS):
        strength = counts.strength(out_exponent, in_exponent)
        for decay, skips_history in product(DECAYS, (False, True)):
            yield Neighbours(counts.start, counts.neighbour, strength, decay, items, skips_history)
