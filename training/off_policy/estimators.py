"""Estimates of what another policy would have earned, from answers that were partly left to chance.

Every shown item counts with its importance weight, the probability with which the other policy shows it in this slot
over the one with which it was shown. A reward may depend on the user, the item and the slot, but not on the items in
other slots; S. Li et al.: Offline evaluation of ranking policies with click models, KDD 2018, calls this the
item-position model. Two estimates of the reward an answer, each the sum over its slots:

    SNIPS          sum of weight * reward / sum of weight                  (A. Swaminathan, T. Joachims, NeurIPS 2015)
    doubly robust  mean of expected(other policy) + weight * (reward - expected(shown item))    (M. Dudik et al., 2011)

The second one is right if either the probabilities or the expected rewards are, and varies less. Users are independent
of each other, their answers are not, so standard errors are of sums by user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.errors import DataError

CONFIDENCE_Z = 1.959964
"""Quantile of the normal distribution for 95 % intervals."""

FEWEST_EFFECTIVE = 100.0
"""Smallest effective number of answers of a slot with which estimates are given."""

SUPPORT = 0.95
"""Smallest share of what the other policy shows that could have been shown."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ShownItems:
    """Items that were shown, one row each, with what both policies make of them. All columns are ``[n]``.

    Attributes:
        subject: Number of the user or session.
        slot: Slot of the answer, from 0.
        shown: Probability with which this item was shown in this slot.
        other: Probability with which the other policy shows it there.
        reward: What came of it, such as 1 for a click.
        expected: Reward that a model expects of this item in this slot.
        expected_other: Reward that the model expects in this slot from the other policy, over all items that it shows.
    """

    subject: Ints
    slot: Ints
    shown: Floats
    other: Floats
    reward: Floats
    expected: Floats
    expected_other: Floats


class Estimate(NamedTuple):
    """An estimated reward an answer, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """What an evaluation says.

    Attributes:
        answers: Number of answers.
        logged: Reward an answer as it was.
        snips: The same of the other policy, by self-normalised weights.
        doubly_robust: The same, corrected by a model of rewards.
        effective: Effective number of answers, of the slot that has least: as many of equal weight say as much.
        support: Estimated share of what the other policy shows that could have been shown, of the slot with least.
    """

    answers: int
    logged: Estimate
    snips: Estimate
    doubly_robust: Estimate
    effective: float
    support: float


def compare(rows: ShownItems) -> Comparison:
    """Estimate what the other policy would have earned.

    Raises:
        DataError: The logged answers say too little about the other policy; the message says how much is missing.
    """
    if not len(rows.slot):
        raise DataError("no shown item has a known probability", "answers need `exploration`, and impressions events")
    if not (rows.shown > 0).all():
        raise DataError(
            "an item was shown with the probability 0", "the tokens of these events contradict their answers"
        )

    weight = rows.other / rows.shown
    slots = [np.flatnonzero(rows.slot == slot) for slot in np.unique(rows.slot)]
    effective = min(_effective(weight[at]) for at in slots)
    support = min(_upper_mean(weight[at], rows.subject[at]) for at in slots)
    _check_support(effective, support)

    people = int(rows.subject.max()) + 1
    return Comparison(
        answers=max(len(at) for at in slots),
        logged=_sum_of_means([(rows.reward[at], np.ones(len(at)), rows.subject[at]) for at in slots], people),
        snips=_sum_of_means([(weight[at] * rows.reward[at], weight[at], rows.subject[at]) for at in slots], people),
        doubly_robust=_sum_of_means(
            [
                (
                    rows.expected_other[at] + weight[at] * (rows.reward[at] - rows.expected[at]),
                    np.ones(len(at)),
                    rows.subject[at],
                )
                for at in slots
            ],
            people,
        ),
        effective=effective,
        support=support,
    )


def _sum_of_means(slots: list[tuple[Floats, Floats, Ints]], people: int) -> Estimate:
    """Return the sum over slots of ``sum(numerator) / sum(denominator)``, with an interval from sums by subject.

    Args:
        slots: Numerator, denominator and subject of the rows of each slot.
        people: Number of subjects.
    """
    value = 0.0
    influence = np.zeros(people)  # of each subject on the value, by the delta method
    for numerator, denominator, subject in slots:
        total = denominator.sum()
        mean = float(numerator.sum() / total)
        value += mean
        influence += np.bincount(subject, (numerator - mean * denominator) / total, people)

    present = np.unique(np.concatenate([subject for _, _, subject in slots]))
    count = len(present)
    error = float(np.sqrt((influence[present] ** 2).sum() * count / max(1, count - 1)))
    return Estimate(value, value - CONFIDENCE_Z * error, value + CONFIDENCE_Z * error)


def _effective(weight: Floats) -> float:
    """Return the effective number of rows (L. Kish): that of rows of equal weight which vary as much."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def _upper_mean(weight: Floats, subject: Ints) -> float:
    """Return the upper end of the interval of the mean weight, which is 1 where everything could have been shown."""
    people = int(subject.max()) + 1
    return _sum_of_means([(weight, np.ones(len(weight)), subject)], people).high


def _check_support(effective: float, support: float) -> None:
    if effective < FEWEST_EFFECTIVE:
        raise DataError(
            f"the answers of a slot say as much as {effective:.0f} drawn by the other policy, "
            f"{FEWEST_EFFECTIVE:.0f} are needed",
            "collect more answers, or raise the temperature of `exploration`",
        )
    if support < SUPPORT:
        raise DataError(
            f"at most {support:.0%} of what the other policy shows could have been shown, {SUPPORT:.0%} are needed",
            "let chance fill more slots (`exploration`), or compare a policy that is more alike",
        )
