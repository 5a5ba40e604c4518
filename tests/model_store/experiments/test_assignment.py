"""Assignment by hash: stable, as large as designed, and independent where it should be."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.experiments.assignment import Traffic, choose_variant, is_included

SUBJECTS = [f"u{number}" for number in range(20_000)]


def share(chosen: list[bool]) -> float:
    return sum(chosen) / len(chosen)


def test_nobody_changes_sides() -> None:
    """These values are a promise: a release that changed them would mix up experiments that are running."""
    chosen = [choose_variant("blue", (0.5, 0.5), subject) for subject in SUBJECTS[:24]]
    assert "".join(map(str, chosen)) == "011011101100010101100010"
    inside = [is_included(Traffic("page", 0.0, 0.5), subject) for subject in SUBJECTS[:24]]
    assert "".join("01"[each] for each in inside) == "100001000110011001101101"


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.3, 0.5), (1.0,)])
def test_variants_are_as_large_as_designed(shares: tuple[float, ...]) -> None:
    chosen = np.array([choose_variant("blue", shares, subject) for subject in SUBJECTS])
    found = np.bincount(chosen, minlength=len(shares)) / len(SUBJECTS)
    np.testing.assert_allclose(found, shares, atol=0.015)


def test_experiments_of_one_layer_share_nobody() -> None:
    first, second = Traffic("page", 0.0, 0.3), Traffic("page", 0.3, 1.0)
    assert not first.overlaps(second)
    both = [(is_included(first, subject), is_included(second, subject)) for subject in SUBJECTS]
    assert all(a != b for a, b in both)
    assert share([a for a, _ in both]) == pytest.approx(0.3, abs=0.015)


def test_layers_experiments_and_variants_are_independent() -> None:
    rows = [
        [
            is_included(Traffic("page", 0.0, 0.5), subject),
            is_included(Traffic("mail", 0.0, 0.5), subject),
            choose_variant("page", (0.5, 0.5), subject) == 1,
            choose_variant("blue", (0.5, 0.5), subject) == 1,
        ]
        for subject in SUBJECTS
    ]
    correlation = np.corrcoef(np.array(rows, dtype=np.float64).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.03


@pytest.mark.parametrize(
    ("one", "other", "is_overlap"),
    [
        (Traffic("a", 0.0, 0.5), Traffic("a", 0.5, 1.0), False),
        (Traffic("a", 0.0, 0.5), Traffic("a", 0.49, 1.0), True),
        (Traffic("a", 0.0, 1.0), Traffic("a", 0.2, 0.3), True),
        (Traffic("a", 0.0, 1.0), Traffic("b", 0.0, 1.0), False),
    ],
)
def test_traffic_overlaps_in_one_layer_only(one: Traffic, other: Traffic, is_overlap: bool) -> None:
    assert one.overlaps(other) is is_overlap
    assert other.overlaps(one) is is_overlap


def test_shares_that_sum_up_to_a_rounding_error_less_leave_nobody_out() -> None:
    shares = (0.1,) * 10
    assert sum(shares) < 1.0
    assert {choose_variant("ten", shares, subject) for subject in SUBJECTS} == set(range(10))
