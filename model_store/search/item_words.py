"""Item words: the few rare words by which an item is told from others, to compare items by them.

Content vectors are principal directions of what items say, and a truncated decomposition loses the rare words, such as
brands and lines of products. Here items keep their :data:`MOST_WORDS` weightiest features as they are (words,
categories, values of attributes: :mod:`model_store.new_items.features`), weighted by their rarity (TF-IDF).

    similarity(i, j) = sum over their common words of weight * weight, at most 1

New items have words, too; the catalogue keeps them (:mod:`model_store.catalogue.resemblances`).

Shapes: N trained items, W = MOST_WORDS, B requests, C candidates of a request, A history items.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from model_store.catalogue.resemblances import MOST_WORDS, NO_WORD, Resemblances

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ItemWords:
    """The words of all trained items, the first rows of the catalogue.

    Attributes:
        word: ``[N, W]`` uint16, numbers of words, each once in an item; :data:`NO_WORD` where it has fewer.
        weight: ``[N, W]`` float16, 0 where there is no word; those of an item have unit length, or are all 0.

    Raises:
        ValueError: The arrays do not describe such words.
    """

    word: npt.NDArray[np.uint16]
    weight: npt.NDArray[np.float16]

    def __post_init__(self) -> None:
        if self.word.ndim != 2 or self.word.shape[1] != MOST_WORDS or self.weight.shape != self.word.shape:
            raise ValueError(f"word and word_weight must hold {MOST_WORDS} numbers for every item")
        if not (np.isfinite(self.weight) & (self.weight >= 0)).all() or self.weight[self.word == NO_WORD].any():
            raise ValueError("word_weight must be at least 0, and 0 where there is no word")

    @classmethod
    def nothing(cls, items: int) -> Self:
        """Return the words of items that say nothing."""
        shape = (items, MOST_WORDS)
        return cls(np.full(shape, NO_WORD, dtype=np.uint16), np.zeros(shape, dtype=np.float16))

    @property
    def items(self) -> int:
        """N."""
        return len(self.word)

    @cached_property
    def say_something(self) -> bool:
        """Whether any item has a word."""
        return bool(self.weight.any())

    def for_rows(self, rows: Int64Array) -> ItemWords:
        """Return the words of some of the items ``[n]``, numbered anew from 0."""
        return ItemWords(self.word[rows], self.weight[rows])

    def similarities(
        self, candidates: Int64Array, history: Int64Array, new: Resemblances | None = None
    ) -> Float32Array:
        """Return how similar candidates are to history items, ``[B, C, A]``.

        Args:
            candidates: Catalogue rows, ``[B, C]``.
            history: Catalogue rows, ``[B, A]``.
            new: What is known of new items; without it they are similar to none.
        """
        if not self.items:
            return np.zeros((*candidates.shape, history.shape[1]), dtype=np.float32)

        wanted, weight = self._of(candidates, new)
        known, known_weight = self._of(history, new)

        # For every request and word of its history, one row of the words' weights in the history items: [words, A].
        words, row = np.unique(known, return_inverse=True)
        weight_by_item = np.zeros((len(words), history.shape[1]), dtype=np.float32)
        item = np.broadcast_to(np.arange(history.shape[1])[:, None], known.shape)
        weight_by_item[row.ravel(), item.ravel()] = known_weight.ravel()

        place = np.minimum(np.searchsorted(words, wanted), len(words) - 1)
        weight *= words[place] == wanted
        found: Float32Array = np.matmul(weight[:, :, None], weight_by_item[place])[:, :, 0]
        return found

    def _of(self, rows: Int64Array, new: Resemblances | None) -> tuple[Int64Array, Float32Array]:
        """Return keys of request and word, and the weights, of items ``[B, n]``: ``[B, n, W]`` each."""
        is_trained = rows < self.items
        row = np.minimum(rows, self.items - 1)
        word, weight = self.word[row], self.weight[row]
        if not is_trained.all():
            others = rows[~is_trained]
            word[~is_trained], weight[~is_trained] = (Resemblances() if new is None else new).words(others)
        request = np.arange(len(rows), dtype=np.int64)[:, None, None] * (NO_WORD + 1)
        return word + request, weight.astype(np.float32)
