"""Bootstrap intervals: those of the textbook, of paired differences, and of a single user."""

import numpy as np
import pytest

from training.evaluation.bootstrap import mean_interval


def test_the_interval_of_many_values_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 2_000, p=[0.7, 0.2, 0.1])
    low, high = mean_interval(values, seed=1)
    error = values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error)


def test_it_holds_the_mean_of_95_in_100_samples() -> None:
    rng = np.random.default_rng(2)
    intervals = [mean_interval(rng.binomial(1, 0.3, 300).astype(np.float64), seed) for seed in range(300)]
    held = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert 0.9 < held < 0.99


def test_draws_are_those_of_users_one_by_one() -> None:
    """The multinomial short cut against plain resampling."""
    values = np.array([0.0, 0.0, 0.0, 1.0, 0.63])
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, 5, (20_000, 5))].mean(axis=1)
    assert mean_interval(values, seed=0) == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.05)


def test_the_same_seed_gives_the_same_interval_and_one_user_has_no_spread() -> None:
    values = np.arange(9.0)
    assert mean_interval(values, 3) == mean_interval(values, 3)
    assert mean_interval(np.array([0.25]), 3) == (0.25, 0.25)
    with pytest.raises(ValueError, match="at least one user"):
        mean_interval(np.empty(0), 3)


def test_a_lower_confidence_gives_a_narrower_interval() -> None:
    values = np.random.default_rng(0).normal(size=2_000)
    error = values.std() / np.sqrt(len(values))
    low, high = mean_interval(values, seed=1, confidence=0.9)
    expected = (values.mean() - 1.645 * error, values.mean() + 1.645 * error)
    assert (low, high) == pytest.approx(expected, abs=0.1 * error)
