from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.calibration import calibration_error


def test_known_groups_have_the_error_that_their_means_give() -> None:
    # Two groups of 100: half of the first are hits where a tenth is expected, all of the second as expected.
    expected = np.concatenate([np.full(100, 0.1), np.full(100, 1.0)])
    hits = np.concatenate([np.arange(100) < 50, np.ones(100, dtype=np.bool_)])
    assert calibration_error(expected, hits) == pytest.approx(0.2)


def test_few_users_are_one_group() -> None:
    assert calibration_error(np.array([0.0, 1.0]), np.array([True, False])) == pytest.approx(0.0)


def test_probabilities_that_hold_have_a_small_error_and_others_a_large_one() -> None:
    rng = np.random.default_rng(0)
    expected = rng.random(20_000)
    hits = rng.random(20_000) < expected
    assert calibration_error(expected, hits) < 0.02
    assert calibration_error(expected**2, hits) == pytest.approx(1 / 2 - 1 / 3, abs=0.01)


def test_nobody_has_no_error() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        calibration_error(np.empty(0), np.empty(0, dtype=np.bool_))
