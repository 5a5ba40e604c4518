"""Question of the page Ask: a history and rules, and how an answer moved since the one before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from etegrec_client.types import Filter, RecommendRequest, RecommendResponse, WhyNotRequest

MOST_ITEMS = 50
"""Items of a history, the newest ones; models read no more."""


@dataclass
class Question:
    """What is asked."""

    history: list[tuple[str, str | None]] = field(default_factory=list)
    """Ids and titles, oldest first."""
    k: int = 10
    leave_out_history: bool = True
    categories: list[str] = field(default_factory=list)
    max_per_prefix: int | None = None

    def add(self, item_id: str, title: str | None) -> None:
        """Add an item as the newest of the history; the oldest goes if it would be too long."""
        self.history = [*self.history, (item_id, title)][-MOST_ITEMS:]

    def remove(self, place: int) -> None:
        """Take one item out."""
        self.history = [each for at, each in enumerate(self.history) if at != place]

    def request(self, *, explain: bool = False) -> RecommendRequest:
        """Return the request as the service takes it."""
        return RecommendRequest(
            history=[item_id for item_id, _ in self.history],
            k=self.k,
            exclude_seen=self.leave_out_history,
            filter=self._filter,
            max_per_prefix=self.max_per_prefix,
            explain=explain,
        )

    def why_not(self, item_id: str) -> WhyNotRequest:
        """Return the question why an item is not in the answer."""
        return WhyNotRequest(
            item_id=item_id,
            history=[each for each, _ in self.history],
            k=self.k,
            exclude_seen=self.leave_out_history,
            filter=self._filter,
            max_per_prefix=self.max_per_prefix,
        )

    @property
    def _filter(self) -> Filter | None:
        return Filter(categories=list(self.categories)) if self.categories else None


def movement(before: RecommendResponse | None, item_id: str, rank: int) -> str:
    """Return how an item moved since the answer before: ``▲ 2``, ``▼ 1``, ``new``; empty if it did not.

    Args:
        before: The answer before; ``None`` if there was none.
        item_id: The item.
        rank: Its rank now, from 1.
    """
    if before is None:
        return ""
    ranks = {item["item_id"]: place for place, item in enumerate(before["items"], start=1)}
    if item_id not in ranks:
        return "new"
    moved = ranks[item_id] - rank
    return "" if moved == 0 else f"▲ {moved}" if moved > 0 else f"▼ {-moved}"


def dropped(before: RecommendResponse | None, now: RecommendResponse) -> list[Any]:
    """Return the items of the answer before that the one now lacks, best first."""
    if before is None:
        return []
    kept = {item["item_id"] for item in now["items"]}
    return [item for item in before["items"] if item["item_id"] not in kept]
