"""The request path, without HTTP: history, known items, rules, search, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from service.answers.explanations import NO_REASONS, Reasons, reasons
from service.answers.popular import popular
from service.answers.result_cache import AnswerKey, ResultCache
from service.answers.trending import Trends
from service.engines.base import BEAM_WIDTHS, NARROW_WIDTHS, SearchRequest, SearchResult
from service.errors import DeadlineMissed, QueueTooLong
from service.filters import Rule, RuleKey
from service.models.loaded_model import LoadedModel
from service.models.manager import ModelManager, Serving
from service.schemas.recommend import RecommendRequest
from service.settings import Settings
from service.store.client import StoreClient, StoredHistory
from service.telemetry import Telemetry

ServedBy = Literal["model", "cache", "popular"]

ANSWER_S = 0.002
"""Kept back from a request's own budget: after the search gave up, another answer must still be made and sent."""

_NOTHING = SearchResult(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32))


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request, in rows of ``model``'s catalogue."""

    model: LoadedModel
    found: SearchResult
    served_by: ServedBy
    is_degraded: bool
    unknown_items: Sequence[str]
    took_ms: float
    reasons: Reasons | None = None  # only if they were asked for


class _Asked(NamedTuple):
    """A request in terms of one model."""

    model: LoadedModel
    request: RecommendRequest
    known: npt.NDArray[np.int64]  # rows of the history's known items, oldest first
    rule_key: RuleKey
    rule: Rule
    excluded: npt.NDArray[np.int64]  # rows
    fresh_boost: float

    def question(self, beam_width: int) -> SearchRequest:
        """What the engine is asked."""
        return SearchRequest(
            history=self.known,
            k=self.request.k,
            beam_width=beam_width,
            rule=self.rule.mask,
            excluded=self.excluded,
            catalogue=self.model.catalogue,
            max_per_prefix=self.request.max_per_prefix,
            fusion=self.model.fusion(beam_width),
            transitions=self.model.transitions,
            fresh_boost=self.fresh_boost,
        )


class _Answered(NamedTuple):
    found: SearchResult
    served_by: ServedBy
    reasons: Reasons = NO_REASONS


class Recommender:
    """Answers requests with whichever model is live."""

    def __init__(
        self, models: ModelManager, store_client: StoreClient, trends: Trends, settings: Settings, telemetry: Telemetry
    ) -> None:
        self._models = models
        self._store_client = store_client
        self._trends = trends
        self._settings = settings
        self._telemetry = telemetry
        self._cache = ResultCache(settings.result_cache_entries, settings.result_cache_s)
        self._answers = {kind: telemetry.answers.labels(kind) for kind in ("model", "cache", "popular")}

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """Answer one request.

        Raises:
            NotReady: No model is loaded.
            QueueFull: See :meth:`service.scheduling.batcher.Batcher.submit`.
            QueueTooLong, DeadlineMissed: Only if the request brought no ``budget_ms``: with one, popular items answer.
        """
        started = time.monotonic()
        deadline = started + min(request.budget_ms or np.inf, self._settings.deadline_ms) / 1000
        history = await self._history(request)
        with self._models.lease() as serving:
            asked = await self._asked(serving.model, request, history)
            if asked.rule.is_empty:
                answered = _Answered(_NOTHING, "model" if len(asked.known) else "popular")
            elif len(asked.known):
                answered = await self._by_model(serving, asked, deadline)
            else:
                answered = await self._by_popularity(asked)
        return self._recommendation(asked, answered, history, started)

    async def _history(self, request: RecommendRequest) -> StoredHistory:
        if request.history is not None or request.user_id is None:
            return StoredHistory(request.history or [], is_missing=False)
        return await self._store_client.history(request.user_id)

    async def _asked(self, model: LoadedModel, request: RecommendRequest, history: StoredHistory) -> _Asked:
        rules, key = model.rules, RuleKey.of(request.filter)
        rule = rules.find(key)
        if rule is None:
            rule = await asyncio.to_thread(rules.compile, key)
        known = rules.rows(history.item_ids)
        excluded = known if request.exclude_seen else known[:0]
        if request.filter is not None and request.filter.deny:
            excluded = np.concatenate([excluded, rules.rows(request.filter.deny)])
        return _Asked(model, request, known, key, rule, excluded, self._settings.fresh_boost)

    async def _by_model(self, serving: Serving, asked: _Asked, deadline: float) -> _Answered:
        """By an answer that is kept, by the search, or, where the request's own budget is too tight, by popularity."""
        question = asked.question(asked.model.beam_width(asked.request.k))
        key = AnswerKey.of(question, asked.rule_key, asked.model.engine.max_history)
        kept = self._kept(asked, key)
        if kept is not None:
            return _Answered(kept, "cache")
        has_budget = asked.request.budget_ms is not None
        searched = self._affordable(serving, asked, question, deadline - time.monotonic()) if has_budget else question
        try:
            budget_s = deadline - time.monotonic() - (ANSWER_S if has_budget else 0)
            found = await serving.batcher.submit(searched, budget_s)
        except (QueueTooLong, DeadlineMissed):
            if not has_budget:
                raise
            return await self._by_popularity(asked)
        if searched is question:
            self._cache.keep(asked.model.catalogue, key, found)
        if not asked.request.explain:
            return _Answered(found, "model")
        return _Answered(found, "model", await reasons(serving, searched, found.rows, deadline - time.monotonic()))

    def _kept(self, asked: _Asked, key: AnswerKey) -> SearchResult | None:
        if not self._cache.is_on or asked.request.explain:
            return None
        found = self._cache.find(asked.model.catalogue, key)
        self._telemetry.cache_lookups.labels("miss" if found is None else "hit").inc()
        return found

    def _affordable(self, serving: Serving, asked: _Asked, question: SearchRequest, budget_s: float) -> SearchRequest:
        """The question with the widest beam that the budget allows; never so narrow that answers would be missing."""
        narrower = [width for width in (*BEAM_WIDTHS, *NARROW_WIDTHS) if asked.request.k <= width < question.beam_width]
        for width in (question.beam_width, *sorted(narrower, reverse=True)):
            candidate = question if width == question.beam_width else asked.question(width)
            if serving.batcher.admission.can_answer(candidate, budget_s - ANSWER_S):
                if candidate is not question:
                    self._telemetry.narrowed.labels(str(width)).inc()
                return candidate
        return question

    async def _by_popularity(self, asked: _Asked) -> _Answered:
        request, catalogue = asked.request, asked.model.catalogue
        events = await self._trends.popular(catalogue)
        found = popular(catalogue, asked.rule, asked.excluded, request.k, request.max_per_prefix, events)
        return _Answered(found, "popular")

    def _recommendation(
        self, asked: _Asked, answered: _Answered, history: StoredHistory, started: float
    ) -> Recommendation:
        is_degraded = history.is_missing or not self._store_client.is_up
        self._answers[answered.served_by].inc()
        if is_degraded:
            self._telemetry.degraded.inc()
        return Recommendation(
            model=asked.model,
            found=self._still_visible(asked.model, answered.found),
            served_by=answered.served_by,
            is_degraded=is_degraded,
            unknown_items=_unknown(asked, history.item_ids),
            took_ms=(time.monotonic() - started) * 1000,
            reasons=answered.reasons if asked.request.explain else None,
        )

    def _still_visible(self, model: LoadedModel, found: SearchResult) -> SearchResult:
        """Without items that were hidden while the answer was on its way."""
        current = self._models.current
        if current is None or current.catalogue is model.catalogue:
            return found
        if current.version == model.version:
            is_hidden = current.catalogue.is_hidden[found.rows]  # rows stay what they are inside a version
        else:
            rows = [current.catalogue.row(model.catalogue.item_ids[row]) for row in found.rows.tolist()]
            is_hidden = np.array([row is not None and current.catalogue.is_hidden[row] for row in rows], dtype=np.bool_)
        return found.select(~is_hidden) if is_hidden.any() else found


def _unknown(asked: _Asked, item_ids: Sequence[str]) -> list[str]:
    """Ids that the catalogue lacks, each once, in order."""
    if len(asked.known) == len(item_ids):
        return []
    row_of = asked.model.catalogue.row_of
    return list(dict.fromkeys(item_id for item_id in item_ids if item_id not in row_of))
