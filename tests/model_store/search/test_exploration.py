"""Exploration: what is said of its probabilities is what happens."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.search.exploration import explore, slot_probabilities

Floats = npt.NDArray[np.float64]


def by_enumeration(logits: Floats, slots: int) -> Floats:
    """Probabilities from the product over slots of softmaxes over those who are left, summed over all orders."""
    rates = np.exp(logits - logits.max())
    found = np.zeros((len(rates), slots))
    for order in itertools.permutations(range(len(rates)), slots):
        left, probability = rates.sum(), 1.0
        for each in order:
            probability *= rates[each] / left
            left -= rates[each]
        for slot, each in enumerate(order):
            found[each, slot] += probability
    return found


@settings(deadline=None, max_examples=60)
@given(
    logits=st.lists(st.floats(-12, 12), min_size=1, max_size=6).map(np.array),
    slots=st.integers(1, 4),
)
def test_probabilities_are_those_of_all_orders_added_up(logits: Floats, slots: int) -> None:
    slots = min(slots, len(logits))
    np.testing.assert_allclose(slot_probabilities(logits, slots), by_enumeration(logits, slots), atol=1e-6)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0, 20.0])
def test_every_slot_holds_one_item_however_unlike_they_are(spread: float) -> None:
    logits = np.linspace(0, -spread, 60)
    found = slot_probabilities(logits, 10)
    np.testing.assert_allclose(found.sum(axis=0), 1.0, atol=1e-6)
    assert (found >= 0).all()
    assert (found.sum(axis=1) <= 1 + 1e-6).all(), "no item is in two slots"
    assert (np.diff(found[:, 0]) <= 1e-9).all(), "better items come first more often"


def test_what_is_drawn_has_these_probabilities() -> None:
    scores, rng, draws = np.array([3.0, 2.0, 1.8, 1.0, 0.5, -1.0]), np.random.default_rng(0), 20_000
    seen = np.zeros((6, 4))
    told = np.zeros((6, 4))
    for _ in range(draws):
        found = explore(scores, k=4, slots=3, temperature=0.7, rng=rng)
        assert len(set(found.order.tolist())) == 4
        seen[found.order, np.arange(4)] += 1
        told[found.order, np.arange(4)] = found.probability
    assert seen[0, 0] == draws, "the first slot is not for chance"
    assert told[0, 0] == 1.0
    happened = seen > 0
    error = 4 * np.sqrt(told * (1 - told) / draws) + 1e-9
    assert (np.abs(seen / draws - told)[happened] <= error[happened]).all()


@pytest.mark.parametrize(("k", "slots", "expected"), [(3, 0, [0, 1, 2]), (9, 0, [0, 1, 2, 3]), (0, 2, [])])
def test_without_slots_nothing_is_left_to_chance(k: int, slots: int, expected: list[int]) -> None:
    found = explore(np.array([4.0, 3.0, 2.0, 1.0]), k, slots, 1.0, np.random.default_rng(0))
    assert found.order.tolist() == expected
    assert found.probability.tolist() == [1.0] * len(expected)


def test_all_candidates_may_be_left_to_chance() -> None:
    found = explore(np.array([2.0, 1.0, 0.0]), 5, 5, 1.0, np.random.default_rng(1))
    assert sorted(found.order.tolist()) == [0, 1, 2]
    assert ((found.probability > 0) & (found.probability < 1)).all()


def test_a_low_temperature_keeps_the_order() -> None:
    found = explore(np.array([2.0, 1.0, 0.0]), 3, 3, 0.01, np.random.default_rng(2))
    assert found.order.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.probability, 1.0, atol=1e-6)
