"""Full ranking by dense scores, against the reference, and against the search's own dense scores."""

import numpy as np
import pytest

from tests.support.random_worlds import (
    random_codes,
    random_neighbours,
    random_recommender,
    random_vectors,
    reference,
    small_config,
)
from training.data.dataset import Split
from training.evaluation import dense_ranking
from training.evaluation.dense_ranking import NEIGHBOURS_WEIGHTS, DenseHead
from training.evaluation.full_ranking import USERS_AT_ONCE, SearchedModel, search_split
from training.evaluation.metrics import both_protocols, ndcg

ITEMS = 60
CONFIG = small_config(2, 9)
CODES = random_codes(np.random.default_rng(1), CONFIG, ITEMS)
VECTORS = random_vectors(np.random.default_rng(2), CONFIG, ITEMS)
NEIGHBOURS = random_neighbours(np.random.default_rng(3), ITEMS)


def make_split(users: int) -> Split:
    rng = np.random.default_rng(4)
    histories = [rng.integers(0, ITEMS, rng.integers(1, 12)).astype(np.int32) for _ in range(users)]
    return Split(histories, rng.integers(0, ITEMS, users).astype(np.int32), np.arange(users))


def head() -> DenseHead:
    return DenseHead(random_recommender(CONFIG, 3), CODES, VECTORS, NEIGHBOURS)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_ranks_equal_the_references(weight: float) -> None:
    split = make_split(20)
    judge = reference(CONFIG, random_recommender(CONFIG, 3), CODES, VECTORS)
    scores = np.stack([judge.dense_scores(history) for history in split.histories])
    for user, history in enumerate(split.histories):
        newest = history[-CONFIG.recommender.max_history :]
        found = NEIGHBOURS.scores(newest[None], np.array([len(newest)]))
        scores[user, found.row] += weight * found.value
    expected = both_protocols(scores, split)
    ranks = head().ranks(split, weight)
    np.testing.assert_array_equal(ranks.all_items, expected.all_items)
    np.testing.assert_array_equal(ranks.seen_excluded, expected.seen_excluded)


def test_without_the_searchs_scores_the_answers_are_the_dense_ranking() -> None:
    split = make_split(USERS_AT_ONCE + 9)
    found = search_split(SearchedModel(random_recommender(CONFIG, 3), CODES, 8, VECTORS, 12, NEIGHBOURS, 0.3), split)
    answered = found.ranks_without_search()
    full = head().ranks(split, 0.3)
    for mine, theirs in zip(answered, full, strict=True):
        np.testing.assert_array_equal(np.where(mine < 12, mine, -1)[theirs < 12], theirs[theirs < 12])
        assert (theirs < 12).sum() > 20
        assert ((mine >= 12) | (mine < 0))[theirs >= 12].all()
    assert (found.ranks().all_items != answered.all_items).any()


def test_the_weight_that_ranks_validation_targets_best_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(60)
    values = [ndcg(head().ranks(split, weight).all_items, 10) for weight in NEIGHBOURS_WEIGHTS]
    fitted = head().fit_weight(split, seed=0)
    assert fitted == NEIGHBOURS_WEIGHTS[int(np.argmax(values))]

    # Targets that are neighbours of the newest item: their scores alone rank best, so the largest weight wins a tie.
    strongest = [NEIGHBOURS.scores(history[None], np.array([len(history)])) for history in split.histories]
    targets = [found.row[np.argmax(found.value)] if len(found.row) else 0 for found in strongest]
    easy = split._replace(targets=np.array(targets, dtype=np.int32))
    assert head().fit_weight(easy, seed=0) > 0.05

    monkeypatch.setattr(dense_ranking, "MOST_USERS", 5)
    assert head().fit_weight(easy, seed=0) in NEIGHBOURS_WEIGHTS
