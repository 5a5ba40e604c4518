"""Confidence sequences: they claim nothing where there is nothing, whoever looks whenever, and find what there is."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from model_store.experiments.confidence import (
    FEWEST_ACTIVE,
    FEWEST_SUBJECTS,
    Outcomes,
    difference,
    half_width,
    sample_ratio_p_value,
)

DAYS, A_DAY, EXPERIMENTS = 40, 250, 400


def summed(outcomes: npt.NDArray[np.float64]) -> Outcomes:
    return Outcomes(len(outcomes), int(np.count_nonzero(outcomes)), float(outcomes.sum()), float((outcomes**2).sum()))


def clicks(rng: np.random.Generator, users: int) -> npt.NDArray[np.float64]:
    return (rng.random(users) < 0.08).astype(np.float64)


def orders(rng: np.random.Generator, users: int) -> npt.NDArray[np.float64]:
    """Few buy at all, and the largest orders are a hundred times the usual one."""
    return np.where(rng.random(users) < 0.05, rng.lognormal(3.0, 1.0, users), 0.0)


@pytest.mark.parametrize("draw", [clicks, orders])
def test_variants_that_are_alike_are_hardly_ever_called_different_at_any_time(draw) -> None:  # type: ignore[no-untyped-def]
    """Looked at daily for 40 days; an interval of a fixed time would raise five times as many false alarms."""
    rng = np.random.default_rng(7)
    alarms, alarms_of_fixed = 0, 0
    for _ in range(EXPERIMENTS):
        one, other = draw(rng, DAYS * A_DAY), draw(rng, DAYS * A_DAY)
        looks = [(summed(one[: day * A_DAY]), summed(other[: day * A_DAY])) for day in range(1, DAYS + 1)]
        found = [difference(*look, (0.5, 0.5)) for look in looks]
        alarms += any(each is not None and each.excludes_zero for each in found)
        alarms_of_fixed += any(
            abs(b.mean - a.mean) > 1.96 * math.sqrt(a.variance / a.subjects + b.variance / b.subjects)
            for a, b in looks
            if a.is_enough and b.is_enough
        )
    assert alarms <= 0.05 * EXPERIMENTS
    assert alarms_of_fixed > 0.15 * EXPERIMENTS, "the test would notice"


def test_users_who_act_later_raise_no_alarms() -> None:
    """Outcomes of users who came on earlier days keep growing."""
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(EXPERIMENTS):
        totals = np.zeros((2, DAYS * A_DAY))
        alarmed = False
        for day in range(1, DAYS + 1):
            here = day * A_DAY
            totals[:, :here] += rng.poisson(0.02, (2, here))
            found = difference(summed(totals[0, :here]), summed(totals[1, :here]), (0.5, 0.5))
            alarmed |= found is not None and found.excludes_zero
        alarms += alarmed
    assert alarms <= 0.05 * EXPERIMENTS


def test_a_real_difference_is_found_and_covered() -> None:
    rng = np.random.default_rng(3)
    found_after, covered = [], 0
    for _ in range(100):
        control = (rng.random(DAYS * A_DAY) < 0.10).astype(np.float64)
        variant = (rng.random(DAYS * A_DAY) < 0.13).astype(np.float64)
        looks = [
            difference(summed(control[: day * A_DAY]), summed(variant[: day * A_DAY]), (0.5, 0.5))
            for day in range(1, DAYS + 1)
        ]
        known = [each for each in looks if each is not None]
        covered += all(each.low <= 0.03 <= each.high for each in known)
        found_after.append(next((day for day, each in enumerate(looks, 1) if each and each.low > 0), DAYS + 1))
    assert covered >= 95
    assert np.median(found_after) <= DAYS


def test_unequal_shares_are_weighed_as_designed() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        control, variant = clicks(rng, 9_000), clicks(rng, 1_000)
        found = difference(summed(control), summed(variant), (0.9, 0.1))
        assert found is not None
        covered += found.low <= 0 <= found.high
        equal = half_width(2 * 2 * 0.08 * 0.92, 10_000, 0.05)
        assert (found.high - found.low) / 2 > 1.3 * equal, "a small variant says less"
    assert covered >= 190


def test_widths_follow_the_formula() -> None:
    """Theorem 2.2 with n = 10,000, variance 4 and alpha = .05, computed by hand."""
    rho_squared = (5.991464547 + math.log(6.991464547)) / 10_000
    by_hand = 2 * math.sqrt(2 * (10_000 * rho_squared + 1) / (1e8 * rho_squared) * math.log(math.sqrt(8.93615) / 0.05))
    assert half_width(4.0, 10_000, 0.05) == pytest.approx(by_hand, rel=1e-5)
    widths = [half_width(1.0, count, 0.05) for count in (100, 1000, 10_000, 100_000, 10**8)]
    assert widths == sorted(widths, reverse=True)
    assert 1.3 < widths[2] / (1.96 / 100) < 1.8, "not much wider than an interval of a fixed time"


@pytest.mark.parametrize(
    ("subjects", "active", "is_given"),
    [
        (FEWEST_SUBJECTS, FEWEST_ACTIVE, True),
        (FEWEST_SUBJECTS - 1, FEWEST_ACTIVE, False),
        (FEWEST_SUBJECTS, FEWEST_ACTIVE - 1, False),
        (0, 0, False),
    ],
)
def test_of_few_users_no_interval_is_given(subjects: int, active: int, is_given: bool) -> None:
    many, few = Outcomes.of_yes_or_no(1000, 100), Outcomes.of_yes_or_no(subjects, active)
    assert (difference(many, few, (0.5, 0.5)) is not None) is is_given
    assert (difference(few, many, (0.5, 0.5)) is not None) is is_given


def test_a_broken_assignment_is_noticed_and_a_right_one_is_not() -> None:
    rng = np.random.default_rng(1)
    shares = (0.5, 0.3, 0.2)
    alarms = 0
    for _ in range(200):
        drawn = np.cumsum(rng.multinomial(100, shares, size=300), axis=0)
        alarms += any(sample_ratio_p_value(each.tolist(), shares) < 0.05 for each in drawn)
    assert alarms <= 10

    broken = rng.multinomial(50_000, (0.52, 0.29, 0.19))
    assert sample_ratio_p_value(broken.tolist(), shares) < 0.001
    assert sample_ratio_p_value([0, 0, 0], shares) == 1.0
    assert sample_ratio_p_value([10**9, 0, 0], shares) == 0.0
