"""Population stability: its formula, its limit under chance, and the shifts that it must find."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.stability import FALSE_ALARMS, MATERIAL, Events, compare_shares

BINS = 12
SEEDS = 200


def events(rng: np.random.Generator, favourites: np.ndarray, mean: float, loyalty: float) -> Events:
    """Draw events of users who go to their favourite bin with this probability, and otherwise where all go."""
    everyone = np.arange(BINS, 0, -1) / np.arange(BINS, 0, -1).sum()
    users = np.repeat(np.arange(len(favourites)), rng.poisson(mean * rng.gamma(1.0, size=len(favourites))))
    is_loyal = rng.random(len(users)) < loyalty
    return Events(np.where(is_loyal, favourites[users], rng.choice(BINS, len(users), p=everyone)), users)


def two_windows(seed: int, loyalty: float) -> tuple[Events, Events]:
    """Draw many older and few newer events of the same users by the same process."""
    rng = np.random.default_rng(seed)
    favourites = rng.integers(0, BINS, 300)
    return events(rng, favourites, 20, loyalty), events(rng, favourites, 4, loyalty)


def test_the_index_is_that_of_the_formula() -> None:
    before = Events(np.repeat([0, 1], [300, 700]), np.arange(1000))
    since = Events(np.repeat([0, 1], [500, 500]), np.arange(1000))
    found = compare_shares(before, since)
    assert found is not None
    p, q = np.array([0.3, 0.7]), np.array([0.5, 0.5])
    assert found.psi == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=0.01)
    assert (found.largest, found.since) == (0, 0.5)
    assert found.before == pytest.approx(0.3, abs=0.001)
    assert found.limit == MATERIAL, "chance gives less than what matters"


def test_the_limit_of_independent_events_is_the_quantile_of_chance() -> None:
    rng = np.random.default_rng(0)
    before = Events(rng.integers(0, 10, 400), np.arange(400))
    since = Events(rng.integers(0, 10, 200), np.arange(200))
    found = compare_shares(before, since)
    assert found is not None
    assert found.limit == pytest.approx(27.88 * (1 / 400 + 1 / 200), rel=0.02)  # chi-squared, 9 degrees, 0.999


def test_events_of_one_user_count_for_less() -> None:
    before, since = two_windows(0, loyalty=0.9)
    clustered = compare_shares(before, since)
    independent = compare_shares(*(each._replace(users=np.arange(len(each.users))) for each in (before, since)))
    assert clustered is not None
    assert independent is not None
    assert clustered.psi == independent.psi
    assert clustered.limit > 2 * independent.limit


@pytest.mark.parametrize("loyalty", [0.0, 0.5, 0.9])
def test_the_same_process_raises_hardly_any_alarm(loyalty: float) -> None:
    """By chance alone at most one in a thousand, so of 200 comparisons two with a probability of 1.7 %."""
    found = [compare_shares(*two_windows(seed, loyalty)) for seed in range(SEEDS)]
    assert sum(each is None or each.is_shifted for each in found) <= 2 + SEEDS * FALSE_ALARMS


@pytest.mark.parametrize("loyalty", [0.0, 0.5])
def test_a_quarter_of_new_events_that_go_elsewhere_is_found(loyalty: float) -> None:
    for seed in range(50):
        before, since = two_windows(seed, loyalty)
        moved = np.random.default_rng(seed).random(len(since.bins)) < 0.25
        found = compare_shares(before, since._replace(bins=np.where(moved, BINS, since.bins)))
        assert found is not None
        assert found.is_shifted
        assert found.largest == BINS


def test_rare_bins_are_taken_together_and_too_few_events_are_not_compared() -> None:
    before = Events(np.concatenate([np.zeros(500), np.arange(1, 101)]).astype(np.int64), np.arange(600))
    since = Events(np.zeros(300, dtype=np.int64), np.arange(300))
    found = compare_shares(before, since)
    assert found is not None
    assert (found.largest, found.is_shifted) == (-1, True)

    few = Events(np.arange(9), np.arange(9))
    assert compare_shares(before, few) is None
    assert compare_shares(before, Events(np.empty(0, np.int64), np.empty(0, np.int64))) is None


def test_all_events_of_one_user_show_nothing() -> None:
    before = Events(np.repeat([0, 1], 500), np.arange(1000))
    since = Events(np.zeros(500, dtype=np.int64), np.zeros(500, dtype=np.int64))
    found = compare_shares(before, since)
    assert found is not None
    assert not found.is_shifted
