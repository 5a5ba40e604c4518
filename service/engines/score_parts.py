"""Parts of scores: what codes, cosine, neighbours, the ranker and rules add to the score of each answer.

    score = codes + cosine + neighbours + ranker + fresh_boost + steer + boosts

Each part is in units of the score, so that a part of the dense score is already multiplied by the fusion's weight
(:mod:`model_store.search.fusion`). They are float64 and add up to the score up to the rounding of its float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.search.interface import SearchInputs, SearchOutputs

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


class ScoreParts(NamedTuple):
    """The parts of n scores, ``[n]`` each."""

    codes: Float64Array  # log_prob of the semantic ID
    cosine: Float64Array  # of the user's vector and the item's, content and repeats included
    neighbours: Float64Array
    ranker: Float64Array
    fresh_boost: Float64Array  # of items that came after training
    steer: Float64Array  # of the request's prefixes
    boosts: Float64Array  # of the request's boosts; they are added after the search

    def select(self, kept: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> ScoreParts:
        """Return the parts where a mask ``[n]`` is true, or those at some places, in their order."""
        return ScoreParts(*(part[kept] for part in self))

    @staticmethod
    def join(several: Sequence[ScoreParts]) -> ScoreParts:
        """Return the parts of several results as one."""
        return ScoreParts(*(np.concatenate(part) for part in zip(*several, strict=True)))


def split_scores(
    inputs: SearchInputs, searched: SearchOutputs, dense: Float32Array, raised: Float32Array, at: int, weight: float
) -> ScoreParts:
    """Return the parts of the scores of one request's candidates, without steering and boosts.

    Args:
        inputs: What was searched.
        searched: What was found, before any correction.
        dense: Corrected dense scores of the request, ``[C]``.
        raised: Its log-probabilities with the boost of new items, ``[C]``.
        at: Its place in the batch.
        weight: Weight of the dense score.
    """
    before = searched.dense[at].astype(np.float64)
    neighbours = _neighbour_scores(inputs, searched.leaves[at], at)
    log_prob = searched.log_prob[at].astype(np.float64)
    is_found = np.isfinite(log_prob)
    nothing = np.zeros(len(log_prob))

    return ScoreParts(
        codes=log_prob,
        cosine=weight * (before - neighbours),
        neighbours=weight * neighbours,
        ranker=weight * (dense - before),
        fresh_boost=np.subtract(raised, log_prob, out=nothing.copy(), where=is_found),
        steer=nothing,
        boosts=nothing,
    )


def _neighbour_scores(inputs: SearchInputs, leaves: npt.NDArray[np.int64], at: int) -> Float64Array:
    """Return what neighbours added to the dense scores of a request's leaves ``[C]``."""
    is_neighbour = leaves[:, None] == inputs.neighbours[at]  # [C, M], at most one of a row; padding adds 0
    found: Float64Array = is_neighbour @ inputs.neighbour_scores[at].astype(np.float64)
    return found
