"""Items that say the same: for every item, the ones that share its rare words, as further neighbours of it.

Neighbours tell nothing of what nobody had together yet. An item by the same maker, of the same line or in another size
is a likely next item all the same, so the words of items (:mod:`model_store.search.item_words`) tell of neighbours too.
What they are worth beside counts is fitted (:mod:`training.blending.fit`).

Shapes: N items, W words of an item, P pairs of items.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.resemblances import NO_WORD
from model_store.search.item_words import ItemWords
from training.data.numbering import stable_order

ALIKE = 32
"""Items that are kept as alike an item, at most."""

MOST_PAIRS = 1024
"""Pairs that are looked at for an item, at most. Its rarest words come first; what thousands of items say tells little,
and would cost the most."""

ITEMS_AT_ONCE = 2048
"""Items that are compared with all others together."""

_STEPS = 1 << 20  # of similarities in a sort key; with the place and the item's number that makes 63 bits
_PLACE_BITS = 32

Int64Array = npt.NDArray[np.int64]


class AlikePairs(NamedTuple):
    """Pairs of items that say the same, sorted by both."""

    item: Int64Array  # [P]
    other: Int64Array  # [P], never the item itself
    similarity: npt.NDArray[np.float64]  # [P], above 0, at most 1


class _Index(NamedTuple):
    """The items that have each word."""

    start: Int64Array  # [words + 1], where each word's items begin
    item: Int64Array  # [entries], ascending within a word
    weight: npt.NDArray[np.float32]  # [entries]


def find_alike(words: ItemWords) -> AlikePairs:
    """Return for every item the :data:`ALIKE` items that are most similar to it; fewer if few share a word with it."""
    index = _index(words)
    parts = [_most_alike(words, index, first) for first in range(0, max(words.items, 1), ITEMS_AT_ONCE)]
    return AlikePairs(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _index(words: ItemWords) -> _Index:
    item, place = np.nonzero(words.word != NO_WORD)
    word = words.word[item, place]
    order = stable_order(word)
    start = np.concatenate([[0], np.cumsum(np.bincount(word, minlength=NO_WORD))])
    return _Index(start, item[order], words.weight[item, place].astype(np.float32)[order])


def _most_alike(words: ItemWords, index: _Index, first: int) -> AlikePairs:
    """Return the pairs of the :data:`ITEMS_AT_ONCE` items from ``first`` on."""
    own = slice(first, first + ITEMS_AT_ONCE)
    word = words.word[own].astype(np.int64)
    has_word = word != NO_WORD
    begin = index.start[np.where(has_word, word, 0)]
    size = np.where(has_word, index.start[np.where(has_word, word, 0) + 1] - begin, 0)
    rarest_first = np.argsort(size, axis=1, kind="stable")
    visited = np.cumsum(np.take_along_axis(size, rarest_first, axis=1), axis=1)
    np.put_along_axis(size, rarest_first, np.where(visited <= MOST_PAIRS, np.sort(size, axis=1), 0), axis=1)

    # All entries of the words that are looked at: their places in the index, the item they are compared with.
    row, column = np.nonzero(size)
    count = size[row, column]
    entry = np.repeat(begin[row, column] - (np.cumsum(count) - count), count) + np.arange(count.sum())
    product = np.repeat(words.weight[own][row, column].astype(np.float32), count) * index.weight[entry]

    key, place = np.unique(np.repeat(row, count) * words.items + index.item[entry], return_inverse=True)
    similarity = np.bincount(place, product, len(key))
    item, other = np.divmod(key, max(words.items, 1))
    is_other = item + first != other
    item, other, similarity = item[is_other], other[is_other], similarity[is_other]
    kept = _strongest(item, other < item + first, similarity)
    return AlikePairs(item[kept] + first, other[kept], similarity[kept])


def _strongest(
    item: Int64Array, is_before: npt.NDArray[np.bool_], similarity: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return a mask of the pairs ``[P]``, sorted by both, that are among the most similar ones of their item.

    Of equal similarities the next rows after the item come first, then the lowest ones: where many items say the same,
    all are some others' neighbours, not the same few everybody's.

    Args:
        item: Numbers below :data:`ITEMS_AT_ONCE`.
        is_before: Whether the other item has a lower row.
        similarity: From 0 to 1; what differs by less than 2**-20 counts as equal.
    """
    size = np.bincount(item, minlength=1)
    begin = (np.cumsum(size) - size)[item]
    place = np.arange(len(item)) - begin
    turned = begin + (place - np.bincount(item, is_before, len(size)).astype(np.int64)[item]) % size[item]

    # One number a pair, each another one, sorts ten times as fast as three keys do, and always the same way.
    unlikeness = np.clip((1 - similarity) * _STEPS, 0, _STEPS - 1).astype(np.int64)
    key = np.sort((item * _STEPS + unlikeness) << _PLACE_BITS | turned)
    is_kept = np.empty(len(item), dtype=np.bool_)  # by turned place
    is_kept[key & ((1 << _PLACE_BITS) - 1)] = place < ALIKE
    return is_kept[turned]
