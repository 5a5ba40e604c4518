"""One ranking of beams and dense candidates: by hand, by brute force, and under the limits of a request."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.search.fusion import (
    DENSE_ITEMS,
    TEMPERATURE,
    Fusion,
    best,
    boost_new_items,
    count_earlier,
    scores,
    scores_all_items,
)
from tests.support.search_reference import Candidate, fuse

LOG_PROB = np.array([-1.0, -2.0, -np.inf, -4.0, -np.inf, -3.5], dtype=np.float32)
DENSE = np.array([0.1, 0.2, 0.0, 0.9, 0.0, 0.3], dtype=np.float32)


@pytest.mark.parametrize(
    ("weight", "k", "expected"),
    [(0.0, 9, [0, 1, 5, 3]), (2.0, 9, [0, 1, 3, 5]), (4.0, 9, [3, 0, 1, 5]), (4.0, 2, [3, 0]), (2.0, 0, [])],
)
def test_the_weight_decides_between_both_scores(weight: float, k: int, expected: list[int]) -> None:
    assert best(LOG_PROB, DENSE, weight, k).tolist() == expected


@pytest.mark.parametrize(("boost", "expected"), [(0.0, [0, 1, 5, 3]), (2.6, [1, 0, 3, 5]), (-3.0, [0, 5, 1, 3])])
def test_fresh_items_are_raised_or_held_back_and_nothing_comes_of_nothing(boost: float, expected: list[int]) -> None:
    is_fresh = np.array([False, True, True, True, True, False])
    raised = boost_new_items(LOG_PROB, is_fresh, boost, 0.0)
    assert raised.dtype == np.float32
    assert best(raised, DENSE, 0.0, 9).tolist() == expected


@pytest.mark.parametrize("weight", [0.0, 8.0, 512.0])
def test_a_boost_is_worth_the_same_at_any_weight(weight: float) -> None:
    added = boost_new_items(LOG_PROB, np.ones(6, dtype=np.bool_), 0.5, weight)[0] - LOG_PROB[0]
    [a_nat_of_both] = scores(np.ones(1, dtype=np.float32), np.full(1, TEMPERATURE, dtype=np.float32), weight)
    assert added == pytest.approx(0.5 * a_nat_of_both, rel=1e-5)


def test_ties_keep_the_order_of_the_search() -> None:
    even = np.zeros(5, dtype=np.float32)
    assert best(even, even, 3.0, 5).tolist() == [0, 1, 2, 3, 4]


def test_where_there_is_no_candidate_there_is_no_answer_at_any_weight() -> None:
    nothing = np.full(4, -np.inf, dtype=np.float32)
    for weight in (0.0, 8.0):
        assert np.isneginf(scores(nothing, np.zeros(4, dtype=np.float32), weight)).all()
        assert not len(best(nothing, np.zeros(4, dtype=np.float32), weight, 4))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), weight=st.sampled_from([0.0, 0.5, 3.0]), most=st.integers(1, 4))
def test_answers_are_those_of_the_reference(seed: int, weight: float, most: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    log_prob, dense = rng.normal(-5, 2, count).astype(np.float32), rng.uniform(-1, 1, count).astype(np.float32)
    first_code = rng.integers(0, 6, count)
    kept = best(log_prob, dense, weight, 10, first_code, most)
    candidates = [Candidate(row, float(log_prob[row]), float(dense[row])) for row in range(count)]
    assert kept.tolist() == fuse(candidates, weight, 10, most, first_code.tolist())


def test_dense_candidates_never_cost_answers_of_the_beams() -> None:
    """Beams that keep the limit per first code fill the answer even if dense candidates of one code outrank them."""
    beams, joined = np.full(6, -1.0, dtype=np.float32), np.full(6, -9.0, dtype=np.float32)
    dense = np.append(np.zeros(6), np.ones(6)).astype(np.float32)
    first_code = np.array([0, 0, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0])
    kept = best(np.append(beams, joined), dense, 32.0, 6, first_code, 2)
    assert kept.tolist() == [6, 7, 2, 3, 4, 5]


def test_occurrences_are_counted_in_order() -> None:
    assert count_earlier(np.array([7, 3, 7, 7, 3])).tolist() == [0, 0, 1, 2, 1]
    assert count_earlier(np.empty(0, dtype=np.int64)).tolist() == []


def test_every_item_is_scored_up_to_a_limit() -> None:
    assert scores_all_items(DENSE_ITEMS)
    assert not scores_all_items(DENSE_ITEMS + 1)


@pytest.mark.parametrize("wrong", [{"weight": -0.1}, {"weight": float("inf")}, {"candidates": -1}, {"alpha": 1}])
def test_a_fusion_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Fusion.model_validate(wrong)
