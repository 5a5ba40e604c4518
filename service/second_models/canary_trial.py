"""Trial of a candidate on this replica: who is in it, how the requests went, and what that says."""

from __future__ import annotations

from math import isfinite
from typing import Literal

from model_store.attribution.experiment_counters import VariantAnswers
from model_store.attribution.names import hash_of, label_of
from model_store.attribution.token import subject_of
from model_store.bundle.aliases import Alias
from model_store.experiments.assignment import Assignment, Traffic, is_included
from model_store.experiments.canary import check_canary
from model_store.experiments.guardrails import SLOWER_AT_MOST, Guardrail
from model_store.experiments.report import Comparison

Lane = Literal["live", "candidate"]
LANES: tuple[Lane, Lane] = ("live", "candidate")
"""Models of a trial, by their variants in tokens and counters."""

_NAME = "canary"


class CanaryTrial:
    """One trial. Its figures are those of this replica since it began here.

    Args:
        alias: The candidate and its share.

    Attributes:
        here: How requests went on this replica, by lane.
        everywhere: How they went on all replicas; ``None`` until the store was asked.
        clicked: Comparison of the users and sessions who clicked; ``None`` until the store was asked.
    """

    def __init__(self, alias: Alias) -> None:
        self.alias = alias
        self.key = f"{_NAME}:{alias.key}"
        self.here: dict[Lane, VariantAnswers] = {lane: VariantAnswers() for lane in LANES}
        self.everywhere: dict[Lane, VariantAnswers] | None = None
        self.clicked: Comparison | None = None
        self._assignments = {lane: Assignment(_NAME, self.key, variant, lane) for variant, lane in enumerate(LANES)}
        # Not the key: with a larger share, who had the candidate keeps it.
        self._traffic = Traffic(f"{_NAME}:{alias.version}", 0.0, alias.share)

    @property
    def label(self) -> str:
        """Hash that stands for the trial in counters."""
        return label_of(hash_of(self.key))

    @property
    def shares(self) -> tuple[float, float]:
        """Share of each lane."""
        return 1 - self.alias.share, self.alias.share

    def lane_of(self, user_id: str | None, session_id: str | None) -> Lane | None:
        """Return who answers a user or session, always the same; ``None`` if nobody is named: they are not in it."""
        subject = subject_of(user_id, session_id)
        if not subject:
            return None
        return "candidate" if is_included(self._traffic, subject) else "live"

    def assignment(self, lane: Lane) -> Assignment:
        """Return what tokens and counters say of a lane: that of an experiment's variant."""
        return self._assignments[lane]


def judge(answers: dict[Lane, VariantAnswers]) -> list[Guardrail]:
    """Return the guardrails of a candidate."""
    live, candidate = (answers[lane] for lane in LANES)
    p99_ms = live.latency_ms(0.99)
    is_measured = p99_ms is not None and isfinite(p99_ms)
    slow = candidate.slower_than(SLOWER_AT_MOST * p99_ms) if p99_ms is not None and is_measured else 0
    return check_canary(live.health(), candidate.health(), slow)
