"""The path of one request, without HTTP: history, known items, rules, search, answer."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.attribution.token import Chance
from model_store.experiments.assignment import Assignment
from service.answers.explanations import Explanations, explain
from service.answers.popular import FallbackReason, PopularLog
from service.answers.recent_users import RecentUsers
from service.answers.result_cache import AnswerKey, ResultCache
from service.answers.shown import NOTHING_SHOWN, Shown, ShownTracker, subject_of
from service.answers.trending import TrendTracker
from service.attribution.signer import Signer
from service.catalogue.range_check import RangeCheck
from service.engines.base import BEAM_WIDTHS, NARROW_WIDTHS, SearchRequest, SearchResult
from service.errors import DeadlineMissed, InvalidFields, QueueTooLong
from service.models.loaded_model import LoadedModel
from service.models.manager import ModelManager
from service.models.slot import ModelSlot, Serving
from service.ranking.filters import Rule
from service.schemas.experiments import VariantModel
from service.schemas.ranking import RuleCost, SkippedPin
from service.schemas.recommend import RecommendRequest
from service.search.answered import NOTHING, Answered, ServedBy, answer_nothing, draw_places, unknown_items
from service.search.popular_search import PopularSearch
from service.search.query import Query, QueryBuilder, given_history, read_history, read_rule
from service.search.rule_costs import measure_costs
from service.search.search import search
from service.second_models.model_choice import ModelChoice
from service.second_models.shadow import Sample, Shadow
from service.settings import Settings
from service.store.base import History
from service.store.client import StoreClient, StoredHistory
from service.telemetry.telemetry import Telemetry

ANSWER_S = 0.002
"""Seconds of a request's own budget that the search may not use: popular items must still be found and sent if it gives
up."""


class Recommendation(NamedTuple):
    """The answer to one request, in rows of ``model``'s catalogue."""

    model: LoadedModel
    found: SearchResult
    item_ids: Sequence[str]  # of what was found
    served_by: ServedBy
    is_degraded: bool
    unknown_items: Sequence[str]
    ignored_rules: Sequence[str]
    took_ms: float
    attribution: str | None  # token of the answer; none while no key is known, and where the request names a model
    explanations: Explanations | None = None  # only if the request asked for them
    fallback_reason: FallbackReason | None = None  # only if popular items answered
    rule_costs: Sequence[RuleCost] | None = None  # only if the request asked for explanations
    skipped_pins: Sequence[SkippedPin] | None = None  # only if the request has pins
    propensities: npt.NDArray[np.float64] | None = None  # of the first items; only if it explored, and is explained

    @property
    def item_count(self) -> int:
        """Number of items."""
        return len(self.item_ids)


class Recommender:
    """Answers requests with the model that serves now."""

    def __init__(
        self,
        models: ModelManager,
        model_choice: ModelChoice,
        shadow: Shadow,
        store_client: StoreClient,
        trends: TrendTracker,
        shown: ShownTracker,
        range_checks: Mapping[ModelSlot, RangeCheck],
        signer: Signer,
        recent_users: RecentUsers,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._models = models
        self._model_choice = model_choice
        self._shadow = shadow
        self._store_client = store_client
        self._shown = shown
        self._range_checks = range_checks  # of each model's own catalogue
        self._signer = signer
        self._recent_users = recent_users
        self._settings = settings
        self._telemetry = telemetry

        self._queries = QueryBuilder(settings)
        self._popular = PopularSearch(self._queries, trends)
        # One for each model: a cache is of one catalogue.
        self._caches: defaultdict[ModelSlot, ResultCache] = defaultdict(
            lambda: ResultCache(settings.result_cache_entries, settings.result_cache_s)
        )

        self._answers = {kind: telemetry.answers.labels(kind) for kind in ("model", "cache", "popular")}
        self._popular_answers = {reason: telemetry.popular_answers.labels(reason.value) for reason in FallbackReason}
        self._popular_log = PopularLog()

    async def recommend(
        self, request: RecommendRequest, assignment: Assignment | None = None, model: VariantModel | None = None
    ) -> Recommendation:
        """Answer one request; see :meth:`_recommend`, which this one traces.

        Its time begins here: where one model fails and another answers, both have one deadline, and what is measured is
        all that the asker waited.

        Args:
            request: The request.
            assignment: Variant of an experiment whose rules it has.
            model: The model that the experiment chose.
        """
        ask = partial(self._recommend, request, time.monotonic())
        with self._telemetry.tracing.span("recommend") as span:
            try:
                answer = await self._model_choice.answer(request, assignment, model, ask)
            except InvalidFields:
                raise
            except Exception:
                if assignment is not None:
                    self._signer.note_error(assignment)
                raise
            span.set("etegrec.model_version", answer.model.version)
            span.set("etegrec.served_by", answer.served_by)
            span.set("etegrec.degraded", answer.is_degraded)
            return answer

    async def _recommend(
        self, request: RecommendRequest, started: float, models: ModelSlot, assignment: Assignment | None
    ) -> Recommendation:
        """Answer one request by the model of a slot.

        Args:
            request: The request.
            started: ``time.monotonic()`` when it came, in seconds.
            models: The slot.
            assignment: Variant of an experiment that counts the answer.

        Raises:
            NotReady: No model is loaded.
            InvalidFields: See :meth:`service.catalogue.range_check.RangeCheck.check`.
            QueueFull: See :meth:`service.scheduling.batcher.Batcher.submit`.
            QueueTooLong, DeadlineMissed: Raised only without ``budget_ms``; with it, popular items are served
                instead.
        """
        deadline = started + min(request.budget_ms or np.inf, self._settings.deadline_ms) / 1000
        rule = read_rule(request, models.current)
        await self._range_checks[models].check(request, rule.key)
        stored = given_history(request) if request.exclude_shown is None else None
        shown = NOTHING_SHOWN
        if stored is None:
            stored, shown = await self._read_store(request)

        # A lease keeps the model, even if another version is swapped in before the answer is ready.
        with models.lease() as serving:
            left_out = [*shown.item_ids, *([] if request.viewed_item is None else [request.viewed_item])]
            query = await self._queries.build(serving.model, request, stored.history, rule.key, left_out)

            if query.rule.is_empty:
                answered = answer_nothing(query)
            elif len(query.known):
                answered = await self._answer_by_model(serving, self._caches[models], query, stored.history, deadline)
            else:
                reason = _why_nothing_is_known(query, stored)
                answered = await self._popular.answer(query, stored.history, reason)

        self._count(query, answered)
        is_degraded = stored.is_missing or shown.is_missing or not self._store_client.is_up
        answer = self._recommendation(query, answered, stored, rule, is_degraded, started, assignment)
        if request.exclude_shown is not None and request.model is None:  # else who compares models changes answers
            self._shown.note(request, answer.item_ids)
        if self._shadow.is_on and models is self._models and _is_comparable(request, answered):
            found = answer.found
            self._shadow.offer(
                Sample(request, stored.history, rule.key, left_out, answer.item_ids, found.score, answer.took_ms)
            )
        if request.user_id is not None and request.model is None and answered.served_by != "popular":
            self._recent_users.note(request.user_id)
        return answer

    async def _read_store(self, request: RecommendRequest) -> tuple[StoredHistory, Shown]:
        """Return the history and what was shown, read from the store at the same time."""
        if request.exclude_shown is None:
            return await read_history(self._store_client, request), NOTHING_SHOWN
        return await asyncio.gather(read_history(self._store_client, request), self._shown.read(request))

    async def _answer_by_model(
        self, serving: Serving, cache: ResultCache, query: Query, history: History, deadline: float
    ) -> Answered:
        """Return a cached answer, else search; popular items answer where the request's own budget is too tight."""
        full = query.search_request(query.beam_width)
        longest = query.model.engine.max_history
        key = None
        if cache.is_on:
            key = AnswerKey.of(full, query.rule_key, query.ranking.key, longest, query.request.k)
        cached = self._find_cached(query, cache, key)
        if cached is not None:
            shown, chance = await draw_places(query, cached)
            return Answered(shown, "cache", chance=chance)

        # A request with a budget of its own prefers a poorer answer to an error.
        has_budget = query.request.budget_ms is not None
        asked = self._fit_beam(serving, query, full, deadline - time.monotonic()) if has_budget else full
        try:
            found, ranking = await search(serving, query, asked, deadline - (ANSWER_S if has_budget else 0))
        except (QueueTooLong, DeadlineMissed):
            if not has_budget:
                raise
            return await self._popular.answer(query, history, FallbackReason.BUDGET)

        # The next request may have more time, so only answers of the full beam are cached.
        if asked is full and key is not None:
            cache.keep(query.model.catalogue, key, found)
        shown, chance = await draw_places(query, found)
        if not query.request.explain:
            return Answered(shown, "model", chance=chance)

        async def answer_again(request: RecommendRequest) -> tuple[Query, SearchResult]:
            other = await self._queries.build_again(query, request, history)
            if other.rule.is_empty:
                return other, NOTHING
            return other, (await search(serving, other, other.search_request(asked.beam_width), deadline)).found

        explanations = await explain(serving, asked, shown, deadline - time.monotonic())
        costs = await measure_costs(query, found, shown, ranking, answer_again)
        return Answered(shown, "model", explanations, rule_costs=costs, chance=chance)

    def _find_cached(self, query: Query, cache: ResultCache, key: AnswerKey | None) -> SearchResult | None:
        if key is None or query.request.explain:
            return None

        found = cache.find(query.model.catalogue, key)
        self._telemetry.cache_lookups.labels("miss" if found is None else "hit").inc()
        return found

    def _fit_beam(self, serving: Serving, query: Query, full: SearchRequest, budget_s: float) -> SearchRequest:
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

    def _count(self, query: Query, answered: Answered) -> None:
        """Count the answer; if popular items answered, say why in the metrics and in the log."""
        self._answers[answered.served_by].inc()
        reason = answered.fallback_reason
        if reason is not None:
            self._popular_answers[reason].inc()
            self._popular_log.record(reason, query.model.version)

    def _recommendation(
        self,
        query: Query,
        answered: Answered,
        stored: StoredHistory,
        rule: Rule,
        is_degraded: bool,
        started: float,
        assignment: Assignment | None,
    ) -> Recommendation:
        if is_degraded:
            self._telemetry.degraded.inc()

        found = self._without_hidden(query.model, answered.found)
        # Where an item was left out, others have moved up: how probable that was is not known.
        chance = answered.chance if found is answered.found else None
        if chance is not None:
            self._telemetry.explored_answers.inc()
            self._telemetry.explored_places.inc(chance.places)
        item_ids = query.model.catalogue.ids_of(found.rows.tolist())
        took_ms = (time.monotonic() - started) * 1000
        attribution = self._sign(query, answered.served_by, item_ids, found, assignment, took_ms, chance)
        return Recommendation(
            model=query.model,
            found=found,
            item_ids=item_ids,
            served_by=answered.served_by,
            is_degraded=is_degraded,
            unknown_items=unknown_items(query),
            ignored_rules=_ignored_rules(query.request, rule),
            took_ms=took_ms,
            attribution=attribution,
            explanations=answered.explanations if query.request.explain else None,
            fallback_reason=answered.fallback_reason,
            rule_costs=answered.rule_costs if query.request.explain else None,
            skipped_pins=query.start_ranking().skipped if query.request.pins is not None else None,
            propensities=None if chance is None or not query.request.explain else chance.propensities,
        )

    def _sign(
        self,
        query: Query,
        served_by: ServedBy,
        item_ids: Sequence[str],
        found: SearchResult,
        assignment: Assignment | None,
        took_ms: float,
        chance: Chance | None,
    ) -> str | None:
        """Count an answer and its items, and return its token; a look at a model that the request names is no visit."""
        request = query.request
        if request.model is not None:
            return None

        self._signer.note_items(query.model.version, query.model.catalogue.codes, found.rows)
        return self._signer.sign(
            query.model.version,
            item_ids,
            served_by,
            request.user_id,
            request.session_id,
            request.placement,
            assignment,
            took_ms,
            chance,
        )

    def _without_hidden(self, model: LoadedModel, found: SearchResult) -> SearchResult:
        """Leave out items that were hidden while the answer was on its way."""
        current = self._models.current
        if current is None or current.catalogue is model.catalogue:
            return found

        if current.version == model.version:
            is_hidden = current.catalogue.is_hidden[found.rows]  # rows stay what they are inside a version
        else:
            rows = [current.catalogue.row(item_id) for item_id in model.catalogue.ids_of(found.rows.tolist())]
            is_hidden = np.array([row is not None and current.catalogue.is_hidden[row] for row in rows], dtype=np.bool_)
        return found.select(~is_hidden) if is_hidden.any() else found


def _is_comparable(request: RecommendRequest, answered: Answered) -> bool:
    """Tell whether the shadow's answer can be compared with this one: a user's request, and the model chose it."""
    return answered.served_by == "model" and request.exploration is None and request.model is None


def _why_nothing_is_known(query: Query, stored: StoredHistory) -> FallbackReason:
    """Return the reason why a history has no known items."""
    if stored.is_missing:
        return FallbackReason.STORE_AWAY
    return FallbackReason.UNKNOWN_ITEMS if query.item_ids else FallbackReason.NO_HISTORY


def _ignored_rules(request: RecommendRequest, rule: Rule) -> Sequence[str]:
    """Return the paths of the rules that restricted nothing."""
    if request.exclude_shown is None or subject_of(request) is not None:
        return rule.ignored
    return [*rule.ignored, "exclude_shown"]
