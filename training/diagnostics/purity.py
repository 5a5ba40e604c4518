"""Neighbourhood purity: the degree to which items with a common prefix of codes belong together.

There are two measures of it. Both are computed for every prefix depth, and both are a *lift*: the factor by which
something is likelier than by chance.

* Category: the probability that two random distinct items share a category, given that they share the prefix, divided
  by the same probability without that condition. Only items with categories count. A category that more than half of
  them have says nothing and is left out. It is estimated on sampled pairs.
* Together: the probability that two neighbours in a user's training sequence share the prefix, divided by the same
  probability for distinct items that are drawn independently, in proportion to how often they occur as such
  neighbours. Popular items meet often whatever their codes are; drawing by popularity removes that effect. It is
  counted exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

PAIRS = 200_000
"""Pairs of items that are sampled to estimate a probability."""


@dataclass(frozen=True)
class Purity:
    """Lifts at one prefix depth; ``None`` if the data have no such pairs or no categories."""

    depth: int
    prefixes: int  # number of distinct prefixes of this depth
    category_lift: float | None
    together_lift: float | None


def neighbourhood_purity(
    codes: npt.NDArray[np.integer],
    categories: Sequence[Sequence[str]],
    sequences: Sequence[npt.NDArray[np.integer]],
    seed: int = 0,
) -> list[Purity]:
    """Measure every depth at which items can share a prefix, 1 … L - 1.

    Args:
        codes: Semantic IDs, ``[items, L]``.
        categories: Category names of each item; an item may have none.
        sequences: Training sequences, item rows.
        seed: Seed of the sampled pairs.
    """
    named = distinctive_categories(categories)
    pairs = neighbour_pairs(sequences)

    found = []
    for depth in range(1, codes.shape[1]):
        _, group = np.unique(codes[:, :depth], axis=0, return_inverse=True)
        group = group.ravel().astype(np.int64)
        rng = np.random.default_rng(seed)
        found.append(Purity(depth, int(group.max()) + 1, category_lift(group, named, rng), together_lift(group, pairs)))
    return found


def distinctive_categories(categories: Sequence[Sequence[str]]) -> list[frozenset[str]]:
    """Return the categories of each item, without those that more than half of the items with categories have."""
    count = Counter(name for names in categories for name in set(names))
    half = sum(1 for names in categories if names) / 2
    return [frozenset(name for name in names if count[name] <= half) for names in categories]


def category_lift(group: Int64Array, categories: Sequence[frozenset[str]], rng: np.random.Generator) -> float | None:
    """Return the lift of sharing a category for items of the same group, ``group [items]``."""
    known = np.flatnonzero([bool(names) for names in categories])
    if len(known) < 2:
        return None
    near = pairs_within(group[known], PAIRS, rng)
    far = pairs_within(np.zeros(len(known), dtype=np.int64), PAIRS, rng)
    if not len(near):
        return None
    return _ratio(_share(known[near], categories), _share(known[far], categories))


def pairs_within(group: Int64Array, count: int, rng: np.random.Generator) -> Int64Array:
    """Sample ``count`` pairs of distinct positions of ``group [n]`` in the same group, all with equal probability.

    Returns:
        ``[count, 2]``, or ``[0, 2]`` if no group has two members.
    """
    order = np.argsort(group, kind="stable")
    _, start, size = np.unique(group[order], return_index=True, return_counts=True)
    weight = size * (size - 1.0)
    if not weight.sum():
        return np.empty((0, 2), dtype=np.int64)

    chosen = rng.choice(len(size), count, p=weight / weight.sum())
    first = rng.integers(size[chosen])
    other = rng.integers(size[chosen] - 1)
    other += other >= first  # uniform over the members that are not the first
    return np.stack([order[start[chosen] + first], order[start[chosen] + other]], axis=1)


def neighbour_pairs(sequences: Sequence[npt.NDArray[np.integer]]) -> Int64Array:
    """Return all pairs of different items that follow each other in a sequence, ``[pairs, 2]``."""
    if not sequences:
        return np.empty((0, 2), dtype=np.int64)
    items = np.concatenate(sequences).astype(np.int64)
    owner = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    kept = (owner[1:] == owner[:-1]) & (items[1:] != items[:-1])
    return np.stack([items[:-1][kept], items[1:][kept]], axis=1)


def together_lift(group: Int64Array, pairs: Int64Array) -> float | None:
    """Return the lift of being in the same group for neighbours ``pairs [n, 2]``; ``group [items]`` has all items."""
    if not len(pairs):
        return None
    share = np.bincount(pairs.ravel(), minlength=len(group)) / pairs.size
    of_group = np.bincount(group, weights=share)
    same_item = np.square(share).sum()
    chance = (np.square(of_group).sum() - same_item) / (1 - same_item)
    return _ratio(float((group[pairs[:, 0]] == group[pairs[:, 1]]).mean()), float(chance))


def _share(pairs: Int64Array, categories: Sequence[frozenset[str]]) -> float:
    return sum(not categories[one].isdisjoint(categories[other]) for one, other in pairs.tolist()) / len(pairs)


def _ratio(share: float, chance: float) -> float | None:
    # A chance is a difference of sums of squares; a value this small is rounding error, and means 0.
    return share / chance if chance > 1e-12 else None
