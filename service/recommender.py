"""The request path, without HTTP: history, known items, rules, search, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.engines.base import Found, SearchRequest
from service.explain import NO_REASONS, Reasons, reasons
from service.fallback import popular
from service.link import LiveLink, StoredHistory
from service.model import LoadedModel
from service.reload import ModelKeeper
from service.rules import Rule, RuleKey
from service.schemas import RecommendRequest
from service.settings import Settings
from service.telemetry import Telemetry
from service.trending import Trends

_NOTHING = Found(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32))


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request, in rows of ``model``'s catalogue."""

    model: LoadedModel
    found: Found
    served_by: Literal["model", "popular"]
    is_degraded: bool
    unknown_items: Sequence[str]
    took_ms: float
    reasons: Reasons | None = None  # only if they were asked for


class Recommender:
    """Answers requests with whichever model is live."""

    def __init__(
        self, models: ModelKeeper, link: LiveLink, trends: Trends, settings: Settings, telemetry: Telemetry
    ) -> None:
        self._models = models
        self._link = link
        self._trends = trends
        self._settings = settings
        self._telemetry = telemetry

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """Answer one request.

        Raises:
            NotReady: No model is loaded.
            QueueFull, DeadlineMissed: See :meth:`service.batcher.Batcher.submit`.
        """
        started = time.monotonic()
        deadline = started + min(request.budget_ms or np.inf, self._settings.deadline_ms) / 1000
        history = await self._history(request)
        with self._models.lease() as serving:
            model = serving.model
            known = model.rules.rows(history.item_ids)
            rule = await self._rule(model, request)
            excluded = self._excluded(model, request, known)
            why = NO_REASONS
            if rule.is_empty:
                found = _NOTHING
            elif len(known):
                question = self._question(model, request, known, rule, excluded)
                found = await serving.batcher.submit(question, deadline - time.monotonic())
                if request.explain:
                    why = await reasons(serving, question, found.rows, deadline - time.monotonic())
            else:
                events = await self._trends.popular(model.catalogue)
                found = popular(model.catalogue, rule, excluded, request.k, request.max_per_prefix, events)
        return self._answer(model, found, history, known, started, why if request.explain else None)

    async def _history(self, request: RecommendRequest) -> StoredHistory:
        if request.history is not None or request.user_id is None:
            return StoredHistory(request.history or [], is_missing=False)
        return await self._link.history(request.user_id)

    async def _rule(self, model: LoadedModel, request: RecommendRequest) -> Rule:
        key = RuleKey.of(request.filter)
        rule = model.rules.find(key)
        return rule if rule is not None else await asyncio.to_thread(model.rules.compile, key)

    @staticmethod
    def _excluded(model: LoadedModel, request: RecommendRequest, known: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        denied = model.rules.rows(request.filter.deny or ()) if request.filter else known[:0]
        return np.concatenate([known, denied]) if request.exclude_seen else denied

    @staticmethod
    def _question(
        model: LoadedModel,
        request: RecommendRequest,
        known: npt.NDArray[np.int64],
        rule: Rule,
        excluded: npt.NDArray[np.int64],
    ) -> SearchRequest:
        beam_width = model.beam_width(request.k)
        return SearchRequest(
            history=known,
            k=request.k,
            beam_width=beam_width,
            rule=rule.mask,
            excluded=excluded,
            catalogue=model.catalogue,
            max_per_prefix=request.max_per_prefix,
            fusion=model.fusion(beam_width),
        )

    def _answer(
        self,
        model: LoadedModel,
        found: Found,
        history: StoredHistory,
        known: npt.NDArray[np.int64],
        started: float,
        why: Reasons | None,
    ) -> Recommendation:
        served_by: Literal["model", "popular"] = "model" if len(known) else "popular"
        is_degraded = history.is_missing or not self._link.is_up
        self._telemetry.answers.labels(served_by).inc()
        self._telemetry.degraded.inc(is_degraded)
        row_of = model.catalogue.row_of
        unknown = list(dict.fromkeys(item_id for item_id in history.item_ids if item_id not in row_of))
        took_ms = (time.monotonic() - started) * 1000
        return Recommendation(model, found, served_by, is_degraded, unknown, took_ms, why)
