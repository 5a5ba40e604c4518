"""Ranks by neighbour scores, against a full ranking of the written-out scores."""

import numpy as np

from tests.support.random_worlds import random_neighbours
from training.data.dataset import Split
from training.evaluation.metrics import both_protocols
from training.neighbours import ranks
from training.neighbours.ranks import neighbour_ranks

ITEMS = 40


def test_ranks_are_those_of_a_full_ranking_of_items_with_a_score() -> None:
    rng = np.random.default_rng(3)
    known = random_neighbours(rng, ITEMS)
    users = ranks.USERS_AT_ONCE + 30
    histories = [rng.integers(0, ITEMS, rng.integers(1, 9)).astype(np.int32) for _ in range(users)]
    split = Split(histories, rng.integers(0, ITEMS, users).astype(np.int32), np.arange(users))

    scores = np.zeros((users, ITEMS))
    for user, history in enumerate(histories):
        found = known.scores(history[None], np.array([len(history)]))
        scores[user, found.row] = found.value
    full = both_protocols(scores, split)
    is_scored = scores[np.arange(users), split.targets] > 0

    got = neighbour_ranks(known, split, max_history=50)
    for protocol in range(2):
        np.testing.assert_array_equal(got[protocol], np.where(is_scored, full[protocol], -1))
    assert 100 < is_scored.sum() < users - 100
    assert (got.seen_excluded < got.all_items).any()
