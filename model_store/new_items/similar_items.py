"""Similar items: the trained items that say what a new item says, and what these were learned to be.

A new item has no interactions, but items with much the same words do, and their learned vectors tell who wants them.
The words are compared as they are, weighted by their rarity (TF-IDF), not by their principal directions: a truncated
decomposition loses the rare words, such as brands and lines of products, that tell which items are alike.

    similarity(new, item) = sum over their common features of weight * weight, the item's weights at unit length
    share of an item      = similarity ** 3, of the SIMILAR most similar items, relative to their sum

The index is an inverted one: for each feature (:mod:`model_store.new_items.features`), the items that have it. All
sums are taken in float64 and in a fixed order, so that all replicas get the same.

Shapes: N trained items, M known features, P pairs of feature and item, S similar items, w width of learned vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from model_store.catalogue.resemblances import MOST_WORDS, RESEMBLED, Records, nothing_known
from model_store.errors import BundleRefused
from model_store.new_items.features import Features

SIMILAR = 32
"""Most items that count as similar to one item."""

_PAIR_BITS = 10

MOST_VISITED = 1 << _PAIR_BITS
"""Most pairs that are visited for one item. The rarest features come first; the rest, which thousands of items have,
tell little."""

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

_HINT = "publish the model again, with the release that serves it"


class Similar(NamedTuple):
    """The trained items that are similar to an item; none if it shares no feature with any."""

    rows: Int64Array  # [S], by descending similarity, ties by row
    shares: Float64Array  # [S], above 0, their sum is 1


@dataclass(frozen=True, eq=False)
class SimilarItems:
    """Index of the trained items by their features, with the direction of each item's learned vector.

    Attributes:
        known: ``[M]`` int64, ids of features, ascending.
        rarity: ``[M]`` float32, weight of a feature in any item, above 0.
        start: ``[M + 1]`` int64, where each feature's items begin.
        item: ``[P]`` int32, rows of trained items, ascending within a feature.
        weight: ``[P]`` float16, weight of the feature in the item, above 0; those of an item have unit length.
        directions: ``[N, w]`` int8, directions of learned vectors, none of them 0; their length means nothing.
        learned_length: Length of the learned part of an item's vector.
        content_length: Length of the rest, which is a content vector; 0 if there is none.

    Raises:
        ValueError: The values do not describe such an index.
    """

    known: Int64Array
    rarity: npt.NDArray[np.float32]
    start: Int64Array
    item: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float16]
    directions: npt.NDArray[np.int8]
    learned_length: float
    content_length: float

    def __post_init__(self) -> None:
        pairs = len(self.item)
        if self.known.ndim != 1 or (np.diff(self.known) <= 0).any():
            raise ValueError("known must ascend")
        if self.rarity.shape != self.known.shape or not (np.isfinite(self.rarity) & (self.rarity > 0)).all():
            raise ValueError("rarity must hold a number above 0 for every feature")
        if len(self.start) != len(self.known) + 1 or self.start[0] != 0 or self.start[-1] != pairs:
            raise ValueError(f"start must lead from 0 to the number of pairs, {pairs}, in one step for each feature")
        if (np.diff(self.start) < 0).any():
            raise ValueError("start must ascend")
        if self.weight.shape != self.item.shape or not (np.isfinite(self.weight) & (self.weight > 0)).all():
            raise ValueError("weight must hold a number above 0 for every pair")
        if self.directions.ndim != 2 or not self.directions.any(axis=1).all():
            raise ValueError("directions must be a table without rows of zeros")
        if pairs and not 0 <= self.item.min() <= self.item.max() < len(self.directions):
            raise ValueError(f"item must hold rows below {len(self.directions)}")
        if not (0 < self.learned_length < np.inf and 0 <= self.content_length < np.inf):
            raise ValueError("the lengths must be finite, that of the learned part above 0")

    @property
    def width(self) -> int:
        """Width w of learned vectors."""
        width: int = self.directions.shape[1]
        return width

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything as arrays by name; :meth:`from_arrays` takes them back."""
        return {
            "known": self.known,
            "rarity": self.rarity,
            "start": self.start,
            "item": self.item,
            "weight": self.weight,
            "directions": self.directions,
            "lengths": np.array([self.learned_length, self.content_length], dtype=np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """Rebuild and check an index from :meth:`arrays`.

        Raises:
            BundleRefused: An array is missing, or the arrays do not describe an index.
        """
        try:
            learned, content = arrays["lengths"].astype(np.float64).tolist()
            return cls(
                arrays["known"].astype(np.int64, copy=False),
                arrays["rarity"].astype(np.float32, copy=False),
                arrays["start"].astype(np.int64, copy=False),
                arrays["item"].astype(np.int32, copy=False),
                arrays["weight"].astype(np.float16, copy=False),
                arrays["directions"].astype(np.int8, copy=False),
                learned,
                content,
            )
        except (KeyError, ValueError, IndexError, TypeError) as cause:
            raise BundleRefused(f"similar items: {cause}", _HINT) from cause

    def find(self, features: Features) -> Similar:
        """Find the trained items that are most similar to an item."""
        item, weight = self._pairs(features)
        if not len(item):
            return Similar(item, weight)

        # The number of the pair makes every key another one, so any sort gives the same order: by item, then by pair.
        key = np.sort(item << _PAIR_BITS | np.arange(len(item)))
        item = key >> _PAIR_BITS
        pair = key & ((1 << _PAIR_BITS) - 1)
        is_first = np.append(True, item[1:] != item[:-1])
        found = item[is_first]
        similarity = np.bincount(is_first.cumsum() - 1, weight[pair])
        if len(found) > SIMILAR:
            # The rows of equal values would come in no certain order from a partition, its values do.
            is_near = similarity >= np.partition(similarity, -SIMILAR)[-SIMILAR]
            found = found[is_near]
            similarity = similarity[is_near]

        order = np.argsort(-similarity, kind="stable")[:SIMILAR]
        value = similarity[order]
        cube = value * value * value  # not a power, whose last bit differs between machines
        return Similar(found[order], cube / cube.cumsum()[-1])

    def learned_direction(self, similar: Similar) -> Float64Array:
        """Return the mean of the learned vectors of similar items by their shares, at unit length, ``[w]``.

        Zeros if there are no such items, or their vectors cancel out.
        """
        rows = self.directions[similar.rows].astype(np.float64)
        length = np.sqrt((rows * rows).sum(axis=1))  # exact: these are whole numbers
        return at_unit_length(((similar.shares / length)[:, None] * rows).sum(axis=0))

    def resemblance(self, features: Features, similar: Similar) -> Records:
        """Return what the catalogue keeps of a new item, one record.

        Args:
            features: Of the item.
            similar: What :meth:`find` finds of them.
        """
        found = nothing_known(1)
        rows, shares = similar.rows[:RESEMBLED], similar.shares[:RESEMBLED]
        found["similar"][0, : len(rows)] = rows
        found["share"][0, : len(rows)] = shares / shares.cumsum()[-1:]

        slot, value = self._known_features(features)
        weightiest = np.argsort(-value, kind="stable")[:MOST_WORDS]
        value = value[weightiest]
        found["word"][0, : len(value)] = slot[weightiest]
        found["word_weight"][0, : len(value)] = value / np.sqrt((value * value).cumsum()[-1:])
        return found

    @cached_property
    def _known_and_end(self) -> Int64Array:
        return np.append(self.known, -1)

    def _known_features(self, features: Features) -> tuple[Int64Array, Float64Array]:
        """Return the numbers of the features that are known, ascending, and their weights times rarity."""
        slot = np.searchsorted(self.known, features.ids)
        is_known = self._known_and_end[slot] == features.ids
        slot = slot[is_known]
        return slot, features.weights[is_known].astype(np.float64) * self.rarity[slot]

    def _pairs(self, features: Features) -> tuple[Int64Array, Float64Array]:
        """Return the items that share a feature with an item, one after the other, and what each feature adds."""
        slot, value = self._known_features(features)
        count = self.start[slot + 1] - self.start[slot]
        rarest = np.argsort(count, kind="stable")
        rarest = rarest[count[rarest].cumsum() <= MOST_VISITED]
        slot = slot[rarest]
        count = count[rarest]

        place = np.repeat(self.start[slot] - (count.cumsum() - count), count) + np.arange(count.sum())
        return self.item[place].astype(np.int64), self.weight[place] * np.repeat(value[rarest], count)


def at_unit_length(vector: Float64Array) -> Float64Array:
    """Return a vector at unit length; zeros stay zeros."""
    length = np.sqrt((vector * vector).sum())
    return vector / length if length > 0 else vector
