"""Search of a query by the model that answers it: in one go, or in parts that the rules arrange."""

from __future__ import annotations

import time
from typing import NamedTuple

from service.answers.arranged import search_parts
from service.engines.base import SearchRequest, SearchResult
from service.models.slot import Serving
from service.ranking.ranking import Ranking
from service.search.query import Query


class Found(NamedTuple):
    """What was found, and how it was arranged, if it was.

    If the request explores, it is a pool, see :mod:`service.answers.exploration`.
    """

    found: SearchResult
    ranking: Ranking | None = None


async def search(serving: Serving, query: Query, asked: SearchRequest, deadline: float) -> Found:
    """Search, and arrange what was found if the rules ask for it.

    Args:
        serving: The model that answers.
        query: The request in terms of that model's catalogue.
        asked: Its search.
        deadline: Monotonic time, in seconds, when the answer is worthless.

    Raises:
        QueueFull, QueueTooLong, DeadlineMissed, NotReady: See :meth:`~service.scheduling.batcher.Batcher.submit`.
    """
    if not query.ranking.key.is_arranged:
        return Found(await serving.batcher.submit(asked, deadline - time.monotonic()))

    ranking = query.start_ranking()
    await search_parts(serving, ranking, asked, deadline)
    return Found(arranged(query, ranking), ranking)


def arranged(query: Query, ranking: Ranking) -> SearchResult:
    """Return the answer of a ranking, or the pool to draw one from."""
    return ranking.found if query.request.exploration is None else ranking.pool
