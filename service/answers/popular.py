"""Popular items, for users of whom nothing is known; obeys the same rules as the search."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.search.fusion import count_earlier
from service.answers.trending import EventCounts, training_share
from service.engines.base import Found
from service.filters import Rule

_BLOCK = 4096  # rows looked at first; few requests need more


def popular(
    catalogue: Catalogue,
    rule: Rule,
    excluded: npt.NDArray[np.int64],
    k: int,
    max_per_prefix: int | None = None,
    events: EventCounts | None = None,
) -> Found:
    """The k most popular items that the rules allow.

    Their score and log-probability is that of an item under add-one smoothed popularity,
    ``log((n_i + 1) / (sum_j n_j + items))``; with ``events`` it is that of their weights, of which it is the prior.
    """
    popular_rows = catalogue.by_popularity
    if events is None:
        rows = _first(popular_rows, catalogue, rule, excluded, k, max_per_prefix)
        return _found(rows, training_share(catalogue, rows))
    rows = _first(events.rows, catalogue, rule, excluded, k, max_per_prefix)
    weights = np.array([events.weight_of[row] for row in rows.tolist()], dtype=np.float64)
    if events.prior_events:
        without = np.append(excluded, events.rows)
        others = _first(popular_rows, catalogue, rule, without, k, max_per_prefix)
        prior = events.prior_events * training_share(catalogue, others)
        rows, weights = np.append(rows, others), np.append(weights, prior)
    # The best of both lists together are among the best of each.
    order = np.argsort(-weights, kind="stable")
    if max_per_prefix is not None:
        order = order[count_earlier(catalogue.codes[rows[order], 0]) < max_per_prefix]
    kept = order[:k]
    return _found(rows[kept], weights[kept] / events.total)


def _first(
    order: npt.NDArray[np.integer],
    catalogue: Catalogue,
    rule: Rule,
    excluded: npt.NDArray[np.int64],
    k: int,
    max_per_prefix: int | None,
) -> npt.NDArray[np.int64]:
    """The first k rows of an order that may be answered."""
    chosen = np.empty(0, dtype=np.int64)
    start, size = 0, _BLOCK
    while len(chosen) < k and start < len(order):
        block = order[start : start + size]
        block = block[rule.open_rows[block]]
        chosen = np.append(chosen, block[~np.isin(block, excluded)])
        if max_per_prefix is not None:
            chosen = chosen[count_earlier(catalogue.codes[chosen, 0]) < max_per_prefix]
        start, size = start + size, size * 2
    return chosen[:k]


def _found(rows: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]) -> Found:
    log_prob = np.log(probability).astype(np.float32)
    return Found(rows, log_prob, log_prob)
