"""Answers of popular items under the same rules as the model's, for who is new or has no time to wait."""

from __future__ import annotations

import asyncio

from service.answers.arranged import POPULAR_CANDIDATES, find_popular_parts
from service.answers.popular import FallbackReason, find_popular
from service.answers.trending import TrendTracker
from service.engines.base import SearchResult
from service.schemas.recommend import RecommendRequest
from service.search.answered import Answered, draw_places
from service.search.query import Query, QueryBuilder
from service.search.rule_costs import measure_costs
from service.search.search import Found, arranged
from service.store.base import History


class PopularSearch:
    """Answers queries by popularity.

    Args:
        queries: Builds the queries.
        trends: Counts the events of late.
    """

    def __init__(self, queries: QueryBuilder, trends: TrendTracker) -> None:
        self._queries = queries
        self._trends = trends

    async def answer(self, query: Query, history: History, reason: FallbackReason) -> Answered:
        """Answer a query.

        Args:
            query: The query.
            history: The user's history, from which the query was built.
            reason: Why popular items answer.
        """
        query = await self._queries.steer_by_boosts(query)
        found, ranking = await self._find(query)
        shown, chance = await draw_places(query, found)
        if not query.request.explain:
            return Answered(shown, "popular", fallback_reason=reason, chance=chance)

        async def answer_again(request: RecommendRequest) -> tuple[Query, SearchResult]:
            other = await self._queries.steer_by_boosts(await self._queries.build_again(query, request, history))
            return other, (await self._find(other)).found

        costs = await measure_costs(query, found, shown, ranking, answer_again)
        return Answered(shown, "popular", fallback_reason=reason, rule_costs=costs, chance=chance)

    async def _find(self, query: Query) -> Found:
        catalogue = query.model.catalogue
        events = await self._trends.popular_counts(catalogue)
        if not query.ranking.key.is_arranged:
            limit = query.ranking.key.first_code_limit
            k = query.request.k if query.request.exploration is None else max(query.request.k, POPULAR_CANDIDATES)
            return Found(find_popular(catalogue, query.rule, query.excluded, k, limit, events))

        ranking = query.start_ranking()
        await asyncio.to_thread(find_popular_parts, catalogue, ranking, events)
        return Found(arranged(query, ranking), ranking)
