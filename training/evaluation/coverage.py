"""Coverage of the catalogue by the answers of test users, and their concentration on few items."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

K = 10
"""Answers of each user that count, and most recommended items whose share is measured."""

MAX_USERS = 10_000
"""Most test users whose answers are kept and counted."""


@dataclass(frozen=True)
class Coverage:
    """How many items the first ten answers of users hold together, and how much of them the ten most frequent take."""

    users: int
    """Users whose answers were counted, m."""
    recommended_items: int
    """Distinct items among their answers."""
    catalogue_items: int
    """Items that could be answered, N."""
    catalogue_share: float
    """Share of the catalogue that was answered at all."""
    top_share: float
    """Share of all answers that the ten most frequent items take: 1 if everyone gets the same, 10 / N at best."""

    def as_dict(self) -> dict[str, float]:
        """Return plain values."""
        return asdict(self)


def measure_coverage(answers: npt.NDArray[np.integer], items: int) -> Coverage:
    """Count the items of answers.

    Args:
        answers: Items of the first answers of m users, ``[m, K]``; -1 where there is none.
        items: N, the size of the catalogue.
    """
    counts = np.sort(np.bincount(answers[answers >= 0], minlength=items))[::-1]
    recommended = int(np.count_nonzero(counts))
    return Coverage(
        users=len(answers),
        recommended_items=recommended,
        catalogue_items=items,
        catalogue_share=recommended / items,
        top_share=float(counts[:K].sum() / max(counts.sum(), 1)),
    )


def head_share(answers: npt.NDArray[np.integer], popularity: npt.NDArray[np.integer], share: float) -> float:
    """Return the share of all answers that the most popular items take; 0 if there are no answers.

    Args:
        answers: Items of the first answers of m users, ``[m, K]``; -1 where there is none.
        popularity: Interactions of each item, ``[N]``; ties go by row.
        share: Share of all items that are the head; it holds at least one item.
    """
    head = np.argsort(-popularity, kind="stable")[: max(round(share * len(popularity)), 1)]
    found = answers[answers >= 0]
    return float(np.isin(found, head).mean()) if len(found) else 0.0


def sample_users(users: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw the positions of at most :data:`MAX_USERS` of so many users, ascending, the same ones for the same seed."""
    if users <= MAX_USERS:
        return np.arange(users)
    return np.sort(np.random.default_rng(seed).choice(users, MAX_USERS, replace=False))
