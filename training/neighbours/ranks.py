"""Ranks of targets by their neighbour scores alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_store.search.history_encoding import encode_histories
from model_store.search.neighbours import Neighbours, NeighbourScores
from training.data.dataset import Split
from training.evaluation.metrics import Ranks

USERS_AT_ONCE = 1024
"""Users that are scored together."""


def neighbour_ranks(neighbours: Neighbours, split: Split, max_history: int) -> Ranks:
    """Rank the targets of a split among the items with a score, under both protocols.

    A target without a score is not found. Ties count against the target, as in
    :func:`training.evaluation.metrics.rank_of_target`.

    Args:
        neighbours: The memory of all items.
        split: Histories and targets of n users.
        max_history: Number of newest items that are read of each history.
    """
    found = np.empty((2, len(split.targets)), dtype=np.int64)
    for start in range(0, len(split.targets), USERS_AT_ONCE):
        users = slice(start, start + USERS_AT_ONCE)
        histories = split.histories[users]
        encoded = encode_histories(histories, np.arange(neighbours.items), max_history)
        scores = neighbours.scores(encoded.leaves, encoded.lengths)
        found[:, users] = _ranks(scores, histories, split.targets[users], neighbours.items)
    return Ranks(found[0], found[1])


def _ranks(
    scores: NeighbourScores, histories: list[npt.NDArray[np.int32]], targets: npt.NDArray[np.integer], items: int
) -> npt.NDArray[np.int64]:
    """Return the ranks under both protocols, ``[2, users]``, -1 for targets without a score."""
    is_target = scores.row == targets[scores.owner]
    own = np.full(len(targets), np.inf)  # a target without a score has nobody ahead, and is not found
    own[scores.owner[is_target]] = scores.value[is_target]
    is_ahead = (scores.value >= own[scores.owner]) & ~is_target

    lengths = [len(history) for history in histories]
    seen = np.repeat(np.arange(len(histories)), lengths) * items + np.concatenate(histories)
    is_seen = np.isin(scores.owner * items + scores.row, seen)
    ranks = [np.bincount(scores.owner[ahead], minlength=len(targets)) for ahead in (is_ahead, is_ahead & ~is_seen)]
    return np.where(np.isfinite(own), ranks, -1)
