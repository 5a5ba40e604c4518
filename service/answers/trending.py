"""Counts of recent events per item, read from the store every few seconds: they rank popular and trending items.

The store keeps two fading counts an item, one of a long and one of a short half-life
(:mod:`service.store.decayed_counts`). The long one, together with training popularity, ranks the popular items that
users without history get; the short one alone ranks the trending items.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from weakref import ref

import numpy as np
import numpy.typing as npt
import structlog

from model_store.catalogue.catalogue import Catalogue
from model_store.errors import StoreError
from service.async_tasks import Expected, repeat_until_cancelled
from service.settings import Settings
from service.store.backlog_watch import BacklogWatch
from service.store.base import Store
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

NEGLIGIBLE = 1e-6
"""Count, in events, up to which an item has none: one event counts as little after twenty half-lives."""


@dataclass(frozen=True, eq=False)
class EventCounts:
    """Items of a catalogue weighted by their events; items without events are left out.

        weight = count + prior_events * share of training popularity

    Attributes:
        rows: ``[n]``, distinct, highest weight first.
        counts: ``[n]``, events, each counting half after every half-life.
        weights: ``[n]``.
        prior_events: Number of events that training popularity counts as; 0: it does not count.
        total: Sum of all counts and the prior.
    """

    rows: npt.NDArray[np.int64]
    counts: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    prior_events: float
    total: float

    @cached_property
    def weight_of(self) -> dict[int, float]:
        """Weight by row."""
        return dict(zip(self.rows.tolist(), self.weights.tolist(), strict=True))

    @cached_property
    def count_of(self) -> dict[int, float]:
        """Count by row."""
        return dict(zip(self.rows.tolist(), self.counts.tolist(), strict=True))


class TrendTracker:
    """Keeps the counts of both half-lives up to date. Used from one event loop.

    While the store is away the last counts stay.
    """

    def __init__(self, store: Store, settings: Settings, telemetry: Telemetry) -> None:
        self._store = store
        self._settings = settings
        self._backlog = BacklogWatch(settings.max_undrained_events, telemetry)
        self._long: Mapping[str, float] = {}
        self._short: Mapping[str, float] = {}
        # By catalogue and prior: two models may answer at the same time.
        self._mapped: dict[tuple[int, float], tuple[ref[Catalogue], Mapping[str, float], EventCounts]] = {}

    async def watch(self) -> None:
        """Read the counts every ``trends_s`` seconds, until cancelled."""
        await repeat_until_cancelled(
            self.read,
            self._settings.trends_s,
            on_crash=partial(log.exception, "trends_crashed"),
            expected=Expected(StoreError, lambda failure, _: log.info("trends_not_read", cause=str(failure))),
        )

    async def read(self) -> None:
        """Read the counts, and the metrics of the event stream, once.

        Raises:
            StoreError: The store is away.
        """
        self._backlog.note(await self._store.backlog())

        long_s, short_s = half_lives_s_of(self._settings)
        self._long = await self._store.counts(long_s)
        self._short = await self._store.counts(short_s)

    async def popular_counts(self, catalogue: Catalogue) -> EventCounts:
        """Return the counts of the long half-life, on top of training popularity."""
        return await self._counts_of(catalogue, self._long, self._settings.popular_prior_events)

    async def trending_counts(self, catalogue: Catalogue) -> EventCounts:
        """Return the counts of the short half-life alone."""
        return await self._counts_of(catalogue, self._short, 0)

    async def _counts_of(self, catalogue: Catalogue, counts: Mapping[str, float], prior_events: float) -> EventCounts:
        """Map counts by item id to rows of the catalogue, once for each reading of the store."""
        key = (id(catalogue), prior_events)
        cached = self._mapped.get(key)
        if cached is not None and cached[0]() is catalogue and cached[1] is counts:
            return cached[2]

        found = await asyncio.to_thread(event_counts, catalogue, counts, prior_events)
        self._mapped = {other: each for other, each in self._mapped.items() if each[0]() is not None}
        self._mapped[key] = (ref(catalogue), counts, found)
        return found


def half_lives_s_of(settings: Settings) -> tuple[int, int]:
    """Return the long and the short half-life in seconds, as the store takes them."""
    return round(settings.popular_half_life_h * 3600), round(settings.trending_half_life_h * 3600)


def event_counts(catalogue: Catalogue, counts: Mapping[str, float], prior_events: float) -> EventCounts:
    """Return counts by item id as :class:`EventCounts`. Takes milliseconds: not for the event loop."""
    rows = catalogue.row_of.find(list(counts))
    events = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
    is_counted = (rows >= 0) & (events > NEGLIGIBLE)
    rows = rows[is_counted]
    events = events[is_counted]

    weights = events + prior_events * training_share(catalogue, rows)
    order = np.argsort(-weights, kind="stable")
    total = float(events.sum()) + prior_events
    return EventCounts(rows[order], events[order], weights[order], prior_events, total)


def training_share(catalogue: Catalogue, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return each row's share of training interactions, add-one smoothed.

    ``(n_i + 1) / (sum_j n_j + items)``, ``[n]``.
    """
    smoothed_total = float(catalogue.interactions + len(catalogue))
    return np.asarray((catalogue.popularity[rows] + 1) / smoothed_total, dtype=np.float64)
