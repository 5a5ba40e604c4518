"""Audience of a preview: histories of users who asked of late, and how the model would answer them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.answers.arranged import search_parts
from service.answers.recent_users import RecentUsers
from service.async_tasks import gather_or_cancel
from service.models.loaded_model import LoadedModel
from service.models.slot import Serving
from service.ranking.filters import read_filter
from service.schemas.recommend import RecommendRequest
from service.search.query import Query, QueryBuilder
from service.settings import Settings
from service.store.base import History
from service.store.client import StoreClient

AT_ONCE = 8
"""Histories that are answered at a time, so that requests of users need not wait behind all of them."""

Rows = npt.NDArray[np.int64]


class Sample(NamedTuple):
    """Histories that a preview answers."""

    histories: list[History]
    users: int  # of these histories: those of users who asked of late; the others came with the version

    def __len__(self) -> int:
        return len(self.histories)


class Audience:
    """Draws samples of histories, and answers them. Nothing of it is counted, cached or noted as shown.

    Args:
        store_client: Client of the store.
        recent_users: Who asked of late.
        settings: Time limits, and what is left out of answers.
    """

    def __init__(self, store_client: StoreClient, recent_users: RecentUsers, settings: Settings) -> None:
        self._store_client = store_client
        self._recent_users = recent_users
        self._queries = QueryBuilder(settings)
        self._deadline_s = settings.deadline_ms / 1000

    async def draw(self, model: LoadedModel, wanted: int) -> Sample:
        """Return histories that hold an item of the catalogue: of recent users first, then examples of the version.

        Users whose history cannot be read are left out, so that previews work while the store is away.
        """
        users = self._recent_users.newest(wanted)
        stored = await gather_or_cancel([self._store_client.history(user_id) for user_id in users])
        known = [each.history for each in stored if _is_known(model, each.history)]
        examples = [History.untyped(list(each)) for each in model.examples]
        others = [each for each in examples if _is_known(model, each)][: wanted - len(known)]
        return Sample([*known, *others], len(known))

    async def answer(
        self, serving: Serving, model: LoadedModel, request: RecommendRequest, sample: Sample, at: float | None = None
    ) -> list[Rows]:
        """Answer every history of a sample under the rules of a request.

        Args:
            serving: The model that answers now.
            model: The same, or the same with another catalogue.
            request: Whose rules hold; who asks is not read.
            sample: The histories.
            at: Unix time that decides which boosts apply; ``None``: now.

        Returns:
            Rows of the items, best first, by history.

        Raises:
            InvalidFields: The model cannot obey the rules.
            QueueFull, QueueTooLong, DeadlineMissed, NotReady: See
                :meth:`~service.scheduling.batcher.Batcher.submit`.
        """
        request = request.model_copy(update={"exploration": None})  # before and after must not differ by chance
        rule_key = read_filter(request.filter).key
        found: list[Rows] = []
        for start in range(0, len(sample), AT_ONCE):
            queries = [
                await self._queries.build(model, request, history, rule_key, at=at)
                for history in sample.histories[start : start + AT_ONCE]
            ]
            found += await gather_or_cancel([self._search(serving, query) for query in queries])
        return found

    async def _search(self, serving: Serving, query: Query) -> Rows:
        if query.rule.is_empty or not len(query.known):
            return np.empty(0, dtype=np.int64)

        asked = query.search_request(query.model.beam_width(query.request.k))
        if not query.ranking.key.is_arranged:
            return (await serving.batcher.submit(asked, self._deadline_s)).rows

        ranking = query.start_ranking()
        await search_parts(serving, ranking, asked, time.monotonic() + self._deadline_s)
        return ranking.found.rows


def _is_known(model: LoadedModel, history: History) -> bool:
    return bool(len(model.catalogue.rows(history.item_ids)))


def count_changed(before: Sequence[Rows], after: Sequence[Rows]) -> int:
    """Return how many answers differ, in their items or in the order of them."""
    return sum(not np.array_equal(old, new) for old, new in zip(before, after, strict=True))
