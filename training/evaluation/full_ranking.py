"""Full ranking by the served search: where its answers place the held-out item, under both protocols.

One search gives every answer: beams alone (generative), and beams joined by dense candidates under any fusion weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.network.bound_search import BoundSearch
from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.search.fusion import GENERATIVE_ALONE, Fusion, ranking
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import search_inputs
from model_store.search.transitions import Transitions, newest_items
from model_store.semantic_ids.trie import Trie
from training.data.dataset import Split
from training.evaluation.metrics import Ranks, ndcg

Int64Array = npt.NDArray[np.int64]

USERS_AT_ONCE = 128
"""Histories searched together; neighbours in length, so that little is padded."""

WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Fusion weights that are tried besides 0. Cosines lie in -1 … 1 and were trained under a temperature of about 0.07,
so 1 / 0.07 is where a nat of the search and a nat of the dense head weigh the same."""

TRANSITIONS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2)
"""Weights of the transition score tried with each of them; it is in nats, which are about 0.07 in a cosine."""

FIT_CUTOFF = 10


@dataclass(frozen=True)
class SearchResults:
    """What the search found for n users, C = W + candidates places each, under both protocols in the first axis."""

    is_target: npt.NDArray[np.bool_]  # [2, n, C]
    log_prob: npt.NDArray[np.float32]  # [2, n, C]
    dense: npt.NDArray[np.float32]  # [2, n, C], cosines
    transition: npt.NDArray[np.float32]  # [2, n, C], see model_store.search.transitions
    beam_width: int

    @property
    def joined(self) -> int:
        """Dense candidates that joined the beams of each user."""
        return self.log_prob.shape[2] - self.beam_width

    def ranks(self, fusion: Fusion = GENERATIVE_ALONE) -> Ranks:
        """Rank of every target among the answers under a fusion; with weight 0 the beams alone are the answers."""
        return Ranks(self._ranks(0, fusion), self._ranks(1, fusion))

    def fit(self) -> Fusion:
        """The fusion with the best NDCG@10 (first protocol); ties go to smaller weights, generative alone first."""
        remembers = self.transition.any()
        tried = [
            GENERATIVE_ALONE,
            *(
                Fusion(weight=weight, candidates=self.joined, transitions=share)
                for weight in WEIGHTS
                for share in (TRANSITIONS if remembers else (0.0,))
            ),
        ]
        found = [ndcg(self._ranks(0, fusion), FIT_CUTOFF) for fusion in tried]
        return tried[int(np.argmax(found))]  # the first of the best

    def _ranks(self, protocol: int, fusion: Fusion) -> Int64Array:
        places = slice(None) if fusion.weight else slice(self.beam_width)
        dense = self.dense[protocol, :, places]
        if fusion.transitions:
            dense = dense + np.float32(fusion.transitions) * self.transition[protocol, :, places]
        order = ranking(self.log_prob[protocol, :, places], dense, fusion.weight)
        hit = np.take_along_axis(self.is_target[protocol, :, places], order, axis=1)
        return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)


def search_split(
    recommender: Recommender,
    codes: npt.NDArray[np.int16],
    split: Split,
    beam_width: int,
    vectors: npt.NDArray[np.float32] | None = None,
    candidates: int = 0,
    seen_excluded: bool = True,
    transitions: Transitions | None = None,
) -> SearchResults:
    """Search for every user of a split.

    A hit is an item, never a code tuple. The target is not excluded even if its user had it before.

    Args:
        recommender: In evaluation mode afterwards.
        codes: Semantic IDs of all items, ``[items, L]``.
        split: Histories and targets of n users.
        beam_width: W, also the longest rank that can be seen without dense candidates.
        vectors: Unit length, ``[items, d_s]``, for dense scores and recommenders that read vectors.
        candidates: Dense candidates that join the beams.
        seen_excluded: Whether to search the second protocol too; if not, it repeats the first.
        transitions: Which items follow which; without it, all transition scores are 0.
    """
    trie = Trie.build(codes, recommender.code_embedding.shape[1])
    search = BoundSearch(BeamSearch(recommender.eval()), trie, vectors)
    shape = (2, len(split.targets), beam_width + candidates)
    log_prob, dense, transition = np.zeros((3, *shape), dtype=np.float32)
    found = SearchResults(np.empty(shape, np.bool_), log_prob, dense, transition, beam_width)
    order = np.argsort([len(history) for history in split.histories], kind="stable")
    for start in range(0, len(order), USERS_AT_ONCE):
        rows = order[start : start + USERS_AT_ONCE]
        histories, targets = [split.histories[row] for row in rows], split.targets[rows]
        encoded = encode_histories(histories, trie.item_leaf, recommender.shape.max_history)
        newest = newest_items(histories)
        others = [np.unique(seen[seen != target]) for seen, target in zip(histories, targets, strict=True)]
        for protocol, excluded in enumerate(((), others) if seen_excluded else ((),)):
            outputs = search(search_inputs(encoded, trie, beam_width, excluded_items=excluded, candidates=candidates))
            places = slice(protocol, protocol + 1 if seen_excluded else 2), rows
            found.is_target[places] = outputs.leaves == trie.item_leaf[targets][:, None]
            found.log_prob[places] = outputs.log_prob
            found.dense[places] = outputs.dense
            if transitions is not None:
                found.transition[places] = transitions.scores(newest, trie.leaf_item[outputs.leaves])
    return found


def generative_ranks(
    recommender: Recommender,
    codes: npt.NDArray[np.int16],
    split: Split,
    beam_width: int,
    vectors: npt.NDArray[np.float32] | None = None,
    seen_excluded: bool = True,
) -> Ranks:
    """Rank of every target among the items that the beam search alone answers; see :func:`search_split`."""
    return search_split(recommender, codes, split, beam_width, vectors, seen_excluded=seen_excluded).ranks()


def sample_split(split: Split, most: int, seed: int) -> Split:
    """At most ``most`` users of a split, drawn once and for all by ``seed``, for validation during training."""
    if len(split.targets) <= most:
        return split
    rows: Sequence[int] = np.sort(np.random.default_rng(seed).choice(len(split.targets), most, replace=False)).tolist()
    return Split([split.histories[row] for row in rows], split.targets[rows], split.users[rows])
