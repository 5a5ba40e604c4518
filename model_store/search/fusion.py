"""The fusion of log-probabilities and dense scores of the same items into one ranking.

    score(item) = log_prob(item) + weight * dense(item)
    dense(item) = cosine(user, item) + repeats(item) + neighbours * neighbour_score(item) + correction(item)

``cosine`` is that of the user's vector and the item's; ``repeats`` is what occurrences in the history add
(:mod:`model_store.network.repeat_bias`); the neighbour score tells how close the item stood to the newest items of the
history in others' (:mod:`model_store.search.neighbours`); the correction is the ranker's, if there is one
(:mod:`model_store.search.ranker`). New items may get a ``fresh_boost`` on top
(:func:`boost_new_items`), which ranks candidates but adds none. The candidates are the beams and the items with the
highest dense scores: of all items in a catalogue of up to :data:`DENSE_ITEMS`, of the history and its neighbours in a
larger one. Evaluation and service rank through here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from model_store.catalogue.resemblances import Resemblances
from model_store.search.history_encoding import HistoryBatch
from model_store.search.neighbours import Additions, Neighbours, no_additions
from model_store.semantic_ids.trie import Trie

DENSE_ITEMS = 200_000
"""Largest catalogue whose items all get a dense score."""


class Fusion(BaseModel):
    """The weights by which dense scores enter the answers of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    weight: float = Field(
        0.0,
        ge=0,
        description="weight of the dense score; 0: dense scores are unused, because the search alone validated better",
    )
    candidates: int = Field(
        0, ge=0, le=1000, description="n, number of items that join the beams because of their dense score"
    )
    neighbours: float = Field(0.0, ge=0, description="weight of neighbour scores in the dense score; 0: not used")

    def additions(
        self, memory: Neighbours | None, history: HistoryBatch, trie: Trie, new: Resemblances | None = None
    ) -> Additions:
        """Return what neighbours add to the dense scores of a batch, for the search; nothing if they are not used.

        Args:
            memory: The neighbours of all items; needed unless a weight is 0.
            history: Encoded histories.
            trie: The trie of the catalogue that the search runs on.
            new: What its new items resemble.
        """
        if memory is None or not self.weight or not self.neighbours:
            return no_additions(len(history.lengths))
        return memory.additions(history, trie, self.neighbours, new)


GENERATIVE_ALONE = Fusion()
"""Fusion without dense scores: the beams are the answer."""

TEMPERATURE = 0.07
"""Approximate temperature by which cosines are divided in training: a cosine difference this large is one nat of the
dense head."""


def scores_all_items(items: int) -> bool:
    """Tell whether dense candidates are the best of all items in a catalogue of so many.

    If not, they are the best of the history's items and their neighbours.
    """
    return items <= DENSE_ITEMS


def scores(log_prob: npt.NDArray[np.float32], dense: npt.NDArray[np.float32], weight: float) -> npt.NDArray[np.float32]:
    """Return the scores of candidates ``[…]``; -inf where ``log_prob`` says that there is no candidate."""
    return log_prob + np.float32(weight) * dense


def boost_new_items(
    log_prob: npt.NDArray[np.float32], is_new: npt.NDArray[np.bool_], fresh_boost: float, weight: float
) -> npt.NDArray[np.float32]:
    """Return log-probabilities ``[…]`` for use in :func:`scores`, raised for items that came after training.

    They rise by ``fresh_boost * (1 + TEMPERATURE * weight)``, that is ``fresh_boost`` nats of both scores together, so
    that the setting has about the same effect at any weight; below 0 it holds new items back. It changes the exposure
    of items, not their probability: answers still report the ``log_prob`` without it.
    """
    return np.where(is_new, log_prob + np.float32(fresh_boost * (1 + TEMPERATURE * weight)), log_prob)


def ranking(log_prob: npt.NDArray[np.float32], dense: npt.NDArray[np.float32], weight: float) -> npt.NDArray[np.int64]:
    """Return the order of candidates ``[…, C]`` along the last axis, best first; ties keep the search's order."""
    return np.argsort(-scores(log_prob, dense, weight), axis=-1, kind="stable")


def best(
    log_prob: npt.NDArray[np.float32],
    dense: npt.NDArray[np.float32],
    weight: float,
    k: int,
    first_code: npt.NDArray[np.integer] | None = None,
    max_per_prefix: int | None = None,
) -> npt.NDArray[np.int64]:
    """Choose the answer to one request among its candidates.

    Args:
        log_prob: ``[C]``, -inf where there is no candidate.
        dense: ``[C]``.
        weight: Weight of the dense score.
        k: Largest number of answers.
        first_code: ``[C]``, needed with ``max_per_prefix``.
        max_per_prefix: Number of answers that may share a first code; ``None``: any number. Beams keep this limit
            already, so there are at least as many answers as beams, up to k.

    Returns:
        At most k positions in the candidates, best first.
    """
    order = ranking(log_prob, dense, weight)
    order = order[np.isfinite(log_prob[order])]
    if max_per_prefix is not None and first_code is not None:
        order = order[count_earlier(first_code[order]) < max_per_prefix]
    return order[:k]


def count_earlier(values: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Count the equal values before each value ``[n]``: 0 for the first of them, 1 for the second, and so on."""
    order = np.argsort(values, kind="stable")
    _, start, count = np.unique(values[order], return_index=True, return_counts=True)
    earlier = np.empty(len(values), dtype=np.int64)
    earlier[order] = np.arange(len(values)) - np.repeat(start, count)
    return earlier
