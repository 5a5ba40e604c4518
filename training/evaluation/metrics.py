"""Ranking metrics as pure functions of ranks, and the computation of ranks from scores.

A *rank* is the position of the held-out target among the answers: 0 is best, -1 means that it was not among them (a
beam search returns W items, not a full ranking). There is one target per user, so Recall@k is the hit rate.

There are two protocols: items of the history may be answers (no suffix), or they are removed from the ranking
(``_seen_excluded``). The target itself is never removed, even if the user had it before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.data.dataset import Split

Int64Array = npt.NDArray[np.int64]

CUTOFFS = (5, 10)
"""Cut-offs k in reports."""

SEEN_EXCLUDED = "_seen_excluded"
"""Suffix of metrics under the second protocol."""


class Ranks(NamedTuple):
    """Ranks of the same n targets under both protocols."""

    all_items: Int64Array  # [n], items of the history may be answers
    seen_excluded: Int64Array  # [n]

    def summary(self) -> dict[str, float]:
        """Return all metrics of both protocols by name."""
        return {**summary(self.all_items), **summary(self.seen_excluded, SEEN_EXCLUDED)}

    def spread_over(self, n: int, rows: npt.NDArray[np.integer]) -> Ranks:
        """Return ranks of ``n`` targets with these ranks at ``rows``; the other targets count as not found."""
        spread = np.full((2, n), -1, dtype=np.int64)
        spread[:, rows] = self
        return Ranks(spread[0], spread[1])


def recall(ranks: npt.NDArray[np.integer], k: int) -> float:
    """Return the share of targets that are among the first k answers.

    Args:
        ranks: [n]; 0 is best, -1 means not found.
        k: Cut-off, at least 1.

    Raises:
        ValueError: There are no ranks, or k is below 1.
    """
    return float(_hits(ranks, k).mean())


def ndcg(ranks: npt.NDArray[np.integer], k: int) -> float:
    """Return the mean of 1 / log2(rank + 2), with 0 for targets that are not among the first k answers.

    With one relevant item the ideal gain is 1, so this is normalised (Järvelin and Kekäläinen, 2002). Arguments and
    errors are those of :func:`recall`.
    """
    return float(gains(ranks, k).mean())


def gains(ranks: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.float64]:
    """Return the gain of each target [n], whose mean is NDCG@k: 0 if it is not among the first k answers."""
    hits = _hits(ranks, k)
    return np.asarray(hits / np.log2(np.where(hits, ranks, 0) + 2.0))


class Difference(NamedTuple):
    """A mean difference of the same users' values, and its standard error, which a single user does not have."""

    mean: float
    error: float | None


def ndcg_difference(ranks: npt.NDArray[np.integer], others: npt.NDArray[np.integer], k: int) -> Difference:
    """Return by how much NDCG@k of ranks [n] exceeds that of other ranks [n] of the same targets.

    The standard error is that of paired differences, which is smaller than that of two independent means.
    """
    differences = gains(ranks, k) - gains(others, k)
    n = len(differences)
    error = float(differences.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return Difference(float(differences.mean()), error)


def summary(ranks: npt.NDArray[np.integer], suffix: str = "") -> dict[str, float]:
    """Return ``recall@5``, ``recall@10``, ``ndcg@5`` and ``ndcg@10`` of ranks [n], each name with ``suffix``."""
    found = {f"recall@{k}{suffix}": recall(ranks, k) for k in CUTOFFS}
    return found | {f"ndcg@{k}{suffix}": ndcg(ranks, k) for k in CUTOFFS}


def rank_of_target(
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.integer],
    mask: npt.NDArray[np.bool_] | None = None,
) -> Int64Array:
    """Return the rank of each target in a full ranking.

    Ties count against the target: every other item with the same score ranks before it, so a model that gives all items
    the same score earns nothing.

    Args:
        scores: [B, N], higher is better.
        targets: [B], columns of ``scores``.
        mask: [B, N], true for items to remove from the ranking; it does not apply to the target.

    Returns:
        [B], 0 is best.

    Raises:
        ValueError: A score is NaN.
    """
    if np.isnan(scores.max(initial=-np.inf)):
        raise ValueError("scores hold NaN: the ranking is undefined")

    rows = np.arange(len(targets))
    ahead = scores >= scores[rows, targets][:, None]
    if mask is not None:
        ahead &= ~mask
    ahead[rows, targets] = False
    return np.count_nonzero(ahead, axis=1).astype(np.int64)


def both_protocols(scores: npt.NDArray[np.floating], split: Split) -> Ranks:
    """Return the ranks of a split's n targets from scores [n, N] of all items.

    The result equals :func:`rank_of_target` with a mask of the histories, but needs no mask.
    """
    all_items = rank_of_target(scores, split.targets)
    seen_ahead = [
        _seen_ahead(row, history, int(target))
        for row, history, target in zip(scores, split.histories, split.targets, strict=True)
    ]
    return Ranks(all_items, all_items - seen_ahead)


def popularity_ranks(popularity: npt.NDArray[np.integer], split: Split) -> Ranks:
    """Return the ranks of the baseline that orders all items by their training interactions, the same for everyone.

    Args:
        popularity: [N], training interactions.
        split: Targets and histories; histories matter only to the second protocol.
    """
    ascending = np.sort(popularity)
    own = popularity[split.targets]
    all_items = len(popularity) - np.searchsorted(ascending, own, side="left") - 1  # without the target itself

    seen_ahead = [
        _seen_ahead(popularity, history, int(target))
        for history, target in zip(split.histories, split.targets, strict=True)
    ]
    return Ranks(all_items.astype(np.int64), (all_items - seen_ahead).astype(np.int64))


def _seen_ahead(scores: npt.NDArray[np.number], history: npt.NDArray[np.integer], target: int) -> int:
    """Count the distinct items of a history, without the target, that rank before the target; scores [N]."""
    seen = np.unique(history)
    return int(np.count_nonzero((scores[seen] >= scores[target]) & (seen != target)))


def _hits(ranks: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.bool_]:
    if not len(ranks) or k < 1:
        raise ValueError(f"metrics need at least one rank and k of at least 1, got {len(ranks)} ranks and k = {k}")
    return np.asarray((ranks >= 0) & (ranks < k))
