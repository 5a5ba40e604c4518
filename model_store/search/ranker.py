"""The ranker: a small network that corrects the scores of a search's candidates by more than the graph reads.

    score(item) = log_prob(item) + weight * (dense(item) + correction(item))

The fusion (:mod:`model_store.search.fusion`) weighs its parts alike for all users and items, but neighbours tell more
after a short history, and a popular item needs less evidence than a rare one. The correction is the answer of a small
perceptron to :data:`FEATURES` of the candidate, fitted on validation users (:mod:`training.blending.ranker`) and sealed
in the bundle. It depends on the user and the item alone, never on other candidates, so that an item has the same score
in every search. It adds no candidates.

New items are compared by their words, too, and neighbours lend them scores (:mod:`model_store.catalogue.resemblances`);
of their popularity nothing is known, so they count as popular as half of the trained items are at most. A new item
without words, which nobody could know anything of, gets what the answers get on average, so that the ranker neither
favours nor hides it.

Shapes: B requests, C candidates of a request, T history items, A newest of them, F features, N items, d_s width of
vectors, of which the last c are content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from model_store.catalogue.resemblances import Resemblances
from model_store.errors import BundleRefused
from model_store.search.interface import SearchInputs, SearchOutputs
from model_store.search.item_words import ItemWords
from model_store.semantic_ids.trie import Trie

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

FEATURES = (
    "log_prob",  # of the semantic ID, at least LEAST_LOG_PROB
    "dense",  # the dense score, neighbours included
    "neighbours",  # what neighbours added to it
    "content_mean",  # content similarity with the newest items, weighted by age
    "content_newest",  # with the newest item
    "content_largest",  # the largest among the newest items
    "words_mean",  # the same three of the items' words (model_store.search.item_words)
    "words_newest",
    "words_largest",
    "learned_newest",  # the same of learned vectors
    "learned_largest",
    "log_popularity",  # ln(1 + interactions in training), the median of new items, NaN of those without words
    "log_popularity_newest",  # of the newest item of the history
    "log_length",  # of the history that the model reads
    "log_occurrences",  # ln(1 + times that the item is in it)
)
"""What the ranker reads of a candidate, in order."""

POPULARITY = FEATURES.index("log_popularity")

AGES = 10
"""A, newest items of a history that candidates are compared with."""

AGE_DECAY = 0.6
"""Weight of an item in ``content_mean`` relative to the next newer one."""

LEAST_LOG_PROB = -30.0

LARGEST = 4.0
"""Standardised features are cut off at this size, so that nothing unheard-of is extrapolated."""

_HINT = "publish the model again, with the release that serves it"


@dataclass(frozen=True, eq=False)
class CandidateFeatures:
    """Computes the features of candidates.

    Attributes:
        log_popularity: ``[trained]`` float32, of the first rows of the catalogue; later rows are untrained.
        content_dim: c, 0 if items are known by their interactions alone.
        words: What the same items say.

    Raises:
        ValueError: Words and popularity are not of the same items.
    """

    log_popularity: Float32Array
    content_dim: int
    words: ItemWords

    def __post_init__(self) -> None:
        if self.log_popularity.shape != (self.words.items,):
            raise ValueError(f"log_popularity must hold a number for each of the {self.words.items} items with words")

    def of(
        self,
        inputs: SearchInputs,
        outputs: SearchOutputs,
        trie: Trie,
        vectors: Float32Array,
        new: Resemblances | None = None,
    ) -> Float32Array:
        """Return the features of all candidates, ``[B, C, F]``; of an empty place they mean nothing.

        Args:
            inputs: What was searched.
            outputs: What was found, before any correction.
            trie: The trie that was searched.
            vectors: Item vectors by catalogue row, ``[N, d_s]``.
            new: What is known of new items.
        """
        rows = trie.leaf_item[np.maximum(outputs.leaves, 0)].astype(np.int64)
        place = inputs.lengths[:, None] - 1 - np.arange(min(AGES, inputs.history.shape[1]))  # [B, A]
        is_item = place >= 0
        newest = trie.leaf_item[np.take_along_axis(inputs.history, np.maximum(place, 0), axis=1)].astype(np.int64)

        candidate, history = vectors[rows], vectors[newest]
        learned_dim = vectors.shape[1] - self.content_dim
        learned = _similarities(candidate[..., :learned_dim], history[..., :learned_dim])
        # The last number of a content vector only says that an item says nothing (model_store.network.content_profile).
        said = slice(learned_dim, max(learned_dim, vectors.shape[1] - 1))
        content = _similarities(candidate[..., said], history[..., said])

        new = new if self.words.say_something else None  # what was never taught must not be read
        words = self.words.similarities(rows, newest, new)

        weight = AGE_DECAY ** np.arange(place.shape[1], dtype=np.float32) * is_item
        weight /= weight.sum(axis=1, keepdims=True)
        features = {
            "log_prob": np.maximum(outputs.log_prob, LEAST_LOG_PROB),
            "dense": outputs.dense,
            "neighbours": _neighbour_scores(inputs, rows, trie),
            "content_mean": np.einsum("bca,ba->bc", content, weight),
            "content_newest": content[..., 0],
            "content_largest": _largest(content, is_item),
            "words_mean": np.einsum("bca,ba->bc", words, weight),
            "words_newest": words[..., 0],
            "words_largest": _largest(words, is_item),
            "learned_newest": learned[..., 0],
            "learned_largest": _largest(learned, is_item),
            "log_popularity": self._popularity(rows, new),
            "log_popularity_newest": self._popularity(newest[:, :1], new),
            "log_length": np.log(inputs.lengths.astype(np.float32))[:, None],
            "log_occurrences": np.log1p(_occurrences(inputs, outputs.leaves)),
        }
        found = np.empty((*rows.shape, len(FEATURES)), dtype=np.float32)
        for at, name in enumerate(FEATURES):
            found[..., at] = features[name]
        return found

    @cached_property
    def _median_popularity(self) -> float:
        return float(np.median(self.log_popularity)) if len(self.log_popularity) else 0.0

    def _popularity(self, rows: Int64Array, new: Resemblances | None) -> Float32Array:
        """Return the logarithms of popularity of rows; NaN of items of which nothing is known."""
        found = np.full(rows.shape, np.nan, dtype=np.float32)
        if new is not None and len(new):
            found[new.has_words(rows)] = self._median_popularity
        is_trained = rows < len(self.log_popularity)
        found[is_trained] = self.log_popularity[rows[is_trained]]
        return found


@dataclass(frozen=True, eq=False)
class Ranker:
    """A fitted ranker.

    Attributes:
        features: Computes what it reads.
        mean: ``[F]``, of the features that it was fitted on.
        deviation: ``[F]``, standard deviations, above 0.
        weights: Of each layer, ``[outputs, inputs]``; the last one has one output.
        biases: Of each layer, ``[outputs]``.
        untrained: Correction of items of which nothing is known.

    Raises:
        ValueError: The arrays do not describe such a network.
    """

    features: CandidateFeatures
    mean: Float32Array
    deviation: Float32Array
    weights: tuple[Float32Array, ...]
    biases: tuple[Float32Array, ...]
    untrained: float

    def __post_init__(self) -> None:
        popularity = self.features.log_popularity
        everything = (popularity, self.mean, self.deviation, *self.weights, *self.biases, np.array(self.untrained))
        if not all(np.isfinite(array).all() for array in everything):
            raise ValueError("all numbers must be finite")
        if self.features.content_dim < 0:
            raise ValueError("content_dim must be at least 0")
        if {self.mean.shape, self.deviation.shape} != {(len(FEATURES),)} or (self.deviation <= 0).any():
            raise ValueError(f"mean and deviation must hold {len(FEATURES)} numbers, and deviations be above 0")

        width = len(FEATURES)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
                raise ValueError(f"a layer of {width} inputs has weights {weight.shape} and biases {bias.shape}")
            width = len(bias)
        if width != 1:
            raise ValueError(f"the last layer must have one output, not {width}")

    @property
    def items(self) -> int:
        """Number of trained items, the first rows of the catalogue."""
        return len(self.features.log_popularity)

    def corrections(self, features: Float32Array) -> Float32Array:
        """Return the corrections ``[…]`` of candidates with features ``[…, F]``, in units of dense scores."""
        x = np.clip((features - self.mean) / self.deviation, -LARGEST, LARGEST)
        x = np.nan_to_num(x, copy=False)  # where nothing is known of the newest item, its popularity is average
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ weight.T + bias, 0)
        answer = (x @ self.weights[-1].T + self.biases[-1])[..., 0]
        return np.where(np.isnan(features[..., POPULARITY]), np.float32(self.untrained), answer)

    def correct(
        self,
        inputs: SearchInputs,
        outputs: SearchOutputs,
        trie: Trie,
        vectors: Float32Array,
        new: Resemblances | None = None,
    ) -> SearchOutputs:
        """Return the outputs with corrected dense scores; arguments are those of :meth:`CandidateFeatures.of`."""
        correction = self.corrections(self.features.of(inputs, outputs, trie, vectors, new))
        return outputs._replace(dense=np.where(outputs.leaves >= 0, outputs.dense + correction, outputs.dense))

    def for_rows(self, rows: Int64Array) -> Ranker:
        """Return the ranker of some catalogue rows ``[n]``, ascending, numbered anew from 0."""
        trained = rows[rows < self.items]
        known = self.features
        kept = replace(known, log_popularity=known.log_popularity[trained], words=known.words.for_rows(trained))
        return replace(self, features=kept)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything as arrays by name; :meth:`from_arrays` takes them back."""
        layers = {f"weight_{at}": weight for at, weight in enumerate(self.weights)}
        layers |= {f"bias_{at}": bias for at, bias in enumerate(self.biases)}
        return {
            "log_popularity": self.features.log_popularity,
            "content_dim": np.array([self.features.content_dim], dtype=np.int64),
            "word": self.features.words.word,
            "word_weight": self.features.words.weight,
            "mean": self.mean,
            "deviation": self.deviation,
            "untrained": np.array([self.untrained], dtype=np.float64),
            **layers,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """Rebuild and check a ranker from :meth:`arrays`.

        Raises:
            BundleRefused: An array is missing, or the arrays do not describe a ranker of this release.
        """
        layers = range(sum(name.startswith("weight_") for name in arrays))
        try:
            popularity = arrays["log_popularity"].astype(np.float32)
            words = ItemWords(
                arrays["word"].astype(np.uint16, copy=False), arrays["word_weight"].astype(np.float16, copy=False)
            )
            return cls(
                CandidateFeatures(popularity, int(arrays["content_dim"].astype(np.int64).item()), words),
                arrays["mean"].astype(np.float32),
                arrays["deviation"].astype(np.float32),
                tuple(arrays[f"weight_{at}"].astype(np.float32) for at in layers),
                tuple(arrays[f"bias_{at}"].astype(np.float32) for at in layers),
                float(arrays["untrained"].astype(np.float64).item()),
            )
        except (KeyError, ValueError) as cause:
            raise BundleRefused(f"ranker: {cause}", _HINT) from cause


def corrected(
    ranker: Ranker | None,
    inputs: SearchInputs,
    outputs: SearchOutputs,
    trie: Trie,
    vectors: Float32Array | None,
    new: Resemblances | None = None,
) -> SearchOutputs:
    """Return the outputs with corrected dense scores, or as they are without a ranker or vectors."""
    if ranker is None or vectors is None:
        return outputs
    return ranker.correct(inputs, outputs, trie, vectors, new)


def _similarities(candidates: Float32Array, history: Float32Array) -> Float32Array:
    """Return the products of candidates ``[B, C, d]`` and history items ``[B, A, d]``: ``[B, C, A]``."""
    found: Float32Array = np.matmul(candidates, history.transpose(0, 2, 1))
    return found


def _largest(similarities: Float32Array, is_item: npt.NDArray[np.bool_]) -> Float32Array:
    """Return the largest of similarities ``[B, C, A]`` with real items ``[B, A]``: ``[B, C]``."""
    found: Float32Array = np.where(is_item[:, None, :], similarities, -np.inf).max(axis=2)
    return found


def _neighbour_scores(inputs: SearchInputs, rows: Int64Array, trie: Trie) -> Float32Array:
    """Return what neighbours added to the dense scores of catalogue rows ``[B, C]``."""
    if not inputs.neighbours.shape[1]:
        return np.zeros(rows.shape, dtype=np.float32)

    # One sorted list for the whole batch. Neighbours ascend by row already, so a stable sort only looks at them.
    request = np.arange(len(rows), dtype=np.int64)[:, None] * (trie.items + 1)
    known = trie.leaf_item[np.maximum(inputs.neighbours, 0)].astype(np.int64)
    key = (np.where(inputs.neighbours >= 0, known, trie.items) + request).ravel()
    order = np.argsort(key, kind="stable")
    key = key[order]

    wanted = rows + request
    place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    found: Float32Array = inputs.neighbour_scores.ravel()[order][place]
    return np.where(key[place] == wanted, found, np.float32(0))


def _occurrences(inputs: SearchInputs, leaves: Int64Array) -> Float32Array:
    """Return how often leaves ``[B, C]`` are in the history that the model reads."""
    is_item = np.arange(inputs.history.shape[1]) < inputs.lengths[:, None]
    history = np.where(is_item, inputs.history, -1)
    found: Float32Array = (leaves[:, :, None] == history[:, None, :]).sum(axis=2, dtype=np.float32)
    return found
