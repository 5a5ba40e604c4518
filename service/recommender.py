"""The path of one request, without HTTP: history, known items, rules, search, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import compress
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.events.event import EventType
from model_store.events.history_entry import LETTERS, UNKNOWN, UNTIMED
from service.answers.explanations import NO_EXPLANATIONS, Explanations, explain
from service.answers.popular import FallbackReason, PopularLog, find_popular
from service.answers.result_cache import AnswerKey, ResultCache
from service.answers.trending import TrendTracker
from service.catalogue.range_check import RangeCheck
from service.engines.base import BEAM_WIDTHS, NARROW_WIDTHS, SearchRequest, SearchResult
from service.errors import DeadlineMissed, QueueTooLong
from service.filters import CompiledRule, RuleKey
from service.models.loaded_model import LoadedModel
from service.models.manager import ModelManager, Serving
from service.schemas.recommend import RecommendRequest
from service.settings import Settings
from service.store.base import History
from service.store.client import StoreClient, StoredHistory
from service.telemetry import Telemetry

ServedBy = Literal["model", "cache", "popular"]

ANSWER_S = 0.002
"""Seconds of a request's own budget that the search may not use: popular items must still be found and sent if it gives
up."""

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
    explanations: Explanations | None = None  # only if the request asked for them
    fallback_reason: FallbackReason | None = None  # only if popular items answered


class _Query(NamedTuple):
    """A request in terms of one model's catalogue."""

    model: LoadedModel
    request: RecommendRequest
    known: npt.NDArray[np.int64]  # rows of the history's known items, oldest first
    rule_key: RuleKey
    rule: CompiledRule
    excluded: npt.NDArray[np.int64]  # rows of denied items, and of seen ones that must not come again
    fresh_boost: float

    def search_request(self, beam_width: int) -> SearchRequest:
        """Return the question to the engine."""
        return SearchRequest(
            history=self.known,
            k=self.request.k,
            beam_width=beam_width,
            rule=self.rule.mask,
            excluded=self.excluded,
            catalogue=self.model.catalogue,
            max_per_prefix=self.request.max_per_prefix,
            fusion=self.model.fusion(beam_width),
            neighbours=self.model.neighbours,
            fresh_boost=self.fresh_boost,
        )


class _Answered(NamedTuple):
    """The items that answer a query, and where they come from."""

    found: SearchResult
    served_by: ServedBy
    explanations: Explanations = NO_EXPLANATIONS
    fallback_reason: FallbackReason | None = None


class Recommender:
    """Answers requests with the model that serves now."""

    def __init__(
        self,
        models: ModelManager,
        store_client: StoreClient,
        trends: TrendTracker,
        range_check: RangeCheck,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._models = models
        self._store_client = store_client
        self._trends = trends
        self._range_check = range_check
        self._settings = settings
        self._telemetry = telemetry

        self._default_letters = letters_to_leave_out(settings.exclude_seen_event_types)
        self._cache = ResultCache(settings.result_cache_entries, settings.result_cache_s)

        self._answers = {kind: telemetry.answers.labels(kind) for kind in ("model", "cache", "popular")}
        self._popular_answers = {reason: telemetry.popular_answers.labels(reason.value) for reason in FallbackReason}
        self._popular_log = PopularLog()

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """Answer one request.

        Raises:
            NotReady: No model is loaded.
            InvalidFields: See :meth:`service.catalogue.range_check.RangeCheck.check`.
            QueueFull: See :meth:`service.scheduling.batcher.Batcher.submit`.
            QueueTooLong, DeadlineMissed: Raised only without ``budget_ms``; with it, popular items are served
                instead.
        """
        started = time.monotonic()
        deadline = started + min(request.budget_ms or np.inf, self._settings.deadline_ms) / 1000
        rule_key = RuleKey.of(request.filter)
        await self._range_check.check(rule_key, (request.filter and request.filter.attributes) or ())
        stored = await self._read_history(request)

        # A lease keeps the model, even if another version is swapped in before the answer is ready.
        with self._models.lease() as serving:
            known = serving.model.catalogue.rows(stored.history.item_ids)
            rule = await self._find_rule(serving.model, rule_key)
            excluded = self._excluded_rows(serving.model, request, stored.history, known)
            query = _Query(serving.model, request, known, rule_key, rule, excluded, self._settings.fresh_boost)

            if rule.is_empty:
                answered = _answer_nothing(query)
            elif len(known):
                answered = await self._answer_by_model(serving, query, deadline)
            else:
                answered = await self._answer_by_popularity(query, _why_nothing_is_known(stored))

        self._count(query, answered)
        return self._recommendation(query, answered, stored, started)

    async def _read_history(self, request: RecommendRequest) -> StoredHistory:
        """Return the request's own history, even an empty one, else the stored one of its user."""
        if request.history is not None or request.user_id is None:
            return StoredHistory(History.untyped(request.history or []), is_missing=False)
        return await self._store_client.history(request.user_id)

    def _excluded_rows(
        self, model: LoadedModel, request: RecommendRequest, history: History, known: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Return the rows of seen items that are not to come again, and of denied ones."""
        asked = request.exclude_seen
        letters = self._default_letters if asked is True else letters_to_leave_out(asked or ())
        seen = _seen_rows(model, history, known, letters)
        if request.filter is None or not request.filter.deny:
            return seen
        return np.concatenate([seen, model.catalogue.rows(request.filter.deny)])

    async def _find_rule(self, model: LoadedModel, key: RuleKey) -> CompiledRule:
        rule = model.rules.find(key)
        return rule if rule is not None else await asyncio.to_thread(model.rules.compile, key)

    async def _answer_by_model(self, serving: Serving, query: _Query, deadline: float) -> _Answered:
        """Return a cached answer, else search; popular items answer where the request's own budget is too tight."""
        full = query.search_request(query.model.beam_width(query.request.k))
        key = AnswerKey.of(full, query.rule_key, query.model.engine.max_history)
        cached = self._find_cached(query, key)
        if cached is not None:
            return _Answered(cached, "cache")

        # A request with a budget of its own prefers a poorer answer to an error.
        has_budget = query.request.budget_ms is not None
        asked = self._fit_beam(serving, query, full, deadline - time.monotonic()) if has_budget else full
        try:
            budget_s = deadline - time.monotonic() - (ANSWER_S if has_budget else 0)
            found = await serving.batcher.submit(asked, budget_s)
        except (QueueTooLong, DeadlineMissed):
            if not has_budget:
                raise
            return await self._answer_by_popularity(query, FallbackReason.BUDGET)

        # The next request may have more time, so only answers of the full beam are cached.
        if asked is full:
            self._cache.keep(query.model.catalogue, key, found)
        if not query.request.explain:
            return _Answered(found, "model")
        return _Answered(found, "model", await explain(serving, asked, found.rows, deadline - time.monotonic()))

    def _find_cached(self, query: _Query, key: AnswerKey) -> SearchResult | None:
        if not self._cache.is_on or query.request.explain:
            return None

        found = self._cache.find(query.model.catalogue, key)
        self._telemetry.cache_lookups.labels("miss" if found is None else "hit").inc()
        return found

    def _fit_beam(self, serving: Serving, query: _Query, full: SearchRequest, budget_s: float) -> SearchRequest:
        """Return the search with the widest beam that the budget allows.

        The beam stays at least k wide, since answers would be missing otherwise. If no width fits, the full search is
        returned: the batcher refuses it, or tries it while the engine is idle.
        """
        narrower = [width for width in (*BEAM_WIDTHS, *NARROW_WIDTHS) if query.request.k <= width < full.beam_width]
        for width in (full.beam_width, *sorted(narrower, reverse=True)):
            asked = full if width == full.beam_width else query.search_request(width)
            if serving.batcher.admission.can_answer(asked, budget_s - ANSWER_S):
                if asked is not full:
                    self._telemetry.narrowed.labels(str(width)).inc()
                return asked
        return full

    async def _answer_by_popularity(self, query: _Query, reason: FallbackReason) -> _Answered:
        request = query.request
        catalogue = query.model.catalogue
        events = await self._trends.popular_counts(catalogue)
        found = find_popular(catalogue, query.rule, query.excluded, request.k, request.max_per_prefix, events)
        return _Answered(found, "popular", fallback_reason=reason)

    def _count(self, query: _Query, answered: _Answered) -> None:
        """Count the answer; if popular items answered, say why in the metrics and in the log."""
        self._answers[answered.served_by].inc()
        reason = answered.fallback_reason
        if reason is not None:
            self._popular_answers[reason].inc()
            self._popular_log.record(reason, query.model.version)

    def _recommendation(
        self, query: _Query, answered: _Answered, stored: StoredHistory, started: float
    ) -> Recommendation:
        is_degraded = stored.is_missing or not self._store_client.is_up
        if is_degraded:
            self._telemetry.degraded.inc()

        return Recommendation(
            model=query.model,
            found=self._without_hidden(query.model, answered.found),
            served_by=answered.served_by,
            is_degraded=is_degraded,
            unknown_items=_unknown_items(query, stored.history.item_ids),
            took_ms=(time.monotonic() - started) * 1000,
            explanations=answered.explanations if query.request.explain else None,
            fallback_reason=answered.fallback_reason,
        )

    def _without_hidden(self, model: LoadedModel, found: SearchResult) -> SearchResult:
        """Leave out items that were hidden while the answer was on its way."""
        current = self._models.current
        if current is None or current.catalogue is model.catalogue:
            return found

        if current.version == model.version:
            is_hidden = current.catalogue.is_hidden[found.rows]  # rows stay what they are inside a version
        else:
            rows = [current.catalogue.row(model.catalogue.item_ids[row]) for row in found.rows.tolist()]
            is_hidden = np.array([row is not None and current.catalogue.is_hidden[row] for row in rows], dtype=np.bool_)
        return found.select(~is_hidden) if is_hidden.any() else found


def letters_to_leave_out(types: Iterable[EventType]) -> frozenset[int]:
    """Return the codes of the letters whose items are left out of answers: those of these types.

    Interactions of unknown type are left out with any of them, for they may have been of that type.
    """
    letters = [LETTERS[kind] for kind in types]
    return frozenset(map(ord, [*letters, UNKNOWN, UNTIMED])) if letters else frozenset()


def _seen_rows(
    model: LoadedModel, history: History, known: npt.NDArray[np.int64], letters: Set[int]
) -> npt.NDArray[np.int64]:
    """Return the rows of the history's items that were seen in one of these ways.

    Args:
        model: The model that answers.
        history: The history, ``[n]``.
        known: Rows of its known items, in order.
        letters: Codes of letters.
    """
    is_seen = [letter in letters for letter in history.letters]
    if all(is_seen):
        return known  # as always with a history of the request's own; needs no second look-up
    return model.catalogue.rows(list(compress(history.item_ids, is_seen)))


def _answer_nothing(query: _Query) -> _Answered:
    """Return no items, labelled as the path that would have answered under a rule that allows some."""
    if len(query.known):
        return _Answered(_NOTHING, "model")
    return _Answered(_NOTHING, "popular", fallback_reason=FallbackReason.EMPTY_RULE)


def _why_nothing_is_known(stored: StoredHistory) -> FallbackReason:
    """Return the reason why a history has no known items."""
    if stored.is_missing:
        return FallbackReason.STORE_AWAY
    return FallbackReason.UNKNOWN_ITEMS if stored.history.item_ids else FallbackReason.NO_HISTORY


def _unknown_items(query: _Query, item_ids: Sequence[str]) -> list[str]:
    """Return the ids that the catalogue lacks, each once, in order."""
    if len(query.known) == len(item_ids):
        return []

    row_of = query.model.catalogue.row_of
    return list(dict.fromkeys(item_id for item_id in item_ids if item_id not in row_of))
