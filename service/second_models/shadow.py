"""Shadow: a sample of the requests is searched again by another version, after they were answered, and compared.

No answer waits for it. Requests wait in a short queue and are searched one at a time; while the live model has requests
that wait, or the queue is full, they are dropped.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import structlog

from model_store.attribution.experiment_counters import VariantAnswers
from model_store.bundle.aliases import Alias
from service.models.manager import ModelManager
from service.ranking.filters import RuleKey
from service.schemas.recommend import RecommendRequest
from service.search.query import QueryBuilder
from service.search.search import search
from service.second_models.second_model import SecondModel
from service.settings import Settings
from service.store.base import History
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

MAX_WAITING = 32
"""Largest number of requests that wait for the shadow."""


class Sample(NamedTuple):
    """A request that the live model answered.

    Attributes:
        request: The request, with the rules of its placement.
        history: The user's history.
        rule_key: Its filter.
        left_out: Further items that must not be answered.
        item_ids: The answer, best first, ``[n]``.
        score: Their scores, ``[n]``.
        took_ms: Time that the answer took, in milliseconds.
    """

    request: RecommendRequest
    history: History
    rule_key: RuleKey
    left_out: Sequence[str]
    item_ids: Sequence[str]
    score: npt.NDArray[np.float32]
    took_ms: float


class ShadowFigures:
    """What the comparison of one trial found on this replica.

    Attributes:
        alias: The shadow and its share.
        live: How the compared requests went.
        shadow: How they went in the shadow.
        dropped: Requests that were not searched again, because others came first.
    """

    def __init__(self, alias: Alias) -> None:
        self.alias = alias
        self.live = VariantAnswers()
        self.shadow = VariantAnswers()
        self.dropped = 0
        self._overlaps = 0.0
        self._shifts = 0.0
        self._scored = 0

    @property
    def overlap(self) -> float | None:
        """Mean share of items of the answer that the shadow finds as well; ``None`` without answers."""
        return self._overlaps / self.shadow.answers if self.shadow.answers else None

    @property
    def score_shift(self) -> float | None:
        """Mean score of the shadow's answers less that of the live ones, in nats; ``None`` without answers."""
        return self._shifts / self._scored if self._scored else None

    def note(self, overlap: float, shift: float | None) -> None:
        """Add an overlap and, unless an answer is empty, a shift of scores."""
        self._overlaps += overlap
        if shift is not None:
            self._shifts += shift
            self._scored += 1


class Shadow:
    """Searches requests again by the model of the alias ``shadow``. Used from one event loop.

    Args:
        model: The model of the alias.
        live: The live model, whose requests come first.
        settings: See :class:`~service.settings.Settings`.
        telemetry: Metrics.

    Attributes:
        figures: What the comparison found; ``None`` while there is no shadow.
    """

    def __init__(self, model: SecondModel, live: ModelManager, settings: Settings, telemetry: Telemetry) -> None:
        self.figures: ShadowFigures | None = None
        self._model = model
        self._live = live
        self._telemetry = telemetry
        self._queries = QueryBuilder(settings)
        self._deadline_s = settings.deadline_ms / 1000
        self._waiting: asyncio.Queue[Sample] = asyncio.Queue(MAX_WAITING)

    @property
    def is_on(self) -> bool:
        """Whether a shadow is loaded."""
        return self._model.current is not None

    def offer(self, sample: Sample) -> None:
        """Take a request for the shadow if chance says so, and nobody waits for the live model."""
        figures = self._current_figures()
        if figures is None or random.random() >= figures.alias.share:
            return
        if self._live.queued or self._waiting.full():
            figures.dropped += 1
            self._telemetry.shadow_requests.labels("dropped").inc()
        else:
            self._waiting.put_nowait(sample)

    async def watch(self) -> None:
        """Search what waits, one at a time, until cancelled."""
        while True:
            await self.step()

    async def step(self) -> None:
        """Wait for a request and search it again."""
        sample = await self._waiting.get()
        figures = self._current_figures()
        if figures is None:
            return
        try:
            await self._compare(sample, figures)
        except Exception as failure:  # noqa: BLE001  whatever is wrong with the shadow, it is what it is here to show
            figures.shadow.errors += 1
            self._telemetry.shadow_requests.labels("failed").inc()
            log.debug("shadow_failed", version=figures.alias.version, cause=type(failure).__name__)

    def _current_figures(self) -> ShadowFigures | None:
        """Return the figures of the shadow that is loaded; new ones if it is another trial."""
        alias = self._model.alias
        if alias is None or not self.is_on:
            self.figures = None
        elif self.figures is None or self.figures.alias != alias:
            self.figures = ShadowFigures(alias)
        return self.figures

    async def _compare(self, sample: Sample, figures: ShadowFigures) -> None:
        started = time.monotonic()
        item_ids, score = await self._search(sample, started + self._deadline_s)
        took_s = time.monotonic() - started

        figures.live.note(len(sample.item_ids), sample.took_ms)
        figures.shadow.note(len(item_ids), took_s * 1000)
        overlap = len(set(item_ids) & set(sample.item_ids)) / max(1, len(sample.item_ids), len(item_ids))
        shift = float(score.mean() - sample.score.mean()) if len(score) and len(sample.score) else None
        figures.note(overlap, shift)

        self._telemetry.shadow_requests.labels("compared" if item_ids else "empty").inc()
        self._telemetry.shadow_overlap.observe(overlap)
        self._telemetry.shadow_seconds.observe(took_s)

    async def _search(self, sample: Sample, deadline: float) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Return what the shadow finds, ids and scores ``[n]``; nothing if it knows no item of the history."""
        with self._model.lease() as serving:
            model = serving.model
            query = await self._queries.build(model, sample.request, sample.history, sample.rule_key, sample.left_out)
            if query.rule.is_empty or not len(query.known):
                return [], np.empty(0, dtype=np.float32)

            asked = query.search_request(model.beam_width(sample.request.k))
            found = (await search(serving, query, asked, deadline)).found
            return [model.catalogue.item_ids[row] for row in found.rows.tolist()], found.score
