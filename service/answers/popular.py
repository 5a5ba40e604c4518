"""Popular items, for requests that the model cannot answer; they obey the same rules as the search."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import structlog

from model_store.catalogue.catalogue import Catalogue
from model_store.search.fusion import count_earlier
from service.answers.trending import EventCounts, training_share
from service.engines.base import SearchResult
from service.ranking.filters import CompiledRule

log = structlog.get_logger()

LOGGED_EVERY_S = 60.0
"""Seconds between two log lines for the same reason."""

_BLOCK = 4096  # rows looked at first; few requests need more


class FallbackReason(StrEnum):
    """Reasons why popular items answered a request instead of the model; labels of a metric."""

    NO_HISTORY = "no_history"
    """Neither the request nor the store has a history."""
    UNKNOWN_ITEMS = "unknown_items"
    """The catalogue knows no item of the history."""
    BUDGET = "budget"
    """The search would have taken, or took, longer than the request's own budget."""
    EMPTY_RULE = "empty_rule"
    """No item obeys the rules and no item of the history is known: the answer is empty."""
    STORE_AWAY = "store_away"
    """The stored history could not be read."""


class PopularLog:
    """Log lines that say why popular items answered: one per reason and minute, with the number of answers since.

    Used from one event loop.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: Counter[FallbackReason] = Counter()
        self._next_at: dict[FallbackReason, float] = {}

    def record(self, reason: FallbackReason, version: str) -> None:
        """Count an answer of a version, and log it unless the reason was logged less than a minute ago."""
        self._answers[reason] += 1
        now = self._clock()
        if now < self._next_at.get(reason, now):
            return
        self._next_at[reason] = now + LOGGED_EVERY_S
        log.info("popular_items_answered", reason=reason.value, answers=self._answers.pop(reason), version=version)


def find_popular(
    catalogue: Catalogue,
    rule: CompiledRule,
    excluded: npt.NDArray[np.int64],
    k: int,
    max_per_prefix: int | None = None,
    events: EventCounts | None = None,
) -> SearchResult:
    """Return the k most popular items that the rules allow.

    Their score and log-probability is that of an item under add-one smoothed popularity,
    ``log((n_i + 1) / (sum_j n_j + items))``; with ``events`` it is that of their weights, of which it is the prior.
    """
    by_training = catalogue.by_popularity
    if events is None:
        rows = _first_allowed(by_training, catalogue, rule, excluded, k, max_per_prefix)
        return _to_found(rows, training_share(catalogue, rows))

    rows = _first_allowed(events.rows, catalogue, rule, excluded, k, max_per_prefix)
    weights = np.array([events.weight_of[row] for row in rows.tolist()], dtype=np.float64)

    # Items without events have the prior alone, so training popularity orders them.
    if events.prior_events:
        excluded_or_counted = np.append(excluded, events.rows)
        others = _first_allowed(by_training, catalogue, rule, excluded_or_counted, k, max_per_prefix)
        rows = np.append(rows, others)
        weights = np.append(weights, events.prior_events * training_share(catalogue, others))

    # The best of both lists together are among the best of each.
    order = np.argsort(-weights, kind="stable")
    if max_per_prefix is not None:
        order = order[count_earlier(catalogue.codes[rows[order], 0]) < max_per_prefix]
    best = order[:k]
    return _to_found(rows[best], weights[best] / events.total)


def _first_allowed(
    order: npt.NDArray[np.integer],
    catalogue: Catalogue,
    rule: CompiledRule,
    excluded: npt.NDArray[np.int64],
    k: int,
    max_per_prefix: int | None,
) -> npt.NDArray[np.int64]:
    """Return the first k rows of an order that may be answered."""
    chosen = np.empty(0, dtype=np.int64)
    start = 0
    size = _BLOCK

    while len(chosen) < k and start < len(order):
        block = order[start : start + size]
        block = block[rule.open_rows[block]]
        chosen = np.append(chosen, block[~np.isin(block, excluded)])
        if max_per_prefix is not None:
            chosen = chosen[count_earlier(catalogue.codes[chosen, 0]) < max_per_prefix]
        start += size
        size *= 2

    return chosen[:k]


def _to_found(rows: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]) -> SearchResult:
    log_prob = np.log(probability).astype(np.float32)
    return SearchResult(rows, log_prob, log_prob)
