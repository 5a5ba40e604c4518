"""Neighbours of every item: items that stand close to it in training sequences, and items that say the same.

    C(i, j) = sum over places of i and of j, d apart with d <= WINDOW, of DISTANCE_DECAY ** (d - 1),
              times BACKWARD where j comes before i
    strength of j as neighbour of i = C(i, j) / ((out(i) + PSEUDO) ** a * (in(j) + PSEUDO) ** b)
                                      + likeness * similarity of their words, in units of a strong neighbour

``out(i)`` sums C over all j, ``in(j)`` over all i. An item is no neighbour of itself. The exponents a and b take off
what an item owes to its popularity; they and the likeness are fitted (:mod:`training.blending.fit`), the rest is fixed:
on Beauty it is a plateau (docs/LOG.md). The unit is the mean, over all items that have neighbours by counts, of the
strength of their strongest one. The result is a :class:`model_store.search.neighbours.Neighbours`.

Shapes: N interactions, P pairs of items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.search.item_words import ItemWords
from model_store.search.neighbours import MOST_NEIGHBOURS, Neighbours
from training.data.dataset import Sequences
from training.data.numbering import stable_order
from training.neighbours.alike import find_alike

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

WINDOW = 10
"""Largest distance of two items that count as close."""

DISTANCE_DECAY = 0.85
"""Weight of a pair relative to one that is a step closer."""

BACKWARD = 0.2
"""Weight of an item that comes before, relative to one that comes after."""

PSEUDO = 10.0
"""Added to degrees, so that items with few interactions have no strong neighbours by chance."""

SELECTION_EXPONENT = 0.2
"""Exponent b by which an item's strongest neighbours are chosen, within the range of those that are fitted. The
exponent a does not change their order."""

PAIRS_AT_ONCE = 1 << 24
"""Pairs of places that are counted together; they take about 50 bytes each."""


class NeighbourSettings(NamedTuple):
    """Values of the neighbours that are fitted; the fit begins at the defaults."""

    out_exponent: float = 0.5  # a
    in_exponent: float = 0.15  # b
    decay: float = 0.7  # weight of an item of the history relative to the next newer one
    skips_history: bool = False  # whether items of the history get no score
    likeness: float = 0.0  # what similar words are worth, in units of a strong neighbour


@dataclass(frozen=True, eq=False)
class NeighbourCounts:
    """Each item's strongest neighbours by counts and by words, as compressed sparse rows, and the degrees of all items.

    Attributes:
        start: ``[items + 1]``, where each item's neighbours begin.
        neighbour: ``[P]``, item rows, ascending within an item.
        count: ``[P]``, C; 0 of neighbours by words alone.
        similarity: ``[P]``, of their words; 0 of neighbours by counts alone.
        outgoing: ``[items]``, out.
        incoming: ``[items]``, in.
    """

    start: Int64Array
    neighbour: npt.NDArray[np.int32]
    count: npt.NDArray[np.float32]
    similarity: npt.NDArray[np.float32]
    outgoing: Float64Array
    incoming: Float64Array

    def memory(self, settings: NeighbourSettings) -> Neighbours:
        """Return the neighbours with the strengths that follow from the settings."""
        of_item = np.repeat((self.outgoing + PSEUDO) ** -settings.out_exponent, np.diff(self.start))
        of_neighbour = (self.incoming + PSEUDO) ** -settings.in_exponent
        strength = self.count * of_item * of_neighbour[self.neighbour]
        if settings.likeness and self.similarity.any():
            strength += settings.likeness * self._strong(strength) * self.similarity

        items = len(self.outgoing)
        item = np.repeat(np.arange(items), np.diff(self.start))
        kept = strength > 0
        is_crowded = kept & (np.bincount(item[kept], minlength=items) > MOST_NEIGHBOURS)[item]
        kept[is_crowded] = _strongest(item[is_crowded], strength[is_crowded])

        start = np.concatenate([[0], np.cumsum(np.bincount(item[kept], minlength=items))])
        kept_strength = strength[kept].astype(np.float32)
        return Neighbours(start, self.neighbour[kept], kept_strength, settings.decay, items, settings.skips_history)

    def _strong(self, strength: Float64Array) -> float:
        """Return the mean strength of items' strongest neighbours by counts; 1 if nobody had two items together."""
        begin = self.start[:-1][np.diff(self.start) > 0]
        strongest = np.maximum.reduceat(strength, begin) if len(begin) else np.empty(0)
        return float(strongest[strongest > 0].mean()) if (strongest > 0).any() else 1.0


class _Places(NamedTuple):
    """Some places of the flat sequences."""

    place: Int64Array  # [n]
    item: npt.NDArray[np.int32]  # [n]
    before: npt.NDArray[np.int32]  # [n], places of the same sequence before it
    after: npt.NDArray[np.int32]  # [n], and after it


def count_neighbours(sequences: Sequences, items: int, words: ItemWords | None = None) -> NeighbourCounts:
    """Count the neighbours of all items, and find those that say the same.

    The items are taken in blocks, so that memory is bounded however many sequences there are; each interaction is
    visited in the block of its item alone.

    Args:
        sequences: Item rows of each user, oldest first.
        items: Number of items.
        words: Their words; ``None`` if they say nothing.
    """
    outgoing, incoming = _degrees(sequences, items)
    importance = (incoming + PSEUDO) ** -SELECTION_EXPONENT

    by_item = stable_order(sequences.items)
    begin = np.concatenate([[0], np.cumsum(np.bincount(sequences.items, minlength=items))])

    counts = [np.zeros(1, dtype=np.int64)]
    neighbours = [np.empty(0, dtype=np.int32)]
    values = [np.empty(0, dtype=np.float32)]
    for first, last in _blocks(sequences, items):
        item, neighbour, count = _count_block(sequences, np.sort(by_item[begin[first] : begin[last]]), first, items)
        kept = _strongest(item, count * importance[neighbour])
        counts.append(np.bincount(item[kept], minlength=last - first))
        neighbours.append(neighbour[kept].astype(np.int32))
        values.append(count[kept].astype(np.float32))

    item = np.repeat(np.arange(items), np.concatenate(counts)[1:])
    alike = find_alike(words if words is not None else ItemWords.nothing(items))
    key = np.concatenate([item * items + np.concatenate(neighbours), alike.item * items + alike.other])
    pair, place = np.unique(key, return_inverse=True)
    pair_count, similarity = np.zeros((2, len(pair)), dtype=np.float32)
    pair_count[place[: len(item)]] = np.concatenate(values)
    similarity[place[len(item) :]] = alike.similarity

    item, neighbour = np.divmod(pair, max(items, 1))
    start = np.concatenate([[0], np.cumsum(np.bincount(item, minlength=items))])
    return NeighbourCounts(start, neighbour.astype(np.int32), pair_count, similarity, outgoing, incoming)


def _degrees(sequences: Sequences, items: int) -> tuple[Float64Array, Float64Array]:
    """Return out and in of all items, ``[items]`` each."""
    flat = sequences.items
    outgoing, incoming = np.zeros((2, items))
    end = np.repeat(sequences.offsets[1:], np.diff(sequences.offsets))
    for distance in range(1, WINDOW + 1):
        is_pair = (np.arange(len(flat)) + distance < end)[:-distance] & (flat[:-distance] != flat[distance:])
        earlier = np.bincount(flat[:-distance][is_pair], minlength=items) * DISTANCE_DECAY ** (distance - 1)
        later = np.bincount(flat[distance:][is_pair], minlength=items) * DISTANCE_DECAY ** (distance - 1)
        outgoing += earlier + BACKWARD * later
        incoming += later + BACKWARD * earlier
    return outgoing, incoming


def _blocks(sequences: Sequences, items: int) -> Iterator[tuple[int, int]]:
    """Cut the items into ranges that have about as many pairs, at most :data:`PAIRS_AT_ONCE` or a single item."""
    pairs = np.cumsum(np.bincount(sequences.items, minlength=items)) * 2 * WINDOW
    first = 0
    while first < items:
        reached = pairs[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(pairs, reached + PAIRS_AT_ONCE, side="right")))
        yield first, last
        first = last


def _count_block(
    sequences: Sequences, place: Int64Array, first: int, items: int
) -> tuple[Int64Array, Int64Array, Float64Array]:
    """Return all pairs whose item is at one of these places: item less ``first``, neighbour, C; sorted."""
    places = _places(sequences, place)
    keys = [np.empty(0, dtype=np.int64)]
    weights = [np.empty(0)]
    for distance in range(1, WINDOW + 1):
        weight = DISTANCE_DECAY ** (distance - 1)
        for step, room, factor in ((distance, places.after, 1.0), (-distance, places.before, BACKWARD)):
            has_neighbour = room >= distance
            item = places.item[has_neighbour].astype(np.int64) - first
            other = sequences.items[places.place[has_neighbour] + step]
            key = (item * items + other)[item + first != other]
            keys.append(key)
            weights.append(np.full(len(key), factor * weight))

    found, index = np.unique(np.concatenate(keys), return_inverse=True)
    count = np.bincount(index, np.concatenate(weights), len(found)).astype(np.float64)
    item, neighbour = np.divmod(found, items)
    return item, neighbour, count


def _places(sequences: Sequences, place: Int64Array) -> _Places:
    """Return some places, which ascend."""
    owner = np.searchsorted(sequences.offsets, place, side="right") - 1
    before = place - sequences.offsets[owner]
    after = sequences.offsets[owner + 1] - 1 - place
    return _Places(place, sequences.items[place], before.astype(np.int32), after.astype(np.int32))


def _strongest(item: Int64Array, strength: Float64Array) -> npt.NDArray[np.bool_]:
    """Return a mask of the pairs ``[P]``, sorted by item, that are among that item's strongest ones.

    Args:
        item: Ascending.
        strength: At least 0; it counts in 32 bits, and of equal ones the first pairs are the strongest.
    """
    # Bits of positive numbers ascend as the numbers do, so one key sorts a third as long as two would.
    weakness = np.int64(np.iinfo(np.int32).max) - strength.astype(np.float32).view(np.int32)
    order = np.argsort(item << 32 | weakness, kind="stable")
    first = np.searchsorted(item, item)  # first pair of each pair's item
    kept = np.empty(len(item), dtype=np.bool_)
    kept[order] = np.arange(len(item)) - first < MOST_NEIGHBOURS
    return kept
