"""Bins of users and their shares, worked out by hand."""

import numpy as np
import pytest

from training.report.bins import bin_edges, bin_names, share_of, shares_by_bin


def test_a_share_has_the_standard_error_of_a_proportion() -> None:
    found = share_of(np.array([True, False, False, False]))
    assert (found.users, found.share) == (4, 0.25)
    assert found.error == pytest.approx((0.25 * 0.75 / 4) ** 0.5)


def test_every_bin_has_enough_users_and_together_they_have_all(rng: np.random.Generator) -> None:
    for fewest in (1, 30, 200):
        values = rng.zipf(1.6, 500).clip(max=10**6)
        edges = bin_edges(values, fewest)
        assert edges[0] == values.min()
        assert edges == sorted(set(edges))
        shares = shares_by_bin(values, values > 3, edges)
        assert sum(one.users for one in shares) == 500
        assert len(edges) == 1 or min(one.users for one in shares) >= fewest
        assert sum(one.users * one.share for one in shares) == pytest.approx(np.count_nonzero(values > 3))


def test_too_few_users_for_two_bins_are_in_one() -> None:
    assert bin_edges(np.array([0, 3, 700]), fewest=2) == [0]
    assert bin_edges(np.array([7]), fewest=1) == [7]


def test_bins_are_named_by_what_they_hold() -> None:
    assert bin_names([0, 1, 5], 9) == ["0", "1–4", "5–9"]
    assert bin_names([3], 3) == ["3"]
