"""Answers of the service's own path for many histories at once, without queue, clock and event loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from service.answers.arranged import POPULAR_CANDIDATES, find_popular_parts, part_request
from service.answers.exploration import Drawn, distribution, draw, pool_size
from service.answers.popular import FallbackReason, find_popular
from service.answers.trending import EventCounts
from service.engines.base import SearchRequest, SearchResult
from service.models.loaded_model import LoadedModel
from service.ranking.checks import check_ranking
from service.ranking.compiler import CompiledRanking
from service.ranking.filters import CompiledRule, RuleKey, read_filter
from service.ranking.keys import RankingKey
from service.ranking.ranking import Ranking
from service.schemas.recommend import RecommendRequest
from service.search.query import Query, build_query, letters_to_leave_out
from service.settings import Settings
from service.store.base import History

MODEL: Literal["model"] = "model"
"""Source of an answer that is no fallback."""


class Answer(NamedTuple):
    """The answer to one history, in rows of the model's catalogue."""

    found: SearchResult
    served_by: Literal["model", "popular"]
    """What answered, in the words of ``POST /recommend``; of an empty answer, what would have."""
    source: FallbackReason | Literal["model"]
    """What answered, or why it was not the model; users are counted by it."""


class BatchRecommender:
    """Answers histories as ``POST /recommend`` would.

    Args:
        model: The model that answers.
        request: What every answer is asked for; its history and user are not read.
        events: Recent events, which rank popular items beside training popularity; ``None``: there is no store.
        settings: The settings that decide answers.
        now: Unix time that decides which boosts apply.

    Raises:
        InvalidFields: The model cannot obey the rules.
    """

    def __init__(
        self,
        model: LoadedModel,
        request: RecommendRequest,
        events: EventCounts | None,
        settings: Settings,
        now: float = 0.0,
    ) -> None:
        self._model = model
        self._events = events
        self._fresh_boost = settings.fresh_boost
        self._default_letters = letters_to_leave_out(settings.exclude_seen_event_types)
        self._largest_batch = settings.max_batch or model.engine.largest_batch
        self._explores = request.exploration is not None
        self._beam_width = model.beam_width(pool_size(request.k) if self._explores else request.k)

        self._rule_key = read_filter(request.filter).key
        self._rule = _compile(model, self._rule_key, request)
        self._request = _without_denied(request)

        key = RankingKey.of(request, now)
        check_ranking(key, model.catalogue.trie.levels, model.engine.can_steer)
        self._ranking = self._compile_ranking(key)
        self._popular_ranking = self._compile_ranking(key.for_popular_items())

    def recommend(self, histories: Sequence[History]) -> list[Answer]:
        """Answer histories, in order; if the request explores, with all that chance may choose among."""
        queries = [self._query(history) for history in histories]
        answers: list[Answer | None] = [None] * len(queries)

        searched: list[int] = []
        for place, query in enumerate(queries):
            if len(query.known) and not query.rule.is_empty:
                searched.append(place)
            else:
                answers[place] = self._answer_without_search(query)

        for place, each in zip(searched, self._search([queries[place] for place in searched]), strict=True):
            answers[place] = Answer(each, MODEL, MODEL)
        return [answer for answer in answers if answer is not None]

    def draw(self, history: History, answer: Answer, answer_id: bytes) -> Drawn:
        """Leave places of an answer to chance if the request explores.

        Args:
            history: The history that was answered.
            answer: Its answer, as :meth:`recommend` returned it.
            answer_id: Six bytes that decide what is drawn.
        """
        exploration = self._request.exploration
        if exploration is None or not len(answer.found.rows):
            return Drawn(answer.found, None)
        pinned = self._query(history).pinned_rows
        return draw(answer.found, pinned, self._request.k, exploration, answer_id)

    def probabilities(self, history: History, answer: Answer) -> npt.NDArray[np.float64]:
        """Return the probability of each item of an answer in each of its first places, ``[n, places]``."""
        pinned = self._query(history).pinned_rows
        return distribution(answer.found, pinned, self._request.k, self._request.exploration)

    def _query(self, history: History) -> Query:
        return build_query(
            self._model,
            self._request,
            history,
            self._rule_key,
            self._rule,
            self._default_letters,
            self._fresh_boost,
            self._ranking,
        )

    def _compile_ranking(self, key: RankingKey) -> CompiledRanking:
        rankings = self._model.rankings
        return rankings.find(key, self._rule_key) or rankings.compile(key, self._rule_key, self._rule)

    def _answer_without_search(self, query: Query) -> Answer:
        """Return popular items; where no item obeys the rules, nothing, labelled as what would have answered."""
        found = self._find_popular(query._replace(ranking=self._popular_ranking))
        if query.rule.is_empty:
            return Answer(found, MODEL if len(query.known) else "popular", FallbackReason.EMPTY_RULE)
        reason = FallbackReason.UNKNOWN_ITEMS if query.item_ids else FallbackReason.NO_HISTORY
        return Answer(found, "popular", reason)

    def _find_popular(self, query: Query) -> SearchResult:
        catalogue = query.model.catalogue
        if query.ranking.key.is_arranged:
            ranking = query.start_ranking()
            find_popular_parts(catalogue, ranking, self._events)
            return self._arranged(ranking)
        limit = query.ranking.key.first_code_limit
        k = max(query.request.k, POPULAR_CANDIDATES) if self._explores else query.request.k
        return find_popular(catalogue, query.rule, query.excluded, k, limit, self._events)

    def _arranged(self, ranking: Ranking) -> SearchResult:
        return ranking.pool if self._explores else ranking.found

    def _search(self, queries: Sequence[Query]) -> list[SearchResult]:
        """Return the model's answers to queries, in order."""
        asked = [query.search_request(self._beam_width) for query in queries]
        if not self._ranking.key.is_arranged:
            return self._search_all(asked)

        rankings = [query.start_ranking() for query in queries]
        self._search_parts(rankings, asked)
        return [self._arranged(ranking) for ranking in rankings]

    def _search_parts(self, rankings: Sequence[Ranking], asked: Sequence[SearchRequest]) -> None:
        """Search the parts of all rankings, round by round."""
        parts = [ranking.next_parts() for ranking in rankings]
        while any(parts):
            requests = [
                part_request(self._model, base, part) for base, each in zip(asked, parts, strict=True) for part in each
            ]
            found = iter(self._search_all(requests))
            for ranking, each in zip(rankings, parts, strict=True):
                if each:
                    ranking.take([next(found) for _ in each])
            parts = [ranking.next_parts() if each else () for ranking, each in zip(rankings, parts, strict=True)]

    def _search_all(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Return the results of searches, in order; like ones are computed together."""
        results: list[SearchResult | None] = [None] * len(requests)
        for places in self._batches(requests):
            batch = [requests[place] for place in places]
            answers = self._model.engine.answer(batch, self._model.catalogue)
            for place, found in zip(places, answers, strict=True):
                results[place] = found
        return [found for found in results if found is not None]

    def _batches(self, requests: Sequence[SearchRequest]) -> Iterator[Sequence[int]]:
        """Yield the places of searches to compute together: of one beam, and of like length, so that little is padding.

        Beams are all equal, but for searches of many pins.
        """
        shapes = [self._model.engine.shape(request) for request in requests]

        def beam_width(place: int) -> int:
            return requests[place].beam_width

        by_length = sorted(range(len(requests)), key=lambda place: (beam_width(place), len(requests[place].history)))
        for _, group in groupby(by_length, beam_width):
            places = list(group)
            start = 0
            while start < len(places):
                # The longest search of a batch decides its shape; in this order it is the last one.
                size = shapes[places[start]].batch_limit(self._largest_batch)
                last = places[min(start + size, len(places)) - 1]
                size = min(size, shapes[last].batch_limit(self._largest_batch))
                yield places[start : start + size]
                start += size


def _compile(model: LoadedModel, key: RuleKey, request: RecommendRequest) -> CompiledRule:
    """Return the rule of all answers. Denied items are closed in it: all users share them here."""
    rule = model.rules.compile(key)
    if request.filter is None or not request.filter.deny:
        return rule

    open_rows = rule.open_rows.copy()
    open_rows[model.catalogue.rows(request.filter.deny)] = False
    return replace(rule, open_rows=open_rows, mask=model.catalogue.trie.mask(open_rows), is_empty=not open_rows.any())


def _without_denied(request: RecommendRequest) -> RecommendRequest:
    if request.filter is None:
        return request
    return request.model_copy(update={"filter": request.filter.model_copy(update={"deny": None})})
