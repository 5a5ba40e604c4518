"""The question why an item is not in an answer, without HTTP: history, rules, searches along its path."""

from __future__ import annotations

import asyncio
import time

from service.answers.absences import WhyNot, explain_absence
from service.catalogue.range_check import RangeCheck
from service.errors import NotFound
from service.models.manager import ModelManager
from service.ranking.filters import read_filter
from service.schemas.recommend import RecommendRequest
from service.search.query import QueryBuilder, read_history
from service.settings import Settings
from service.store.client import StoreClient


class WhyNotFinder:
    """Says why items are not in answers of the model that serves now."""

    def __init__(
        self, models: ModelManager, store_client: StoreClient, range_check: RangeCheck, settings: Settings
    ) -> None:
        self._models = models
        self._store_client = store_client
        self._range_check = range_check
        self._queries = QueryBuilder(settings)
        self._deadline_s = settings.deadline_ms / 1000

    async def find(self, request: RecommendRequest, item_id: str) -> WhyNot:
        """Say why an item is not in the answer to a request, or at which rank it is.

        Raises:
            NotFound: The catalogue has no such item.
            NotReady, InvalidFields, QueueFull, DeadlineMissed: As for a recommendation.
        """
        deadline = time.monotonic() + self._deadline_s
        rule_key = read_filter(request.filter).key
        await self._range_check.check(request, rule_key)
        stored = await read_history(self._store_client, request)

        with self._models.lease() as serving:
            model = serving.model
            row = model.catalogue.row(item_id)
            if row is None:
                raise NotFound("the catalogue has no item with this id")

            query = await self._queries.build(model, request, stored.history, rule_key)
            closed = await asyncio.to_thread(query.closing_rule, row)
            if not len(query.known):
                return WhyNot(model, row, closed, None)

            asked = query.search_request(model.beam_width(request.k))
            absence = await explain_absence(serving, asked, query.rule, row, deadline - time.monotonic())
            return WhyNot(model, row, closed, absence)
