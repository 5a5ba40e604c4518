"""Made-up figures of a candidate and of the live version, for what is decided about them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from training.retraining.figures import Comparison, Figures
from training.retraining.gate import GATE_METRIC
from training.retraining.replay import Replay

USERS = 500


def figures(ndcg: float, gains: npt.NDArray[np.float64] | None = None, **other: Any) -> Figures:
    """Return the figures of a model with this NDCG@10, which all users share unless their gains are given.

    The other metric points the other way: it must not decide.
    """
    usual = Figures(
        metrics={GATE_METRIC: ndcg, "recall@10": -ndcg},
        gains=np.full(USERS, ndcg) if gains is None else gains,
        coverage=0.6,
        heads=(0.1, 0.3),
        new_exposure=0.05,
        calibration=0.03,
        collision_rate=0.05,
        size=1_000_000,
        search_ms=4.0,
    )
    return replace(usual, **other)


def comparison(candidate: Figures | float, incumbent: Figures | float | None, **other: Any) -> Comparison:
    """Return a comparison of figures, or of models that differ by their NDCG@10 alone."""
    new, old = (figures(each) if isinstance(each, float) else each for each in (candidate, incumbent))
    assert new is not None
    usual = Comparison(candidate=new, incumbent=old, goldens=Replay(24), codes_moved=0.9, new_targets=100)
    return replace(usual, **other)
