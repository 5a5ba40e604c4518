"""What a measurement of new items found, as plain values and as tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

CUTOFF = 10
"""Answers that are looked at."""


@dataclass(frozen=True)
class BoostRow:
    """What one ``fresh_boost`` gives and takes.

    Attributes:
        fresh_boost: See :func:`model_store.search.fusion.boost_new_items`.
        recall: Recall@10 of users whose next item is new.
        exposure: Share of new items among their answers.
        other_exposure: The same of the other users.
        other_ndcg: NDCG@10 of the other users, whose next item is a trained one.
    """

    fresh_boost: float
    recall: float
    exposure: float
    other_exposure: float
    other_ndcg: float


@dataclass(frozen=True)
class NewItemsReport:
    """Figures of one measurement; items of the history are excluded from answers, as the service does by default.

    Attributes:
        data: Name of the data set.
        items: Of the whole catalogue.
        new_items: Those that were held out.
        users: Whose next item is new.
        other_users: Test users whose next item was trained.
        demand: Share of all interactions that are with new items.
        recall: Recall@10 by ranker, all items competing.
        recall_among_new: Recall@10 by ranker if only new items may be answered.
        other_ndcg: NDCG@10 of the other users before the new items came.
        boosts: By value.
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
        """Plain values."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """For people: rankers compared, and boosts."""
        rankers = Table(
            title=f"Recall@{CUTOFF} of {self.users:,} users whose next item is one of {self.new_items:,} new"
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
