"""What the rules of one answer cost, measured where necessary by answering again without one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import numpy.typing as npt

from model_store.search.steering import steering_of
from service.engines.base import SearchResult
from service.ranking.costs import Shown, cost_of, costs_of_arranging, list_costs
from service.ranking.ranking import Ranking
from service.schemas.ranking import RuleCost
from service.schemas.recommend import RecommendRequest
from service.search.query import Query

AnswerAgain = Callable[[RecommendRequest], Awaitable[tuple[Query, SearchResult]]]
"""Function that answers another request of the same user in the same way."""


async def measure_costs(
    query: Query, pool: SearchResult, explored: SearchResult, ranking: Ranking | None, answer_again: AnswerAgain
) -> list[RuleCost]:
    """Return what each rule of an answer cost; that of exploration by what chance chose, those of others without it.

    Args:
        query: The query.
        pool: Its answer without exploration, perhaps followed by other candidates.
        explored: Its answer.
        ranking: How the answer was arranged, if it was.
        answer_again: Answers the request without one rule.
    """
    catalogue = query.model.catalogue
    measured = []
    if ranking is not None:
        candidates = ranking.candidates.rows
        measured += costs_of_arranging(catalogue, ranking, _steering(query, candidates))

    shown = _shown(query, pool.first(query.request.k))
    if query.request.exploration is not None:
        measured.append(cost_of(catalogue, "exploration", _shown(query, explored), shown))
    for rule, request in _without_each(query):
        other, others = await answer_again(request)
        measured.append(cost_of(catalogue, rule, shown, _shown(other, others)))
    return list_costs(query.request, measured)


def _without_each(query: Query) -> Iterator[tuple[str, RecommendRequest]]:
    """Yield the rules that act inside the search, and the request without each of them."""
    request = query.request.model_copy(update={"exploration": None})
    if request.filter is not None:
        yield "filter", request.model_copy(update={"filter": None})
    if query.ranking.key.first_code_limit is not None:
        deeper = {str(each.depth): each.answers for each in query.ranking.key.limits if each.depth > 1}
        yield "max_per_prefix.1", request.model_copy(update={"max_per_prefix": deeper or None})
    if query.ranking.key.steer:
        yield "steer", request.model_copy(update={"steer": None})


def _shown(query: Query, found: SearchResult) -> Shown:
    """Return an answer with the model's own scores: without what boosts and steering add."""
    own = found.score - query.ranking.nats(found.rows) - _steering(query, found.rows)
    return Shown(found.rows, own)


def _steering(query: Query, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return steering_of(query.model.catalogue.codes[rows], query.ranking.key.steer)
