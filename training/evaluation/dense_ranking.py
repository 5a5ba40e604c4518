"""Full ranking by dense scores alone, and the weight of neighbours in them.

Dense scores need no search: a user's vector times all item vectors, what repeats add, and what neighbours add. So the
weight of neighbours is fitted here, before anything is searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.network.bound_search import BoundSearch
from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import search_inputs
from model_store.search.neighbours import Neighbours, NeighbourScores
from model_store.semantic_ids.trie import Trie
from training.data.dataset import Split
from training.evaluation.full_ranking import FIT_CUTOFF, sample_split, users_by_length
from training.evaluation.metrics import Ranks, both_protocols, ndcg, rank_of_target

Float32Array = npt.NDArray[np.float32]

NEIGHBOURS_WEIGHTS = (
    *(0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.011, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12),
    *(0.16, 0.25),
)
"""Weights of neighbour scores that are tried. Cosines lie in -1 … 1; the score of a strong neighbour is tens of
standard deviations."""

MOST_USERS = 4000
"""Validation users by which the weight is chosen, at most."""


@dataclass(frozen=True)
class _DenseScores:
    """Dense scores of B users, of which neighbours change only some hundreds each.

    Attributes:
        scores: ``[B, items]``, cosines plus repeats until :meth:`weighted` adds neighbours.
        neighbours: Their scores, S of them.
        without: Scores of the same S pairs without neighbours, ``[S]``.
    """

    scores: Float32Array
    neighbours: NeighbourScores
    without: Float32Array

    def weighted(self, weight: float) -> Float32Array:
        """Return the scores ``[B, items]`` with neighbours of this weight; the next call changes the same array."""
        added = np.float32(weight) * self.neighbours.value.astype(np.float32)
        self.scores[self.neighbours.owner, self.neighbours.row] = self.without + added
        return self.scores


class DenseHead:
    """Dense scores of all items, by the user vectors of a recommender.

    Args:
        recommender: The recommender; it is in evaluation mode afterwards.
        codes: Semantic IDs of all items, ``[items, L]``.
        vectors: Item vectors of unit length, ``[items, d_s]``.
        neighbours: The neighbours of all items.
    """

    def __init__(
        self,
        recommender: Recommender,
        codes: npt.NDArray[np.int16],
        vectors: Float32Array,
        neighbours: Neighbours,
    ) -> None:
        self._trie = Trie.build(codes, recommender.code_embedding.shape[1])
        self._search = BoundSearch(BeamSearch(recommender.eval()), self._trie, vectors)
        self._max_history = recommender.shape.max_history
        self._vectors = vectors
        self._neighbours = neighbours

    def ranks(self, split: Split, weight: float) -> Ranks:
        """Rank the targets of a split among all items, under both protocols; neighbours count with this weight."""
        found = np.empty((2, len(split.targets)), dtype=np.int64)
        for users in users_by_length(split):
            part = Split([split.histories[user] for user in users], split.targets[users], split.users[users])
            found[:, users] = both_protocols(self._scores(part.histories).weighted(weight), part)
        return Ranks(found[0], found[1])

    def fit_weight(self, valid: Split, seed: int) -> float:
        """Return the weight of neighbours with the best NDCG@10 (history items allowed); ties go to smaller ones.

        Args:
            valid: Validation users.
            seed: Draws at most :data:`MOST_USERS` of them.
        """
        sample = sample_split(valid, MOST_USERS, seed)
        ranks = np.empty((len(NEIGHBOURS_WEIGHTS), len(sample.targets)), dtype=np.int64)
        for users in users_by_length(sample):
            dense = self._scores([sample.histories[user] for user in users])
            for at, weight in enumerate(NEIGHBOURS_WEIGHTS):
                ranks[at, users] = rank_of_target(dense.weighted(weight), sample.targets[users])
        return NEIGHBOURS_WEIGHTS[int(np.argmax([ndcg(each, FIT_CUTOFF) for each in ranks]))]

    def _scores(self, histories: Sequence[npt.NDArray[np.int32]]) -> _DenseScores:
        encoded = encode_histories(histories, self._trie.item_leaf, self._max_history)
        rows = self._trie.leaf_item[encoded.leaves]
        users, repeats = self._search.dense_users(search_inputs(encoded, self._trie, beam_width=1))

        scores = users @ self._vectors.T
        np.add.at(scores, (np.arange(len(rows))[:, None], rows), repeats)
        found = self._neighbours.scores(rows, encoded.lengths)
        return _DenseScores(scores, found, scores[found.owner, found.row])
