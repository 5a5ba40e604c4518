"""Decayed counts of events per item: an event weighs half as much after a half-life, a quarter after two.

    count(item, now) = sum over its events of 2^((t - now) / h)

The stored value is ``score = log2 of the sum of 2^(t / h)``. It does not change as time passes (forward decay, Cormode
et al., ICDE 2009), and no number overflows: ``count = 2^(score - now / h)``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

COUNTED_ITEMS = 20_000
"""Number of items whose counts are always kept: those with the highest counts."""

_HIGHEST_EXPONENT = 40.0  # a count of a million millions: above it the clock is wrong


def add_event(score: float | None, at: float, half_life_s: float) -> float:
    """Return the score of an item after one more event at ``at`` (Unix seconds); ``None``: it had no event."""
    event = at / half_life_s
    if score is None:
        return event
    high = max(score, event)
    low = min(score, event)
    return high + math.log1p(2.0 ** (low - high)) / math.log(2)


def counts_at(now: float, half_life_s: float, scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Turn scores of items into counts at ``now`` (Unix seconds).

    After the clock was put back, events seem to come from the future and counts would grow without bound. Then the
    highest count is limited, and the others keep their ratio to it.
    """
    exponents = {item_id: score - now / half_life_s for item_id, score in scores}
    excess = max(0.0, max(exponents.values(), default=0.0) - _HIGHEST_EXPONENT)
    return {item_id: 2.0 ** (exponent - excess) for item_id, exponent in exponents.items()}


class DecayedCounts:
    """Decayed counts of one half-life, in memory."""

    def __init__(self, half_life_s: int, items: int = COUNTED_ITEMS) -> None:
        self.half_life_s = half_life_s
        self.scores: dict[str, float] = {}
        self._items = items

    def add(self, item_id: str, at: float) -> None:
        """Count an event at ``at``, Unix seconds."""
        self.restore(item_id, add_event(self.scores.get(item_id), at, self.half_life_s))

    def restore(self, item_id: str, score: float) -> None:
        """Set a score as it was stored."""
        self.scores[item_id] = score
        if len(self.scores) > 2 * self._items:
            self.scores = dict(self._highest())

    def at(self, now: float) -> dict[str, float]:
        """Return the counts at ``now`` of at most ``items`` items, highest first."""
        return counts_at(now, self.half_life_s, self._highest())

    def _highest(self) -> list[tuple[str, float]]:
        return heapq.nlargest(self._items, self.scores.items(), key=lambda each: each[1])
