"""Neighbour scores: a sparse memory of items that stood close to each other in histories, or say the same.

The memory stands beside the dense head, whose vectors blur what only few users did. It is an item-based neighbourhood
model (Sarwar et al., WWW 2001) that minds order and distance, see :mod:`training.neighbours.counts`. The score of an
item is the sum of its strengths as a neighbour of the newest items of the history:

    score(item) = sum over ages a of decay ** a * strength(item as neighbour of the item of age a)

It is divided by its standard deviation over all trained items, of which most score 0, so that one weight suits all
users. Times that weight (:mod:`model_store.search.fusion`), it is added to the item's dense score inside the search, so
neighbours come into the answer though no beam and no cosine found them. Items without a strength get 0. New items get
what the trained items lend them that they resemble (:mod:`model_store.catalogue.resemblances`).

Shapes: B histories, T items of a history, M items of a request that get an addition, P pairs in the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from model_store.catalogue.resemblances import MOST_LENT, Resemblances
from model_store.errors import BundleRefused
from model_store.search.history_encoding import HistoryBatch
from model_store.semantic_ids.trie import Trie

Int64Array = npt.NDArray[np.int64]

AGES = 5
"""Number of newest items of a history that count."""

MOST_NEIGHBOURS = 128
"""Maximum number of neighbours of an item."""

ADDITION_SIZES = (0, 32, 128, 320, AGES * MOST_NEIGHBOURS, AGES * MOST_NEIGHBOURS + MOST_LENT)
"""Numbers of additions that a batch is padded to, so that few distinct shapes reach the engine."""

_HINT = "publish the model again, with the release that serves it"


class Additions(NamedTuple):
    """Numbers that a batch of requests adds to the dense scores of some items."""

    leaves: Int64Array  # [B, M], padded with -1; M is one of ADDITION_SIZES
    values: npt.NDArray[np.float32]  # [B, M], 0 for padding


class NeighbourScores(NamedTuple):
    """The scores of B histories that are not 0, as S pairs of history and item, sorted."""

    owner: Int64Array  # [S], number of the history
    row: Int64Array  # [S], catalogue row of the item
    value: npt.NDArray[np.float64]  # [S], in standard deviations


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The memory as compressed sparse rows, one row per item.

    Attributes:
        start: ``[items + 1]`` int64, where each item's neighbours begin.
        neighbour: ``[P]`` int32, catalogue rows, ascending within an item; at most :data:`MOST_NEIGHBOURS` of an item.
        strength: ``[P]`` float32, above 0.
        decay: Weight of an item of the history relative to the next newer one, above 0, at most 1.
        trained: Number of items over which standard deviations are taken.
        skips_history: Whether items of the history get no score: where people do not come back to what they had,
            neighbours would only bring it back.

    Raises:
        ValueError: The values do not describe such a memory.
    """

    start: Int64Array
    neighbour: npt.NDArray[np.int32]
    strength: npt.NDArray[np.float32]
    decay: float
    trained: int
    skips_history: bool

    def __post_init__(self) -> None:
        pairs = len(self.neighbour)
        if not len(self.start) or self.start[0] != 0 or self.start[-1] != pairs or (np.diff(self.start) < 0).any():
            raise ValueError(f"start must ascend from 0 to the number of pairs, {pairs}")
        if self.strength.shape != self.neighbour.shape or not (np.isfinite(self.strength) & (self.strength > 0)).all():
            raise ValueError("strength must hold a number above 0 for every pair")
        if pairs and not 0 <= self.neighbour.min() <= self.neighbour.max() < self.items:
            raise ValueError(f"neighbour must hold rows below {self.items}")

        counts = np.diff(self.start)
        if (np.diff(np.repeat(np.arange(self.items), counts) * self.items + self.neighbour) <= 0).any():
            raise ValueError("neighbour must ascend within every item")
        if counts.max(initial=0) > MOST_NEIGHBOURS:
            raise ValueError(f"an item has {counts.max()} neighbours, the limit is {MOST_NEIGHBOURS}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, not {self.decay}")
        if self.trained < 1:
            raise ValueError(f"trained must be at least 1, not {self.trained}")

    @property
    def items(self) -> int:
        """Number of items that the memory knows; rows from here on have no neighbours."""
        return len(self.start) - 1

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything as arrays by name; :meth:`from_arrays` takes them back."""
        return {
            "start": self.start,
            "neighbour": self.neighbour,
            "strength": self.strength,
            "decay": np.array([self.decay], dtype=np.float64),
            "trained": np.array([self.trained], dtype=np.int64),
            "skips_history": np.array([self.skips_history], dtype=np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """Rebuild and check a memory from :meth:`arrays`.

        Raises:
            BundleRefused: An array is missing, or the arrays do not describe a memory.
        """
        try:
            return cls(
                arrays["start"].astype(np.int64),
                arrays["neighbour"].astype(np.int32),
                arrays["strength"].astype(np.float32),
                float(arrays["decay"].astype(np.float64).item()),
                int(arrays["trained"].astype(np.int64).item()),
                bool(arrays["skips_history"].astype(np.bool_).item()),
            )
        except (KeyError, ValueError, IndexError) as cause:
            raise BundleRefused(f"neighbours: {cause}", _HINT) from cause

    def for_rows(self, rows: Int64Array) -> Neighbours:
        """Return the memory of some catalogue rows, numbered anew from 0; rows that it lacks have no neighbours.

        Args:
            rows: Ascending.
        """
        size = max(self.items, int(rows.max(initial=-1)) + 1)
        place = np.full(size, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))

        item = place[: self.items].repeat(np.diff(self.start))
        neighbour = place[self.neighbour]
        is_kept = (item >= 0) & (neighbour >= 0)
        count = np.bincount(item[is_kept], minlength=len(rows))
        start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        kept = neighbour[is_kept].astype(np.int32)
        return Neighbours(start, kept, self.strength[is_kept], self.decay, self.trained, self.skips_history)

    def scores(self, history: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> NeighbourScores:
        """Return the scores of the items that are neighbours of a history's newest items.

        Args:
            history: Catalogue rows ``[B, T]``, oldest first, padded on the right with anything. The memory knows
                nothing of new items.
            lengths: Items of each history, ``[B]``.
        """
        owner, row, total = self._totals(history, lengths)
        if self.skips_history:
            is_other = ~self._is_in_history(owner, row, history, lengths)
            owner = owner[is_other]
            row = row[is_other]
            total = total[is_other]

        mean = np.bincount(owner, total, len(lengths)) / self.trained
        variance = np.bincount(owner, total**2, len(lengths)) / self.trained - mean**2
        # Where all items score the same, neighbours tell nothing, and rounding may leave a variance below 0.
        deviation = np.sqrt(np.where(variance > 1e-12 * mean**2, variance, np.inf))
        return NeighbourScores(owner, row, total / deviation[owner])

    def additions(self, history: HistoryBatch, trie: Trie, weight: float, new: Resemblances | None = None) -> Additions:
        """Return what a batch adds to dense scores: the scores times ``weight``, by leaf.

        Args:
            history: Encoded histories of B requests.
            trie: The trie that their leaves belong to.
            weight: Weight of neighbours in the dense score.
            new: What the catalogue's new items resemble; without it they get nothing.
        """
        found = self.scores(trie.leaf_item[history.leaves], history.lengths)
        if new is not None and len(new):
            # As items of the history get no score where nobody comes back, new ones are lent none there.
            is_item = np.arange(history.leaves.shape[1]) < history.lengths[:, None]
            had = np.where(is_item, trie.leaf_item[history.leaves], -1) if self.skips_history else None
            found = _with_lent(found, len(history.lengths), new, had)
        place = _places(found.owner, len(history.lengths))
        size = next(size for size in ADDITION_SIZES if size > place.max(initial=-1))

        added = no_additions(len(history.lengths), size)
        added.leaves[found.owner, place] = trie.item_leaf[found.row]
        added.values[found.owner, place] = weight * found.value
        return added

    def _totals(
        self, history: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]
    ) -> tuple[Int64Array, Int64Array, npt.NDArray[np.float64]]:
        """Return histories, rows and summed strengths of all pairs of history and neighbour, sorted."""
        ages = np.arange(min(AGES, history.shape[1]))
        place = lengths[:, None] - 1 - ages  # [B, A]
        newest = np.take_along_axis(history, np.maximum(place, 0), axis=1)
        owner, age = np.nonzero((place >= 0) & (newest < self.items))
        item = newest[owner, age]

        first = self.start[item]
        count = self.start[item + 1] - first
        pair = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
        strength = self.strength[pair] * np.repeat(self.decay**age, count)

        # Neighbours of several items add up. Those of one item ascend already, which a stable sort makes use of.
        key = np.repeat(owner, count) * self.items + self.neighbour[pair]
        order = np.argsort(key, kind="stable")
        key = key[order]
        is_first = np.ones(len(key), dtype=np.bool_)
        is_first[1:] = key[1:] != key[:-1]
        total = np.bincount(np.cumsum(is_first) - 1, strength[order]).astype(np.float64)
        return *np.divmod(key[is_first], max(self.items, 1)), total

    def _is_in_history(
        self,
        owner: Int64Array,
        row: Int64Array,
        history: npt.NDArray[np.integer],
        lengths: npt.NDArray[np.integer],
    ) -> npt.NDArray[np.bool_]:
        """Return for sorted pairs of history and row ``[S]`` whether the row is an item of that history."""
        is_item = (np.arange(history.shape[1]) < lengths[:, None]) & (history < self.items)
        key = owner * self.items + row
        seen = (np.arange(len(lengths))[:, None] * self.items + history)[is_item]
        place = np.searchsorted(key, seen)
        is_scored = np.append(key, -1)[place] == seen

        found = np.zeros(len(key), dtype=np.bool_)
        found[place[is_scored]] = True
        return found


def no_additions(requests: int, size: int = 0) -> Additions:
    """Return additions of a batch that add nothing: padding alone, M of them."""
    return Additions(np.full((requests, size), -1, dtype=np.int64), np.zeros((requests, size), dtype=np.float32))


def _with_lent(
    found: NeighbourScores, requests: int, new: Resemblances, closed: npt.NDArray[np.integer] | None
) -> NeighbourScores:
    """Return the scores of ``requests`` histories with those of new items but closed rows ``[requests, T]``."""
    place = _places(found.owner, requests)
    rows = np.zeros((requests, int(place.max(initial=-1)) + 1), dtype=np.int64)
    scores = np.zeros(rows.shape)
    rows[found.owner, place] = found.row
    scores[found.owner, place] = found.value

    lent = new.lent(rows, scores, closed)
    owner, row, value = (np.concatenate(pair) for pair in zip(found, lent, strict=True))
    order = np.argsort(owner, kind="stable")  # new items have higher rows than all others
    return NeighbourScores(owner[order], row[order], value[order])


def _places(owner: Int64Array, requests: int) -> Int64Array:
    """Return how many equal numbers are before each in ascending ones ``[n]`` below ``requests``."""
    counts = np.bincount(owner, minlength=requests)
    places: Int64Array = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
    return places
