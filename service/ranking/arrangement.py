"""Arrangement of an answer: candidates by score, with pins at their places and limits by prefix kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.search.fusion import count_earlier
from model_store.semantic_ids.trie import Trie
from service.ranking.keys import PrefixLimit

Int64Array = npt.NDArray[np.int64]


class PlacedPin(NamedTuple):
    """A pin that the answer obeys."""

    position: int  # from 1
    row: int
    place: int  # in the request


def arrange(
    trie: Trie,
    rows: Int64Array,
    score: npt.NDArray[np.float32],
    pins: Sequence[PlacedPin],
    limits: Sequence[PrefixLimit],
    k: int,
) -> Int64Array:
    """Choose and order an answer among candidates.

    Pins stand where they are wanted whatever the limits say, but they count: other items must keep the limits beside
    them. Where the answer has fewer items than a pin's position, the pin is its last.

    Args:
        trie: Of the catalogue.
        rows: Distinct catalogue rows, the pinned ones among them, ``[n]``.
        score: What they are ranked by, ``[n]``.
        pins: By ascending position, none after k.
        limits: Deepest first.
        k: Answers wanted.

    Returns:
        At most k places in the candidates.
    """
    pinned = np.array([np.flatnonzero(rows == pin.row)[0] for pin in pins], dtype=np.int64)
    order = np.argsort(-score, kind="stable")
    order = np.concatenate([pinned, order[~np.isin(order, pinned)]])
    order = keep_limits(trie, rows, order, len(pins), limits)

    others = iter(order[len(pins) : k].tolist())
    waiting = list(zip(pins, pinned.tolist(), strict=True))
    arranged: list[int] = []
    while len(arranged) < k:
        if waiting and waiting[0][0].position == len(arranged) + 1:
            arranged.append(waiting.pop(0)[1])
            continue
        other = next(others, None)
        if other is None:
            arranged += [place for _, place in waiting]
            break
        arranged.append(other)
    return np.array(arranged, dtype=np.int64)


def keep_limits(
    trie: Trie, rows: Int64Array, order: Int64Array, certain: int, limits: Sequence[PrefixLimit]
) -> Int64Array:
    """Leave out of an order of candidates what exceeds a limit; the first ``certain`` stay, and count.

    Limits go from deep to shallow. That equals taking items one by one while all limits hold: what a shallow limit
    refuses has filled its prefix, so nothing below the same deep prefix could have taken its place.
    """
    for depth, answers in limits:
        is_kept = count_earlier(nodes_at(trie, rows[order], depth)) < answers
        is_kept[:certain] = True
        order = order[is_kept]
    return order


def nodes_at(trie: Trie, rows: Int64Array, depth: int) -> npt.NDArray[np.int32]:
    """Return the nodes at a depth, 1 … L, on the way to catalogue rows ``[n]``, numbered within their depth."""
    node = trie.item_leaf[rows]
    for parents in reversed(trie.parents[depth - 1 :]):
        node = parents[node]
    return node
