"""Full ranking with the search that serves: the rank of each held-out item, under both protocols.

A single search gives all results: the beams alone (generative), the beams fused with dense candidates for every fusion
weight, and the same candidates ranked by their dense scores alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from model_store.catalogue.resemblances import Resemblances
from model_store.network.bound_search import BoundSearch
from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.search.fusion import GENERATIVE_ALONE, Fusion, ranking
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import SearchInputs, search_inputs
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import FEATURES, CandidateFeatures, Ranker, corrected
from model_store.semantic_ids.trie import Trie
from training.data.dataset import Split
from training.evaluation.metrics import Ranks, ndcg

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

USERS_AT_ONCE = 128
"""Users that are searched together. Their histories have similar lengths, so that there is little padding."""

RANKED_AT_ONCE = 1_024
"""Users whose corrections are computed together, so that memory is bounded."""

WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Fusion weights that are tried besides 0. Cosines lie in -1 … 1 and were trained with a temperature of about 0.07, so
at a weight of 1 / 0.07 a nat of the search and a nat of the dense head count the same."""

FIT_CUTOFF = 10
"""Cut-off of the NDCG that chooses the fusion."""


@dataclass(frozen=True)
class SearchResults:
    """Answers of the search for n users, C = W + candidates each; the first axis is the protocol."""

    is_target: npt.NDArray[np.bool_]  # [2, n, C]
    log_prob: npt.NDArray[np.float32]  # [2, n, C]
    dense: npt.NDArray[np.float32]  # [2, n, C]
    beam_width: int
    neighbours_weight: float = 0.0
    """Weight of neighbour scores in ``dense``."""
    listed: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    """Positions of the m users whose answers are known by item, [m]."""
    items: Int32Array = field(default_factory=lambda: np.empty((0, 0), np.int32))
    """Their answers under the second protocol, [m, C]; -1 where there is none."""
    features: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0, 0, 0), np.float32))
    """What a ranker reads of the candidates, [2, n, C, F], if that was asked for."""

    @property
    def dense_candidates(self) -> int:
        """Number of dense candidates beside the beams of each user."""
        return self.log_prob.shape[2] - self.beam_width

    def ranks(self, fusion: Fusion = GENERATIVE_ALONE) -> Ranks:
        """Return the rank of every target among the fused answers; with weight 0 the beams alone are the answers."""
        return Ranks(self._ranks(0, fusion), self._ranks(1, fusion))

    def ranks_without_search(self) -> Ranks:
        """Return the rank of every target among the same candidates by their dense scores alone."""
        ranked = [np.where(np.isfinite(self.log_prob[at]), self.dense[at], -np.inf) for at in range(2)]
        orders = [np.argsort(-scores, axis=1, kind="stable") for scores in ranked]
        first, second = (_rank_of(self.is_target[at], order) for at, order in enumerate(orders))
        return Ranks(first, second)

    def corrections_by(self, ranker: Ranker, users: Int64Array | None = None) -> npt.NDArray[np.float32]:
        """Return what a ranker corrects for some users, by default all n of them: ``[2, n, C]``."""
        users = np.arange(self.dense.shape[1]) if users is None else users
        parts = [
            ranker.corrections(self.features[:, users[start : start + RANKED_AT_ONCE]])
            for start in range(0, len(users), RANKED_AT_ONCE)
        ]
        return np.concatenate(parts, axis=1) if parts else self.dense[:, :0]

    def corrected(self, corrections: npt.NDArray[np.float32]) -> SearchResults:
        """Return the same results with corrections ``[2, n, C]`` added to the dense scores, without the features."""
        return replace(self, dense=self.dense + corrections, features=self.features[:, :0])

    def fit(self) -> Fusion:
        """Return the fusion with the best NDCG@10 (first protocol); ties go to smaller weights, beams alone first."""
        fused = (
            Fusion(weight=weight, candidates=self.dense_candidates, neighbours=self.neighbours_weight)
            for weight in WEIGHTS
        )
        fusions = [GENERATIVE_ALONE, *fused]
        values = [ndcg(self._ranks(0, fusion), FIT_CUTOFF) for fusion in fusions]
        return fusions[int(np.argmax(values))]  # argmax returns the first of equal values

    def top_items(self, fusion: Fusion, k: int) -> Int32Array:
        """Return the first k fused answers of the listed users, [m, k], items of the history left out; -1: none."""
        order = self._order(1, fusion, self.listed)
        return np.take_along_axis(self.items[:, self._places(fusion)], order[:, :k], axis=1)

    def _ranks(self, protocol: int, fusion: Fusion) -> Int64Array:
        order = self._order(protocol, fusion, slice(None))
        return _rank_of(self.is_target[protocol, :, self._places(fusion)], order)

    def _order(self, protocol: int, fusion: Fusion, users: Int64Array | slice) -> Int64Array:
        """Return the positions of the answers of some users, best first."""
        places = self._places(fusion)
        return ranking(self.log_prob[protocol, users, places], self.dense[protocol, users, places], fusion.weight)

    def _places(self, fusion: Fusion) -> slice:
        return slice(None) if fusion.weight else slice(self.beam_width)


@dataclass(frozen=True)
class SearchedModel:
    """A model and the width of its search: all that answers depend on but the users.

    Attributes:
        recommender: The recommender.
        codes: Semantic IDs of all items, ``[items, L]``.
        beam_width: W; without dense candidates, ranks of W and more are not seen.
        vectors: Item vectors of unit length, ``[items, d_s]``, for dense scores and recommenders that read vectors.
        candidates: Number of dense candidates beside the beams.
        neighbours: The neighbours of all items, if they are part of dense scores.
        neighbours_weight: Their weight.
        ranker: Corrects the dense scores, if given; this needs vectors.
        scores_all: Whether dense candidates come from all items; default: what is done with so many items.
        resemblances: What the last items resemble, if they came after training.
    """

    recommender: Recommender
    codes: npt.NDArray[np.int16]
    beam_width: int
    vectors: npt.NDArray[np.float32] | None = None
    candidates: int = 0
    neighbours: Neighbours | None = None
    neighbours_weight: float = 0.0
    ranker: Ranker | None = None
    scores_all: bool | None = None
    resemblances: Resemblances | None = None


def search_split(
    model: SearchedModel,
    split: Split,
    seen_excluded: bool = True,
    listed: Int64Array | None = None,
    features: CandidateFeatures | None = None,
) -> SearchResults:
    """Search for every user of a split; the recommender is in evaluation mode afterwards.

    A hit means the same item, not just the same code tuple. The target is not excluded even if its user had it before.

    Args:
        model: The model that is searched.
        split: Histories and targets of n users; without any there may be no items either.
        seen_excluded: Whether to search under the second protocol too; if not, it repeats the first.
        listed: Ascending positions of the users whose answers are kept by item; none if not given.
        features: Computes what a ranker reads of all candidates, if that is wanted; this needs vectors.
    """
    model.recommender.eval()
    listed = np.empty(0, np.int64) if listed is None else listed
    found = _no_results(model, len(split.targets), listed, reads_features=features is not None)
    if not len(split.targets):
        return found  # there may be no item either, of which no trie could be built

    trie = Trie.build(model.codes, model.recommender.code_embedding.shape[1])
    search = BoundSearch(BeamSearch(model.recommender), trie, model.vectors, model.scores_all)
    for rows in users_by_length(split):
        targets = split.targets[rows]
        for protocol, inputs in enumerate(_inputs(model, split, rows, trie, seen_excluded)):
            outputs = search(inputs)
            places = slice(protocol, protocol + 1 if seen_excluded else 2), rows
            if features is not None and model.vectors is not None:
                found.features[places] = features.of(inputs, outputs, trie, model.vectors, model.resemblances)

            outputs = corrected(model.ranker, inputs, outputs, trie, model.vectors, model.resemblances)
            found.is_target[places] = outputs.leaves == trie.item_leaf[targets][:, None]
            found.log_prob[places] = outputs.log_prob
            found.dense[places] = outputs.dense

        # The last outputs are those of the second protocol, or of the first if there is no other.
        is_listed = np.isin(rows, listed)
        leaves = outputs.leaves[is_listed]
        found.items[np.searchsorted(listed, rows[is_listed])] = np.where(leaves >= 0, trie.leaf_item[leaves], -1)
    return found


def _inputs(
    model: SearchedModel, split: Split, rows: Int64Array, trie: Trie, seen_excluded: bool
) -> Iterator[SearchInputs]:
    """Yield what is searched for some users of a split: under the first protocol, and the second if it is wanted."""
    histories = [split.histories[row] for row in rows]
    encoded = encode_histories(histories, trie.item_leaf, model.recommender.shape.max_history)
    weight = model.neighbours_weight
    added = (
        model.neighbours.additions(encoded, trie, weight, model.resemblances) if model.neighbours and weight else None
    )
    others = [np.unique(seen[seen != target]) for seen, target in zip(histories, split.targets[rows], strict=True)]
    for excluded in ((), others) if seen_excluded else ((),):
        yield search_inputs(
            encoded, trie, model.beam_width, excluded_items=excluded, candidates=model.candidates, additions=added
        )


def _no_results(model: SearchedModel, users: int, listed: Int64Array, reads_features: bool) -> SearchResults:
    """Return results of n users that are to be filled in."""
    shape = (2, users, model.beam_width + model.candidates)
    log_prob, dense = np.zeros((2, *shape), dtype=np.float32)
    items = np.full((len(listed), shape[2]), -1, np.int32)
    features = np.zeros((*shape, len(FEATURES)) if reads_features else (0, 0, 0, 0), dtype=np.float32)
    is_target = np.empty(shape, np.bool_)
    return SearchResults(is_target, log_prob, dense, model.beam_width, model.neighbours_weight, listed, items, features)


def users_by_length(split: Split) -> Iterator[Int64Array]:
    """Return the positions of a split's users in parts of :data:`USERS_AT_ONCE`, sorted by length of the history."""
    order = np.argsort([len(history) for history in split.histories], kind="stable")
    for start in range(0, len(order), USERS_AT_ONCE):
        yield order[start : start + USERS_AT_ONCE]


def _rank_of(is_target: npt.NDArray[np.bool_], order: Int64Array) -> Int64Array:
    """Return the rank of the target ``[n]`` among candidates ``[n, C]`` in this order; -1 where it is none of them."""
    hit = np.take_along_axis(is_target, order, axis=1)
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)


def generative_ranks(
    recommender: Recommender,
    codes: npt.NDArray[np.int16],
    split: Split,
    beam_width: int,
    vectors: npt.NDArray[np.float32] | None = None,
    seen_excluded: bool = True,
) -> Ranks:
    """Return the rank of every target among the answers of the beam search alone; see :func:`search_split`."""
    model = SearchedModel(recommender, codes, beam_width, vectors)
    return search_split(model, split, seen_excluded).ranks()


def sample_split(split: Split, most: int, seed: int) -> Split:
    """Draw at most ``most`` users of a split, the same ones for the same ``seed``."""
    if len(split.targets) <= most:
        return split
    rows: Sequence[int] = np.sort(np.random.default_rng(seed).choice(len(split.targets), most, replace=False)).tolist()
    return Split([split.histories[row] for row in rows], split.targets[rows], split.users[rows])
