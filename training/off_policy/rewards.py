"""A simple model of rewards: how often an item is clicked, times how often a place is looked at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from training.off_policy.logged_answers import LoggedAnswer

PRIOR = 20.0
"""Impressions that speak for an item being as good as others, before its own do."""


class RewardModel:
    """Expected rewards, from some answers: for an item and a place the product of both rates.

    Args:
        answers: Answers to learn from.
        slots: Number of places.
    """

    def __init__(self, answers: Iterable[LoggedAnswer], slots: int) -> None:
        shown = np.zeros(slots)
        rewarded = np.zeros(slots)
        of_item: Counter[str] = Counter()
        expected: defaultdict[str, float] = defaultdict(float)
        seen = list(answers)
        for answer in seen:
            count = min(slots, len(answer.token.items))
            shown[:count] += 1
            rewarded[[place for place in answer.rewarded if place < slots]] += 1
        self._rates = rewarded / np.maximum(shown, 1)

        for answer in seen:
            for place, item_id in answer.items.items():
                if place < slots:
                    of_item[item_id] += place in answer.rewarded
                    expected[item_id] += float(self._rates[place])
        mean = float(self._rates.mean()) if slots else 0.0
        self._factors = {
            item_id: (of_item[item_id] + PRIOR * mean) / (expected[item_id] + PRIOR * mean) if mean else 1.0
            for item_id in expected
        }

    def expect(self, items: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the expected reward of each item in each place, ``[n, slots]``, at most 1."""
        factors = np.array([self._factors.get(item_id, 1.0) for item_id in items])
        found: npt.NDArray[np.float64] = np.minimum(1.0, factors[:, None] * self._rates)
        return found
