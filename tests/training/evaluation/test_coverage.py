from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.coverage import MAX_USERS, Coverage, head_share, measure_coverage, sample_users


def test_everyone_gets_the_same() -> None:
    answers = np.tile(np.arange(10), (7, 1))
    assert measure_coverage(answers, 200) == Coverage(7, 10, 200, 0.05, 1.0)


def test_everyone_gets_something_else() -> None:
    answers = np.arange(200).reshape(20, 10)
    assert measure_coverage(answers, 200) == Coverage(20, 200, 200, 1.0, 0.05)


def test_the_ten_most_frequent_items_count_whoever_they_are() -> None:
    # Items 0 … 9 twice each, items 10 … 29 once each.
    answers = np.concatenate([np.arange(10), np.arange(30)]).reshape(4, 10)[:, ::-1]
    found = measure_coverage(answers, 50)
    assert (found.recommended_items, found.catalogue_share) == (30, 0.6)
    assert found.top_share == pytest.approx(20 / 40)


def test_missing_answers_are_no_items() -> None:
    assert measure_coverage(np.array([[3, -1], [-1, -1]]), 5) == Coverage(2, 1, 5, 0.2, 1.0)
    assert measure_coverage(np.full((2, 3), -1), 5) == Coverage(2, 0, 5, 0.0, 0.0)


def test_all_users_or_a_sample_of_them() -> None:
    assert sample_users(MAX_USERS, 1).tolist() == list(range(MAX_USERS))
    sample = sample_users(MAX_USERS + 500, 1)
    assert len(set(sample.tolist())) == len(sample) == MAX_USERS
    assert (np.diff(sample) > 0).all()
    assert sample.max() >= MAX_USERS
    assert sample.tolist() == sample_users(MAX_USERS + 500, 1).tolist() != sample_users(MAX_USERS + 500, 2).tolist()


def test_the_head_is_a_share_of_all_items_and_missing_answers_do_not_count() -> None:
    popularity = np.arange(200)  # items 198 and 199 are the most popular 1 %
    answers = np.array([[199, 198, 5, -1], [199, 180, 7, -1]])
    assert head_share(answers, popularity, 0.01) == pytest.approx(3 / 6)
    assert head_share(answers, popularity, 0.1) == pytest.approx(4 / 6)
    assert head_share(answers, popularity, 0.0) == pytest.approx(2 / 6), "one item at least"
    assert head_share(np.full((2, 3), -1), popularity, 0.1) == 0
