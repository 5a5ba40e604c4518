"""Report of the new-items study, as plain values and as tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

CUTOFF = 10
"""Number of answers per user that count."""


@dataclass(frozen=True)
class BoostRow:
    """Gain and cost of one value of ``fresh_boost``.

    Attributes:
        fresh_boost: See :func:`model_store.search.fusion.boost_new_items`.
        recall: Recall@10 of the users whose next item is new.
        exposure: Share of new items among their answers.
        other_exposure: Share of new items among the answers of the other users.
        other_ndcg: NDCG@10 of the other users, whose next item is a trained one.
    """

    fresh_boost: float
    recall: float
    exposure: float
    other_exposure: float
    other_ndcg: float


@dataclass(frozen=True)
class NewItemsReport:
    """Result of one study. Items of the history are excluded from answers, as the service does by default.

    Attributes:
        data: Name of the data set.
        items: Items of the whole catalogue.
        new_items: Items that were held out.
        users: Users whose next item is new.
        other_users: Test users whose next item is a trained one.
        demand: Share of new items in all interactions.
        recall: Recall@10 by ranker if all items compete.
        recall_among_new: Recall@10 by ranker if only new items compete.
        other_ndcg: NDCG@10 of the other users before the new items were added.
        boosts: Gain and cost by value of ``fresh_boost``.
    """

    data: str
    items: int
    new_items: int
    users: int
    other_users: int
    demand: float
    recall: dict[str, float]
    recall_among_new: dict[str, float]
    other_ndcg: float
    boosts: list[BoostRow]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """Return two tables for people: one compares rankers, one compares boosts."""
        rankers = Table(
            title=f"Recall@{CUTOFF} of {self.users:,} users whose next item is one of {self.new_items:,} new items"
        )
        columns = ("ranker", "all items compete", "only new items compete")
        boosts = Table(
            title=f"fresh_boost; {self.other_users:,} other users had NDCG@{CUTOFF} {self.other_ndcg:.4f} before"
        )
        names = ("boost", f"recall@{CUTOFF}", "share of answers", "of others' answers", f"others' ndcg@{CUTOFF}")

        for table, headers in ((rankers, columns), (boosts, names)):
            for number, header in enumerate(headers):
                table.add_column(header, justify="right" if number else "left")

        for ranker, value in self.recall.items():
            rankers.add_row(ranker.replace("_", " "), f"{value:.4f}", f"{self.recall_among_new[ranker]:.4f}")
        for row in self.boosts:
            rest = (row.recall, row.exposure, row.other_exposure, row.other_ndcg)
            boosts.add_row(f"{row.fresh_boost:g}", *(f"{value:.4f}" for value in rest))
        return [rankers, boosts]
