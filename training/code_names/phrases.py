"""Phrases of all items: words, neighbouring words and whole values, with the items that say them.

An item says a phrase if the words stand side by side in its title, a category or a text attribute. Only phrases that
two items say are kept: no other can be what items have in common. So a phrase of n words is looked for only where both
of its parts of n - 1 words were kept (the Apriori property), which keeps counting close to linear in the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from training.code_names.words import MAX_CHARACTERS, MAX_WORDS, Words, split_texts

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Phrases:
    """T phrases by ascending number of words. A place is that of a word in the texts.

    Attributes:
        words: The words of all texts, P places.
        at: For phrases of 1, 2, … words: the phrase that begins at each place, ``[P]``; -1 where none is kept.
        place: A place at which the phrase begins, ``[T]``.
        size: Number of words, ``[T]``.
        head: The phrase without its last word, ``[T]``; -1 for single words.
        tail: The phrase without its first word, ``[T]``; -1 for single words.
        is_value: Whether the phrase is a whole category or attribute value of some item, ``[T]``.
        count: Items that say the phrase, ``[T]``, at least 2.
        said: Pairs of phrase and item that says it, ``[pairs, 2]``, sorted.
    """

    words: Words
    at: list[Int64Array]
    place: Int64Array
    size: Int64Array
    head: Int64Array
    tail: Int64Array
    is_value: BoolArray
    count: Int64Array
    said: Int64Array

    @cached_property
    def first(self) -> Int64Array:
        """First word of each phrase, as number of a word, ``[T]``."""
        return self.words.word[self.place]

    @cached_property
    def last(self) -> Int64Array:
        """Last word of each phrase, as number of a word, ``[T]``."""
        return self.words.word[self.place + self.size - 1]

    def spell(self, wanted: Int64Array) -> list[str]:
        """Return the most frequent spelling of distinct phrases, ``[n]``; of equally frequent ones, the lowest text."""
        is_wanted = np.zeros(len(self.size), dtype=np.bool_)
        is_wanted[wanted] = True
        parts = []
        for size, phrase in enumerate(self.at, start=1):
            places = np.flatnonzero((phrase >= 0) & is_wanted[phrase])
            parts.append(self._spellings(phrase[places], places, size))

        found = pl.concat(parts).sort("phrase", "count", "text", descending=[False, True, False])
        best = found.unique("phrase", keep="first", maintain_order=True)
        return pl.DataFrame({"phrase": wanted}).join(best, "phrase", maintain_order="left")["text"].to_list()

    def _spellings(self, phrase: Int64Array, places: Int64Array, size: int) -> pl.DataFrame:
        """Count the spellings of phrases of so many words at these places: ``phrase``, ``text``, ``count``."""
        columns = [f"word_{number}" for number in range(size)]
        spelled = {name: self.words.spelling[places + number] for number, name in enumerate(columns)}
        counted = pl.DataFrame({"phrase": phrase, **spelled}).group_by("phrase", *columns).len("count")

        spellings = pl.Series(self.words.spellings, dtype=pl.String)
        texts = counted.with_columns(spellings.gather(counted[name]).alias(name) for name in columns)
        is_character = self.words.is_character[self.first[counted["phrase"].to_numpy()]]
        joined = (
            pl.when(pl.Series(is_character))
            .then(pl.concat_str(columns))
            .otherwise(pl.concat_str(columns, separator=" "))
        )
        return texts.select("phrase", "count", text=joined)


class _Found(NamedTuple):
    """The kept phrases of one number of words, t of them."""

    at: Int64Array  # [P], numbered through all phrases, -1 where none
    place: Int64Array  # [t]
    items: Int64Array  # [t], items that say each
    said: Int64Array  # [pairs, 2]


def find_phrases(texts: pl.DataFrame, items: int) -> Phrases:
    """Find the phrases that at least two of so many items say.

    Args:
        texts: All texts, see :func:`~training.code_names.words.item_texts`.
        items: Number of items.
    """
    words = split_texts(texts)
    item = texts["item"].to_numpy()[words.text]  # [P]

    found = [_keep_shared(words.word, np.arange(len(item)), item, items, 0)]
    while len(found) < MAX_CHARACTERS:
        shorter = found[-1].at
        places = _longer_places(words, shorter, len(found) + 1)
        # Head and tail overlap in all but two words, so both together are the phrase.
        keys = shorter[places] * (shorter.max(initial=0) + 1) + shorter[places + 1]
        longer = _keep_shared(keys, places, item, items, sum(len(each.place) for each in found))
        if not len(longer.place):
            break
        found.append(longer)

    at = [each.at for each in found]
    place = np.concatenate([each.place for each in found])
    size = np.repeat(np.arange(1, len(found) + 1), [len(each.place) for each in found])
    none = np.full(len(found[0].place), -1, dtype=np.int64)
    shorter_than = list(zip(found[1:], at, strict=False))
    return Phrases(
        words=words,
        at=at,
        place=place,
        size=size,
        head=np.concatenate([none, *(shorter[each.place] for each, shorter in shorter_than)]),
        tail=np.concatenate([none, *(shorter[each.place + 1] for each, shorter in shorter_than)]),
        is_value=_find_values(words, at, texts["is_value"].to_numpy(), len(place)),
        count=np.concatenate([each.items for each in found]),
        said=np.concatenate([each.said for each in found]),
    )


def _longer_places(words: Words, shorter: Int64Array, size: int) -> Int64Array:
    """Return the places at which a phrase of ``size`` words may begin, given the phrases of one word less.

    No word comes twice in a phrase, as in titles that repeat one word; characters may.
    """
    ends = np.arange(size - 1, len(words.word))
    begins = ends - (size - 1)
    is_character = words.is_character[words.word[begins]]
    is_longer = (shorter[begins] >= 0) & (shorter[begins + 1] >= 0) & words.joins[begins + 1]
    is_new = is_character | ((words.word[begins] != words.word[ends]) & (size <= MAX_WORDS))
    return begins[is_longer & is_new]


def _keep_shared(keys: Int64Array, places: Int64Array, item: Int64Array, items: int, known: int) -> _Found:
    """Keep the phrases that two items say, and number them.

    Args:
        keys: Stand for the phrase that begins at each of ``places``, ``[p]``.
        places: Ascending, ``[p]``.
        item: Item of every place, ``[P]``.
        items: Number of items.
        known: Number of phrases before these.
    """
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    said = _sort_distinct(number * items + item[places])
    count = np.bincount(said // items, minlength=len(first))
    is_kept = count > 1
    numbered = np.where(is_kept, known + np.cumsum(is_kept) - 1, -1)

    at = np.full(len(item), -1, dtype=np.int64)
    at[places] = numbered[number]
    said = np.stack([numbered[said // items], said % items], axis=1)
    return _Found(at, places[first[is_kept]], count[is_kept], said[said[:, 0] >= 0])


def _sort_distinct(keys: Int64Array) -> Int64Array:
    """Return the distinct keys in order; for millions of them several times as fast as ``np.unique``, which hashes."""
    keys = np.sort(keys)
    is_first = np.ones(len(keys), dtype=np.bool_)
    is_first[1:] = keys[1:] != keys[:-1]
    return keys[is_first]


def _find_values(words: Words, at: list[Int64Array], text_is_value: BoolArray, phrases: int) -> BoolArray:
    """Tell the phrases that are the whole text of a value, ``[T]``."""
    text, begins, size = np.unique(words.text, return_index=True, return_counts=True)
    is_value = np.zeros(phrases, dtype=np.bool_)
    for words_of_phrase, phrase in enumerate(at, start=1):
        found = phrase[begins[text_is_value[text] & (size == words_of_phrase)]]
        is_value[found[found >= 0]] = True
    return is_value
