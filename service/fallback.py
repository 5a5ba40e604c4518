"""Popular items, for users of whom nothing is known; obeys the same rules as the search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from model_store.catalogue import Catalogue
from service.engines.base import Found
from service.rules import Rule

_BLOCK = 4096  # rows looked at together: few requests need more than one block


def popular(
    catalogue: Catalogue, rule: Rule, excluded: npt.NDArray[np.int64], k: int, max_per_prefix: int | None = None
) -> Found:
    """The k most popular items that the rules allow.

    Their score and log-probability is that of an item under add-one smoothed popularity,
    ``log((n_i + 1) / (sum_j n_j + items))``.
    """
    rows = []
    used: Counter[int] = Counter()
    for row in _allowed(catalogue, rule, excluded):
        first_code = int(catalogue.codes[row, 0])
        if max_per_prefix is not None and used[first_code] >= max_per_prefix:
            continue
        used[first_code] += 1
        rows.append(row)
        if len(rows) == k:
            break
    chosen = np.array(rows, dtype=np.int64)
    total = float(catalogue.popularity.sum()) + len(catalogue)
    log_prob = np.log((catalogue.popularity[chosen] + 1) / total).astype(np.float32)
    return Found(chosen, log_prob, log_prob)


def _allowed(catalogue: Catalogue, rule: Rule, excluded: npt.NDArray[np.int64]) -> Iterator[int]:
    hidden = set(excluded.tolist())
    order = catalogue.by_popularity
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        yield from (row for row in block[rule.open_rows[block]].tolist() if row not in hidden)
