"""Preview of a new item: its codes, who would see it and what it would displace, before it is stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from service.answers.similar import find_similar
from service.catalogue.dry_run import add_unstored
from service.errors import NotReady
from service.models.loaded_model import LoadedModel
from service.models.manager import ModelManager
from service.previews.audience import Audience, Rows, Sample
from service.previews.turn import Turn
from service.schemas.items import StoredItem
from service.schemas.previews import ItemPreviewQuery
from service.schemas.recommend import RecommendRequest
from service.settings import Settings

NEAREST = 5
"""Items most like the new one that a preview shows."""


@dataclass(frozen=True)
class PreviewedItem:
    """A new item in a catalogue that nobody else is answered with.

    Attributes:
        model: The model with that catalogue.
        row: Row of the item.
        nearest: Rows of the items most like it, best first, ``[n]``.
        sample: The histories.
        ranks: Rank in each answer that has the item, from 1, ascending.
        displaced: By row, how many answers an item left because of the new one.
    """

    model: LoadedModel
    row: int
    nearest: Rows
    sample: Sample
    ranks: list[int]
    displaced: Counter[int]


class ItemPreviewer:
    """Previews new items with the model that serves now, one at a time."""

    def __init__(self, models: ModelManager, audience: Audience, turn: Turn, settings: Settings) -> None:
        self._models = models
        self._audience = audience
        self._turn = turn
        self._rule_entries = settings.rule_cache_entries

    async def preview(self, body: StoredItem, query: ItemPreviewQuery) -> PreviewedItem:
        """Add an item to a copy of the catalogue, and answer a sample of histories without it and with it.

        Raises:
            CatalogueIsFull: No semantic ID is left for it.
            InvalidFields: It is too large, or this version cannot encode it.
            NotReady, QueueFull, DeadlineMissed: As for a recommendation.
        """
        async with self._turn.taken():
            with self._models.lease() as serving:
                model = serving.model
                if model.replica is None:
                    raise NotReady(self._models.problem)
                added = await asyncio.to_thread(add_unstored, model.replica, body)
                changed = await asyncio.to_thread(model.with_catalogue, added.replica, self._rule_entries)
                row = added.row

                sample = await self._audience.draw(model, query.histories)
                answer = partial(self._audience.answer, serving, request=RecommendRequest(k=query.k), sample=sample)
                before = await answer(model)
                after = await answer(changed)
                near = np.empty(0, dtype=np.int64)
                if not changed.says_nothing(row):
                    near = (await asyncio.to_thread(find_similar, changed.catalogue, row, NEAREST)).rows

        return PreviewedItem(changed, row, near, sample, _ranks(after, row), _displaced(before, after, row))


def _ranks(answers: Sequence[Rows], row: int) -> list[int]:
    places = (np.flatnonzero(rows == row) for rows in answers)
    return sorted(int(place[0]) + 1 for place in places if len(place))


def _displaced(before: Sequence[Rows], after: Sequence[Rows], row: int) -> Counter[int]:
    """Count the items that left answers which the new item came into."""
    displaced: Counter[int] = Counter()
    for old, new in zip(before, after, strict=True):
        if row in new:
            displaced.update(np.setdiff1d(old, new).tolist())
    return displaced
