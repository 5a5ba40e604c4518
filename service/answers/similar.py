"""Items similar to a given one: near it in embedding space, with the leading codes that both share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue

CANDIDATES = 200_000
"""Items compared with the given one at most. In a larger catalogue they are its neighbours in the order of semantic
IDs, which share the longest prefixes with it."""

_BLOCK = 16_384  # vectors gathered at once


class SimilarItems(NamedTuple):
    """Items similar to a given one, most similar first."""

    rows: npt.NDArray[np.int64]  # [n]
    cosine: npt.NDArray[np.float32] | None  # [n], of the items' vectors; None: the model has none
    shared_codes: npt.NDArray[np.int64]  # [n], leading codes in common


def find_similar(catalogue: Catalogue, row: int, k: int, candidates: int = CANDIDATES) -> SimilarItems:
    """Return the k items most similar to the one in ``row``, without itself and hidden items.

    They are ordered by cosine of the items' vectors; where the model has none, by leading codes in common, then by
    popularity. Reads ``candidates`` vectors, which takes tens of milliseconds: not for the event loop.
    """
    rows = _candidates(catalogue, row, candidates)
    if catalogue.vectors is None:
        shared = _count_shared_codes(catalogue, row, rows)
        order = np.lexsort((-catalogue.popularity[rows], -shared))[:k]
        return SimilarItems(rows[order], None, shared[order])

    cosine = _cosines(catalogue.vectors, row, rows)
    order = _largest(cosine, k)
    return SimilarItems(rows[order], cosine[order], _count_shared_codes(catalogue, row, rows[order]))


def _count_shared_codes(catalogue: Catalogue, row: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Count the leading codes that each of ``rows`` has in common with ``row``, ``[n]``."""
    equal = catalogue.codes[rows] == catalogue.codes[row]
    shared: npt.NDArray[np.int64] = np.cumprod(equal, axis=1, dtype=np.int64).sum(axis=1)
    return shared


def _candidates(catalogue: Catalogue, row: int, limit: int) -> npt.NDArray[np.int64]:
    """Return the visible rows around ``row`` in the order of semantic IDs, ascending."""
    trie = catalogue.trie
    first = min(max(0, int(trie.item_leaf[row]) - limit // 2), max(0, trie.items - limit))
    rows = np.sort(trie.leaf_item[first : first + limit].astype(np.int64))
    visible: npt.NDArray[np.int64] = rows[(rows != row) & ~catalogue.is_hidden[rows]]
    return visible


def _cosines(vectors: npt.NDArray[np.float32], row: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    cosine = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _BLOCK):
        cosine[start : start + _BLOCK] = vectors[rows[start : start + _BLOCK]] @ vectors[row]
    return cosine


def _largest(values: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Return the positions of the k largest values, largest first, ties by position."""
    if len(values) > k:
        smallest = np.partition(values, -k)[-k]
        chosen = np.flatnonzero(values >= smallest)
    else:
        chosen = np.arange(len(values))
    return chosen[np.argsort(-values[chosen], kind="stable")][:k]
