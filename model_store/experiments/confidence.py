"""Intervals and tests that stay valid although somebody looks at them every day and stops when they please.

An ordinary 95 % interval is wrong in 5 of 100 cases if it is looked at once, at a time that was fixed before. Looked at
daily, it is wrong at some time in far more. A *confidence sequence* covers the truth at all times together with 95 %.

Sources: I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy, A. Ramdas: Time-uniform central limit theory and
asymptotic confidence sequences, Annals of Statistics 52 (2024), Theorem 2.2 (mean) and Section 3 (treatment effects in
randomised experiments). M. Lindon, A. Malek: Anytime-valid inference for multinomial count data, NeurIPS 2022 (sample
ratio).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

PLANNED_SUBJECTS = 10_000
"""Number of users or sessions at which intervals are tightest. They hold at any number."""

FEWEST_SUBJECTS = 100
"""Users or sessions of a variant below which no interval is given: the theory is one of large numbers."""

FEWEST_ACTIVE = 10
"""Users or sessions of a variant who did something at all, likewise."""

CONCENTRATION = 1000.0
"""Weight of the expected shares in the alternative of the sample ratio test: it looks for deviations of a few percent,
which are those that a mistake in assigning or counting makes."""


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of one variant by user or session, summed up.

    Attributes:
        subjects: Users and sessions, each once.
        active: Those whose outcome is not 0.
        total: Sum of their outcomes.
        squares: Sum of the squares of their outcomes.
    """

    subjects: int
    active: int
    total: float
    squares: float

    @classmethod
    def of_yes_or_no(cls, subjects: int, active: int) -> Outcomes:
        """Return outcomes that are 1 for those who did something and 0 for the others."""
        return cls(subjects, active, float(active), float(active))

    @property
    def mean(self) -> float:
        """Mean outcome; NaN of nobody."""
        return self.total / self.subjects if self.subjects else math.nan

    @property
    def variance(self) -> float:
        """Variance of the outcome."""
        return max(0.0, self.squares / self.subjects - self.mean**2) if self.subjects else math.nan

    @property
    def is_enough(self) -> bool:
        """Whether an interval may be given."""
        return self.subjects >= FEWEST_SUBJECTS and self.active >= FEWEST_ACTIVE


class Interval(NamedTuple):
    """A difference of means, with the ends of its confidence sequence at this time."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether there is a difference, with the confidence that was asked for."""
        return self.low > 0 or self.high < 0


def half_width(variance: float, subjects: int, alpha: float, planned: int = PLANNED_SUBJECTS) -> float:
    """Return half the width of the asymptotic confidence sequence of a mean (Theorem 2.2).

    Args:
        variance: Of one observation.
        subjects: Number of observations so far.
        alpha: Probability that the truth is ever outside.
        planned: Number of observations at which the sequence is about tightest; rho is chosen for it.
    """
    rho_squared = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned
    grown = subjects * rho_squared + 1
    return math.sqrt(variance * 2 * grown / (subjects**2 * rho_squared) * math.log(math.sqrt(grown) / alpha))


def difference(
    control: Outcomes, variant: Outcomes, shares: tuple[float, float], alpha: float = 0.05
) -> Interval | None:
    """Return the mean outcome of a variant less that of the control, with its interval; ``None`` while too few are in.

    Each user's contribution to the estimate, her centred outcome over the share of her variant, has the variance
    ``control.variance / share + variant.variance / share`` (Section 3, without covariates), which gives the sequence
    of a mean over the users of both.

    Args:
        control: Outcomes of the control.
        variant: Outcomes of the variant.
        shares: Shares of the traffic that control and variant have by design.
        alpha: Probability that the true difference is ever outside of the interval.
    """
    if not (control.is_enough and variant.is_enough):
        return None

    of_both = sum(shares)
    variance = control.variance * of_both / shares[0] + variant.variance * of_both / shares[1]
    width = half_width(variance, control.subjects + variant.subjects, alpha)
    found = variant.mean - control.mean
    return Interval(found, found - width, found + width)


def sample_ratio_p_value(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Return the p-value, valid at all times, of the counts having been drawn with these shares.

    It is the inverse of a Bayes factor: multinomial with the given shares, against a Dirichlet around them. A small
    value says that the assignment or the counting is broken, and that no other figure of the experiment can be trusted.

    Args:
        counts: Users or sessions of each variant, ``[variants]``.
        shares: Designed share of each variant, ``[variants]``, with the sum 1.
    """
    prior = [CONCENTRATION * share for share in shares]
    log_factor = math.lgamma(CONCENTRATION) - math.lgamma(CONCENTRATION + sum(counts))
    for count, weight, share in zip(counts, prior, shares, strict=True):
        log_factor += math.lgamma(weight + count) - math.lgamma(weight) - count * math.log(share)
    return min(1.0, math.exp(min(0.0, -log_factor)))
