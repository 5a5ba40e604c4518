"""Gate of retraining: it promotes a candidate, holds it back for a person to look at, or drops it.

A candidate is promoted if it is not worse than the incumbent. One that is better by more than models improve is held
back: then the answers of the evaluation have most likely reached the histories, and it would be no better in service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from model_store.errors import ConfigError

GATE_METRIC = "ndcg@10"
"""Metric by which candidate and incumbent are compared."""

Verdict = Literal["promote", "hold back", "drop"]


class Decision(NamedTuple):
    """The verdict on a candidate, and why, in the words of a sentence."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Gate:
    """Limits of a plausible gain. A gain is implausible if it exceeds both."""

    max_gain: float = 3.0
    """Most times the incumbent's NDCG@10 that a candidate may reach; 0: any gain is plausible."""
    plausible_gain: float = 0.1
    """Gain of NDCG@10 up to which any factor is plausible: first small models do improve by several times."""

    def __post_init__(self) -> None:
        if not (self.max_gain == 0 or self.max_gain >= 1):
            raise ConfigError(f"the largest gain is {self.max_gain:g}, it must be 1 or more", "0 accepts any gain")
        if not 0 <= self.plausible_gain <= 1:
            raise ConfigError(f"the plausible gain is {self.plausible_gain:g}, it must be from 0 to 1")

    def judge(self, candidate: Mapping[str, float], incumbent: Mapping[str, float]) -> Decision:
        """Judge a candidate.

        Args:
            candidate: Its test metrics.
            incumbent: Those of the incumbent on the same data; empty if there is none.
        """
        new = candidate[GATE_METRIC]
        if not incumbent:
            return Decision("promote", f"the first model, {GATE_METRIC} {new:.4f}")

        old = incumbent[GATE_METRIC]
        figures = f"{GATE_METRIC} {new:.4f} against {old:.4f}"
        if not new >= old:  # NaN is worse than anything
            return Decision("drop", f"the candidate is worse, {figures}")
        if self.max_gain and new > self.max_gain * old and new - old > self.plausible_gain:
            return Decision(
                "hold back",
                f"implausible gain, {figures}: more than {self.max_gain:g} times as good, "
                "as if answers of the evaluation were among the histories",
            )
        return Decision("promote", f"not worse, {figures}")
