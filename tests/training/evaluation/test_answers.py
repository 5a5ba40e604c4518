"""Answers: what search results give, and how sure the search was of its first beams, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model_store.search.fusion import Fusion
from training.evaluation.answers import Answers
from training.evaluation.coverage import K
from training.evaluation.full_ranking import SearchResults

BEAMS = 12  # more than K, so that the last ones do not count
FUSION = Fusion(weight=1.0, candidates=1)


def results(first: float, target_at: list[int]) -> SearchResults:
    """Results of users whose first beam has a probability, the other beams 1 % each; one dense candidate each."""
    users, places = len(target_at), BEAMS + 1
    log_prob = np.full((2, users, places), math.log(0.01), dtype=np.float32)
    log_prob[:, :, 0] = math.log(first)
    is_target = np.zeros((2, users, places), dtype=np.bool_)
    is_target[:, np.arange(users), target_at] = True
    dense = np.zeros((2, users, places), dtype=np.float32)
    dense[:, :, -1] = 9  # the dense candidate comes first
    items = np.tile(np.arange(places, dtype=np.int32), (users, 1))
    return SearchResults(is_target, log_prob, dense, BEAMS, listed=np.arange(users), items=items)


def test_answers_are_ranked_by_the_fusion() -> None:
    found = Answers.of(results(0.5, [BEAMS, 0, 1]), FUSION)
    assert found.ranks.all_items.tolist() == found.ranks.seen_excluded.tolist()
    assert found.ranks.all_items[:2].tolist() == [0, 1]
    assert found.items.shape == (3, K)
    assert (found.items[:, :2] == [BEAMS, 0]).all()


def test_calibration_compares_the_probability_of_the_first_beams_with_hits_among_them() -> None:
    expected = 0.5 + (K - 1) * 0.01
    assert Answers.of(results(0.5, [0, 0, 0, 0]), FUSION).calibration == pytest.approx(1 - expected)
    assert Answers.of(results(0.5, [K - 1, BEAMS]), FUSION).calibration == pytest.approx(abs(expected - 0.5))
    # A beam after the first K is no hit, nor is a dense candidate.
    assert Answers.of(results(0.5, [K, BEAMS]), FUSION).calibration == pytest.approx(expected)


def test_without_users_nothing_is_said_of_calibration() -> None:
    found = Answers.of(results(0.5, []), FUSION)
    assert found.calibration is None
    assert not len(found.ranks.all_items)
