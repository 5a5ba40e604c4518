"""Hidden world of a simulated shop: what people like, where they look, and what they can spend.

Items stand in a tree of themes and shelves, as codes of semantic IDs do. A person's taste is a distribution over the
themes, and over the shelves of each. An item has an appeal that nobody tells the service. A person looks at the item of
rank r with the probability ``r ** -POSITION_BIAS`` (the examination hypothesis: N. Craswell et al., WSDM 2008), and
clicks on what was looked at with the probability

    sigmoid(BASE + appeal + TASTE * log(share of the item's shelf in the taste * number of shelves))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

POSITION_BIAS = 0.6
BASE = -2.0
TASTE = 0.6
BUYS = 0.4
"""Probability that a click leads to a purchase, while there is budget."""

SECONDS_OF_HISTORY = 60 * 86_400
FIRST_SECOND = 1_700_000_000


class Deed(NamedTuple):
    """Something that a person does with an item of an answer."""

    type: str  # click or purchase
    item: int
    rank: int  # from 1
    value: float | None = None  # of a purchase


@dataclass(frozen=True)
class World:
    """People and items.

    Attributes:
        theme: Theme of each item, ``[items]``.
        shelf: Shelf of each item, numbered over all themes, ``[items]``.
        appeal: Appeal of each item in logits, ``[items]``.
        past_appeal: The same before the first day, ``[items]``. A new season has begun since: one says nothing of the
            other, so a model of what people chose before is behind, and somebody can put forward what is better.
        price: Price of each item, ``[items]``.
        taste: Share of each shelf in what a person likes, ``[users, shelves]``, rows with the sum 1.
        visits_a_day: Mean number of visits of a person on a day.
        purchases_a_day: Most purchases of a person on a day.
    """

    theme: Ints
    shelf: Ints
    appeal: Floats
    past_appeal: Floats
    price: Floats
    taste: Floats
    visits_a_day: float = 0.6
    purchases_a_day: int = 1

    @classmethod
    def make(cls, users: int, items: int, themes: int, shelves: int, seed: int) -> World:
        """Draw a world.

        Args:
            users: Number of people.
            items: Number of items.
            themes: Number of themes.
            shelves: Number of shelves of each theme.
            seed: Source of all chance.
        """
        rng = np.random.default_rng(seed)
        shelf = rng.permutation(np.arange(items) % (themes * shelves))
        of_themes = rng.dirichlet(np.full(themes, 0.3), users)
        of_shelves = rng.dirichlet(np.full(shelves, 0.5), (users, themes))
        return cls(
            theme=shelf // shelves,
            shelf=shelf,
            appeal=rng.normal(0.0, 1.0, items),
            past_appeal=rng.normal(0.0, 1.0, items),
            price=np.round(rng.lognormal(2.5, 0.6, items), 2),
            taste=(of_themes[:, :, None] * of_shelves).reshape(users, themes * shelves),
        )

    @property
    def users(self) -> int:
        """Number of people."""
        return len(self.taste)

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.shelf)

    def likes(self, user: int) -> Floats:
        """Return the probability that a person clicks on each item once it is looked at, ``[items]``."""
        relative = self.taste[user, self.shelf] * self.taste.shape[1]
        found: Floats = 1 / (1 + np.exp(-(BASE + self.appeal + TASTE * np.log(relative + 1e-3))))
        return found

    def visitors(self, rng: np.random.Generator) -> Ints:
        """Return who visits on a day, in order of time; who comes twice is in it twice."""
        return rng.permutation(np.repeat(np.arange(self.users), rng.poisson(self.visits_a_day, self.users)))

    def visit(self, user: int, answer: Sequence[int], budget: int, rng: np.random.Generator) -> list[Deed]:
        """Return what a person does with an answer, from the first rank on.

        Args:
            user: The person.
            answer: Items, best first.
            budget: Purchases that are left for the day.
            rng: Source of chance.
        """
        rows = np.asarray(answer, dtype=np.int64)
        clicked = rng.random(len(rows)) < examined(len(rows)) * self.likes(user)[rows]
        deeds: list[Deed] = []
        for place in np.flatnonzero(clicked).tolist():
            item = int(rows[place])
            deeds.append(Deed("click", item, place + 1))
            if budget > 0 and rng.random() < BUYS:
                deeds.append(Deed("purchase", item, place + 1, float(self.price[item])))
                budget -= 1
        return deeds

    def favourites(self, count: int) -> list[str]:
        """Return the ids of the items with most appeal."""
        return [item_id(row) for row in np.argsort(-self.appeal)[:count].tolist()]

    def table(self) -> pl.DataFrame:
        """Return what the service may know of the items: columns ``item``, ``title``, ``categories`` with `|`."""
        kinds = [f"theme {theme}|shelf {shelf}" for theme, shelf in zip(self.theme, self.shelf, strict=True)]
        return pl.DataFrame({"item": [item_id(row) for row in range(self.items)], "title": "", "categories": kinds})

    def history(self, interactions: int, seed: int) -> pl.DataFrame:
        """Return what people chose by themselves before the first day: columns ``user``, ``item``, ``timestamp``."""
        rng = np.random.default_rng(seed)
        chance = np.exp(self.past_appeal)
        users = rng.integers(0, self.users, interactions)
        chosen = np.empty(interactions, dtype=np.int64)
        for user in np.unique(users).tolist():
            weight = self.taste[user, self.shelf] * chance
            own = users == user
            chosen[own] = rng.choice(self.items, int(own.sum()), p=weight / weight.sum())

        seconds = FIRST_SECOND + np.sort(rng.integers(0, SECONDS_OF_HISTORY, interactions))
        log = {"user": [user_id(row) for row in users.tolist()], "item": [item_id(row) for row in chosen.tolist()]}
        return pl.DataFrame(log).with_columns(pl.Series("timestamp", seconds))


def examined(ranks: int) -> Floats:
    """Return the probability that each of the first ranks is looked at, ``[ranks]``."""
    return np.arange(1, ranks + 1, dtype=np.float64) ** -POSITION_BIAS


def item_id(row: int) -> str:
    """Return the id of an item."""
    return f"item-{row}"


def row_of(name: str) -> int:
    """Return the row of an item or person by its id."""
    return int(name.rpartition("-")[2])


def user_id(row: int) -> str:
    """Return the id of a person."""
    return f"user-{row}"
