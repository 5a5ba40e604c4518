"""Exploration of one answer: chance fills its last places from the candidates of the search.

Candidates come as a *pool*: the answer as it is without chance, pins at their places, followed by all others that the
limits by prefix allow beside it. Whatever chance takes from a pool keeps the limits, so the probabilities stay exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.attribution.token import MAX_EXPLORED_RANKS, Chance
from model_store.search.exploration import explore, slot_probabilities
from service.engines.base import SearchResult
from service.schemas.ranking import Exploration

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


class Drawn(NamedTuple):
    """An answer, and what was left to chance in it; ``None`` if nothing was."""

    found: SearchResult
    chance: Chance | None


class _Places(NamedTuple):
    """Division of a pool between chance and pins."""

    candidates: Int64Array  # places in the pool that hold no pin, ascending, so best first
    open: int  # how many of them are among the first places of the answer
    slots: int  # how many of these are for chance, the last ones

    @property
    def fixed(self) -> int:
        """Open places that the best candidates have."""
        return self.open - self.slots


def pool_size(k: int) -> int:
    """Return how many candidates there should be for an answer of k items: for each place of chance two or more."""
    return max(k, 2 * min(k, MAX_EXPLORED_RANKS))


def draw(pool: SearchResult, pinned: Int64Array, k: int, exploration: Exploration, answer_id: bytes) -> Drawn:
    """Draw an answer from a pool. Takes a millisecond, in the worst case a tenth of a second: not for the event loop.

    Args:
        pool: The candidates, see the head of this module.
        pinned: Rows with pins.
        k: Answers wanted.
        exploration: What is left to chance.
        answer_id: Six bytes that decide what is drawn: the same bytes draw the same from the same pool.
    """
    candidates, first, slots = _divide(pool, pinned, k, exploration)
    rng = np.random.default_rng(int.from_bytes(answer_id))
    chosen = explore(pool.score[candidates].astype(np.float64), first, slots, exploration.temperature, rng)

    order = np.arange(len(pool.rows))
    order[candidates[:first]] = candidates[chosen.order]
    order[candidates[first:]] = np.setdiff1d(candidates, candidates[chosen.order])

    propensities = np.ones(min(k, MAX_EXPLORED_RANKS, len(order)))
    propensities[candidates[:first]] = chosen.probability
    return Drawn(pool.select(order[:k]), Chance(propensities, answer_id))


def distribution(pool: SearchResult, pinned: Int64Array, k: int, exploration: Exploration | None) -> Float64Array:
    """Return the probability of each candidate of a pool in each of the first places.

    ``[pool, min(pool, k, MAX_EXPLORED_RANKS)]``; 0 and 1 where nothing is left to chance.
    """
    found = np.eye(len(pool.rows), min(k, MAX_EXPLORED_RANKS, len(pool.rows)))
    if exploration is None:
        return found

    places = _divide(pool, pinned, k, exploration)
    if places.slots:
        drawn = places.candidates[places.fixed :]
        slots = places.candidates[places.fixed : places.open]
        logits = pool.score[drawn].astype(np.float64) / exploration.temperature
        found[np.ix_(drawn, slots)] = slot_probabilities(logits, places.slots)
    return found


def _divide(pool: SearchResult, pinned: Int64Array, k: int, exploration: Exploration) -> _Places:
    candidates = np.flatnonzero(~np.isin(pool.rows, pinned))
    count = int(np.count_nonzero(candidates < min(k, MAX_EXPLORED_RANKS)))
    return _Places(candidates, count, exploration.slots_of(count))
