"""Metrics against hand-made numbers and a brute-force ranking."""

import math
import statistics

import numpy as np
import pytest

from training.data.dataset import Split
from training.evaluation.metrics import (
    Ranks,
    both_protocols,
    ndcg,
    ndcg_difference,
    popularity_ranks,
    rank_of_target,
    recall,
    summary,
)

RANKS = np.array([0, 4, 5, 9, 10, -1])


def test_recall_counts_ranks_below_k_and_never_the_unfound() -> None:
    assert recall(RANKS, 5) == pytest.approx(2 / 6)
    assert recall(RANKS, 10) == pytest.approx(4 / 6)
    assert recall(RANKS, 1) == pytest.approx(1 / 6)
    assert recall(np.array([-1, -1]), 10) == 0.0


def test_ndcg_discounts_by_rank() -> None:
    gains = [1 / math.log2(rank + 2) for rank in (0, 4, 5, 9)]
    assert ndcg(RANKS, 10) == pytest.approx(sum(gains) / 6)
    assert ndcg(RANKS, 5) == pytest.approx(sum(gains[:2]) / 6)
    assert ndcg(np.zeros(3, dtype=np.int64), 1) == 1.0
    assert ndcg(np.array([-1]), 10) == 0.0


def test_the_difference_of_the_same_users_has_the_error_of_pairs() -> None:
    others = np.array([1, 4, -1, 0, 3, 2])
    pairs = [
        (1 / math.log2(a + 2) if 0 <= a < 10 else 0.0) - (1 / math.log2(b + 2) if 0 <= b < 10 else 0.0)
        for a, b in zip(RANKS.tolist(), others.tolist(), strict=True)
    ]
    found = ndcg_difference(RANKS, others, 10)
    assert found.mean == pytest.approx(ndcg(RANKS, 10) - ndcg(others, 10))
    assert found.error == pytest.approx(statistics.stdev(pairs) / math.sqrt(6))
    assert ndcg_difference(RANKS, RANKS, 10) == (0.0, 0.0)
    assert ndcg_difference(RANKS[:1], others[:1], 10).error is None


def test_summary_names_every_metric() -> None:
    assert summary(RANKS) == {
        "recall@5": recall(RANKS, 5),
        "recall@10": recall(RANKS, 10),
        "ndcg@5": ndcg(RANKS, 5),
        "ndcg@10": ndcg(RANKS, 10),
    }
    both = Ranks(RANKS, np.zeros(6, dtype=np.int64)).summary()
    assert len(both) == 8
    assert both["ndcg@10_seen_excluded"] == 1.0
    assert both["ndcg@10"] == ndcg(RANKS, 10)


def test_undefined_metrics_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one rank"):
        recall(np.array([], dtype=np.int64), 5)
    with pytest.raises(ValueError, match="k of at least 1"):
        ndcg(RANKS, 0)
    with pytest.raises(ValueError, match="NaN"):
        rank_of_target(np.array([[0.0, math.nan]]), np.array([0]))


def test_no_targets_have_no_ranks_and_an_infinite_score_is_a_score() -> None:
    assert rank_of_target(np.empty((0, 3)), np.empty(0, dtype=np.int64)).tolist() == []
    assert rank_of_target(np.array([[-math.inf, 0.0]]), np.array([0])).tolist() == [1]
    with pytest.raises(ValueError, match="NaN"):
        rank_of_target(np.array([[1.0, 2.0], [math.nan, math.inf]]), np.array([0, 1]))


def test_ties_stand_before_the_target() -> None:
    scores = np.array([[1.0, 1.0, 1.0, 2.0, 0.0]])
    for target, rank in ((0, 3), (1, 3), (2, 3), (3, 0), (4, 4)):
        assert rank_of_target(scores, np.array([target])).tolist() == [rank]


def test_masked_items_leave_the_ranking_but_never_the_target() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0]])
    mask = np.array([[True, False, True, False]])
    assert rank_of_target(scores, np.array([2]), mask).tolist() == [1]
    assert rank_of_target(scores, np.array([3]), mask).tolist() == [1]
    everything = np.ones_like(mask)
    assert rank_of_target(scores, np.array([3]), everything).tolist() == [0]


def random_split(rng: np.random.Generator, users: int, n_items: int) -> Split:
    histories = [rng.integers(n_items, size=rng.integers(1, 12)).astype(np.int32) for _ in range(users)]
    return Split(histories, rng.integers(n_items, size=users).astype(np.int32), np.arange(users))


def brute_force_rank(scores: np.ndarray, target: int, removed: set[int]) -> int:
    others = [item for item in range(len(scores)) if item != target and item not in removed]
    ranking = sorted(others, key=lambda item: -scores[item])
    return sum(scores[item] >= scores[target] for item in ranking)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_a_brute_force_ranking(seed: int) -> None:
    rng = np.random.default_rng(seed)
    split = random_split(rng, users=30, n_items=17)
    scores = rng.integers(6, size=(30, 17)).astype(np.float32)  # few values: many ties
    ranks = both_protocols(scores, split)
    mask = np.array([np.isin(np.arange(17), history) for history in split.histories])
    masked = rank_of_target(scores, split.targets, mask)
    np.testing.assert_array_equal(ranks.seen_excluded, masked)
    for row in range(30):
        target, seen = int(split.targets[row]), set(split.histories[row].tolist())
        assert ranks.all_items[row] == brute_force_rank(scores[row], target, set())
        assert ranks.seen_excluded[row] == brute_force_rank(scores[row], target, seen)


@pytest.mark.parametrize("seed", range(5))
def test_popularity_equals_its_dense_ranking(seed: int) -> None:
    rng = np.random.default_rng(seed)
    split = random_split(rng, users=40, n_items=23)
    popularity = rng.integers(8, size=23)
    dense = both_protocols(np.tile(popularity.astype(np.float64), (40, 1)), split)
    ranks = popularity_ranks(popularity, split)
    np.testing.assert_array_equal(ranks.all_items, dense.all_items)
    np.testing.assert_array_equal(ranks.seen_excluded, dense.seen_excluded)


def test_targets_without_a_rank_of_their_own_count_as_missed() -> None:
    found = Ranks(np.array([0, 3]), np.array([1, -1])).spread_over(5, np.array([3, 1]))
    assert found.all_items.tolist() == [-1, 3, -1, 0, -1]
    assert found.seen_excluded.tolist() == [-1, -1, -1, 1, -1]
    assert found.all_items.dtype == np.int64
    assert recall(found.all_items, 10) == pytest.approx(2 / 5)
    assert ndcg(found.seen_excluded, 10) == pytest.approx(1 / math.log2(3) / 5)
