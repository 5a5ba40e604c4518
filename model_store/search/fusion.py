"""The fused answer: how log-probabilities of the search and dense scores of the same items become one ranking.

    score(item) = log_prob(item) + weight * (dense(item) + transitions * transition(item))

``dense`` is the cosine between the user's vector and the item's, and ``transition`` what
:mod:`model_store.search.transitions` remembers of the history's successors. Items that came live may get a
``fresh_boost`` on top (:func:`boosted`), which ranks candidates and finds none. Candidates are the beams and, up to
:data:`DENSE_ITEMS` items, those with the highest cosines. Evaluation and service rank through here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from model_store.search.transitions import Transitions, newest_items

DENSE_ITEMS = 200_000
"""Largest catalogue of which every item gets a dense score; above it only beams are re-ranked."""


class Fusion(BaseModel):
    """How dense scores enter the answers of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    weight: float = Field(
        0.0, ge=0, description="of the dense score; 0: none, the search alone validated better and is what answers"
    )
    candidates: int = Field(0, ge=0, le=1000, description="n, items that join the beams for their dense score")
    transitions: float = Field(0.0, ge=0, description="of the transition score, added to the dense one; 0: none")

    def dense(
        self,
        cosine: npt.NDArray[np.float32],
        memory: Transitions | None,
        histories: Sequence[npt.NDArray[np.integer]],
        rows: npt.NDArray[np.integer],
    ) -> npt.NDArray[np.float32]:
        """Dense scores of candidates ``[B, C]``: cosines, and what users' newest items say of them.

        Args:
            cosine: The search's dense scores, ``[B, C]``.
            memory: Needed unless :attr:`transitions` is 0.
            histories: Catalogue rows of B users, oldest first.
            rows: The candidates' catalogue rows, ``[B, C]``.
        """
        if not self.transitions or memory is None:
            return cosine
        return cosine + np.float32(self.transitions) * memory.scores(newest_items(histories), rows)


GENERATIVE_ALONE = Fusion()


def dense_candidates(beam_width: int, items: int) -> int:
    """n: dense candidates that join W beams in a catalogue of so many items."""
    return beam_width if items <= DENSE_ITEMS else 0


def scores(log_prob: npt.NDArray[np.float32], dense: npt.NDArray[np.float32], weight: float) -> npt.NDArray[np.float32]:
    """The ranking value of candidates ``[…]``; -inf where there is none, as ``log_prob`` says."""
    return log_prob + np.float32(weight) * dense


TEMPERATURE = 0.07
"""About what cosines are divided by where they are trained: so much of one is a nat of the dense head."""


def boosted(
    log_prob: npt.NDArray[np.float32], is_fresh: npt.NDArray[np.bool_], fresh_boost: float, weight: float
) -> npt.NDArray[np.float32]:
    """Log-probabilities ``[…]`` as they enter :func:`scores`, higher for items that came after training.

    By ``fresh_boost`` nats of both scores together, ``fresh_boost * (1 + TEMPERATURE * weight)``, so that it means
    about the same at any weight; below 0 it holds items back. It is a matter of exposure, not of probability: answers
    still tell the ``log_prob`` without it.
    """
    return np.where(is_fresh, log_prob + np.float32(fresh_boost * (1 + TEMPERATURE * weight)), log_prob)


def ranking(log_prob: npt.NDArray[np.float32], dense: npt.NDArray[np.float32], weight: float) -> npt.NDArray[np.int64]:
    """Order of candidates ``[…, C]`` along the last axis, best first; ties keep the search's order."""
    return np.argsort(-scores(log_prob, dense, weight), axis=-1, kind="stable")


def best(
    log_prob: npt.NDArray[np.float32],
    dense: npt.NDArray[np.float32],
    weight: float,
    k: int,
    first_code: npt.NDArray[np.integer] | None = None,
    max_per_prefix: int | None = None,
) -> npt.NDArray[np.int64]:
    """The answer to one request: which of its candidates, best first.

    Args:
        log_prob: ``[C]``, -inf where there is no candidate.
        dense: ``[C]``.
        weight: Of the dense score.
        k: Answers at most.
        first_code: ``[C]``, needed with ``max_per_prefix``.
        max_per_prefix: Answers that may share a first code; ``None``: any number. Beams keep this limit already, so no
            fewer answers come out than there are beams, up to k.

    Returns:
        At most k positions in the candidates.
    """
    order = ranking(log_prob, dense, weight)
    order = order[np.isfinite(log_prob[order])]
    if max_per_prefix is not None and first_code is not None:
        order = order[occurrence(first_code[order]) < max_per_prefix]
    return order[:k]


def occurrence(values: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """How often each value ``[n]`` came before: 0 for its first place, 1 for its second …"""
    order = np.argsort(values, kind="stable")
    _, start, count = np.unique(values[order], return_index=True, return_counts=True)
    place = np.empty(len(values), dtype=np.int64)
    place[order] = np.arange(len(values)) - np.repeat(start, count)
    return place
