"""Beam survival: the number of leading codes of the target's semantic ID that the beam kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_store.network.bound_search import BoundSearch
from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import search_inputs
from model_store.semantic_ids.trie import Trie
from training.data.dataset import Split
from training.evaluation.full_ranking import USERS_AT_ONCE, sample_split
from training.joint.learner import Learner

Int64Array = npt.NDArray[np.int64]

MOST_USERS = 4000
"""Users in the sample: enough for a standard error of at most 0.8 % in any share."""


def sampled_codes_kept(learner: Learner, split: Split, seed: int) -> tuple[Int64Array, Int64Array]:
    """Return :func:`codes_kept` of at most :data:`MOST_USERS` users of a split, drawn by ``seed``.

    Returns:
        Their positions in the split, ascending, and codes kept, ``[m]`` each.
    """
    sample = sample_split(split, MOST_USERS, seed)
    users = np.searchsorted(split.users, sample.users)
    width = learner.model.beam_width
    return users, codes_kept(learner.recommender, learner.assignment.codes, learner.vectors, sample, width)


def codes_kept(
    recommender: Recommender,
    codes: npt.NDArray[np.int16],
    vectors: npt.NDArray[np.float32],
    split: Split,
    beam_width: int,
) -> Int64Array:
    """Count the leading codes of each target that were in the beam after the step that chose them, ``[users]``.

    The count is L for a target that was answered. Items of the history may be answers.

    Args:
        recommender: The recommender; it is in evaluation mode afterwards.
        codes: Semantic IDs of all items, ``[items, L]``.
        vectors: Vectors of all items, unit length, ``[items, d_s]``.
        split: Histories and targets.
        beam_width: W of the search.
    """
    trie = Trie.build(codes, recommender.code_embedding.shape[1])
    search = BoundSearch(BeamSearch(recommender.eval()), trie, vectors)
    path = trie.leaf_nodes[trie.item_leaf[split.targets]]  # [users, L]
    kept = np.zeros(len(split.targets), dtype=np.int64)

    order = np.argsort([len(history) for history in split.histories], kind="stable")
    for start in range(0, len(order), USERS_AT_ONCE):
        users = order[start : start + USERS_AT_ONCE]
        histories = [split.histories[user] for user in users]
        encoded = encode_histories(histories, trie.item_leaf, recommender.shape.max_history)
        for level, nodes in enumerate(search.trace(search_inputs(encoded, trie, beam_width))):
            kept[users] += (nodes == path[users, level, None]).any(axis=1)

    return kept
