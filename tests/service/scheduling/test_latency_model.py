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
