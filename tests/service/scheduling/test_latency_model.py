"""The fit of compute time by work."""

from __future__ import annotations

import numpy as np
import pytest

from service.scheduling.latency_model import LatencyModel


def test_the_model_learns_what_batches_take() -> None:
    model = LatencyModel()
    assert model.seconds(100) == 0
    model.learn(40, 0.4)
    assert model.seconds(80) == pytest.approx(0.8)  # one batch tells no overhead
    for work in (10, 20, 40, 80) * 20:
        model.learn(work, 0.1 + 0.01 * work)
    assert model.seconds(50) == pytest.approx(0.6, rel=0.01)
    assert model.seconds(100, 2) == pytest.approx(1.2, rel=0.01)
    for work in (10, 20, 40, 80) * 50:
        model.learn(work, 0.02 * work)  # the machine got busier: by work only
    assert model.seconds(50) == pytest.approx(1.0, rel=0.02)


def test_the_model_never_expects_less_for_more() -> None:
    random, model = np.random.default_rng(0), LatencyModel()
    for _ in range(200):
        model.learn(int(random.integers(10, 1000)), float(random.exponential(0.1)))
        assert 0 <= model.seconds(10) <= model.seconds(1000)


def learned(*batches: tuple[int, float]) -> LatencyModel:
    model = LatencyModel()
    for work, seconds in batches:
        model.learn(work, seconds)
    return model


def test_the_first_batches_are_fitted_by_plain_least_squares() -> None:
    work, seconds = [10, 20, 40, 50], [0.3, 0.35, 0.6, 0.62]
    slope, intercept = np.polyfit(work, seconds, 1)
    model = learned(*zip(work, seconds, strict=True))

    assert model.seconds(30) == pytest.approx(intercept + 30 * slope)
    assert model.seconds(30, 3) == pytest.approx(3 * intercept + 30 * slope)


def test_without_a_slope_time_is_proportional_to_work() -> None:
    assert learned((1, 5.0), (1, 5.0)).seconds(2) == pytest.approx(10.0)  # all alike
    flat = learned((8, 0.25), (16, 0.25))
    assert flat.seconds(8) == pytest.approx(0.15)  # sum of work times seconds over sum of squares of work
    falling = learned((10, 0.4), (20, 0.2))
    assert falling.seconds(10) == pytest.approx((10 * 0.4 + 20 * 0.2) / (100 + 400) * 10)
    nearly_alike = learned((1_000_000, 1.0), (1_000_001, 1.0000001))
    assert nearly_alike.seconds(2_000_000) == pytest.approx(2.0, rel=1e-3)  # their slope is rounding
