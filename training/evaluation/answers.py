"""Answers of a model to users whose next item is known: its rank, first answers, and how sure the search was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.search.fusion import Fusion
from training.evaluation.calibration import calibration_error
from training.evaluation.coverage import K
from training.evaluation.full_ranking import SearchResults
from training.evaluation.metrics import Ranks


@dataclass(frozen=True)
class Answers:
    """What n users would get, and the first K answers of m of them.

    Attributes:
        ranks: Rank of every target, ``[n]`` under each protocol.
        items: First answers without items of the history, ``[m, K]``; -1 where there is none.
        calibration: Expected calibration error of the search; ``None`` without users, or without beams.
    """

    ranks: Ranks
    items: npt.NDArray[np.integer]
    calibration: float | None

    @classmethod
    def of(cls, found: SearchResults, fusion: Fusion) -> Answers:
        """Return the answers that search results give."""
        return cls(found.ranks(fusion), found.top_items(fusion, K), _calibration(found))


def _calibration(found: SearchResults) -> float | None:
    """Compare the probability of the first K beams with how often the target is among them."""
    if not found.log_prob.shape[1]:
        return None
    width = min(K, found.beam_width)
    expected = np.exp(found.log_prob[0, :, :width].astype(np.float64)).sum(axis=1)
    hits = np.asarray(found.is_target[0, :, :width].any(axis=1), dtype=np.bool_)
    return calibration_error(expected, hits)
