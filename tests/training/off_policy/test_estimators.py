"""Off-policy estimates in a world whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from model_store.errors import DataError
from model_store.search.exploration import slot_probabilities
from training.off_policy.estimators import Comparison, ShownItems, compare

Floats = npt.NDArray[np.float64]

ITEMS, SLOTS, TASTES = 12, 3, 5
EXAMINED = np.array([1.0, 0.7, 0.5])
"""Probability that a user looks at a slot."""


@dataclass(frozen=True)
class World:
    """Users of a few tastes, who click on what they like where they look; two policies rank by unlike scores."""

    likes: Floats  # [tastes, items], probability of a click once examined
    logging: Floats  # [tastes, items], scores of the policy that answered
    other: Floats  # [tastes, items], scores of the policy in question

    @classmethod
    def make(cls, rng: np.random.Generator, noise: float = 1.0) -> World:
        logit = rng.normal(-1.2, 1.0, (TASTES, ITEMS))
        likes = 1 / (1 + np.exp(-logit))
        return cls(likes, logit + noise * rng.normal(size=logit.shape), logit + 0.3 * rng.normal(size=logit.shape))

    def policy(self, scores: Floats) -> Floats:
        """Probability of each item in each slot, [tastes, items, slots]."""
        return np.stack([slot_probabilities(row, SLOTS) for row in scores])

    def truth(self) -> float:
        """Clicks an answer under the other policy."""
        return float(np.einsum("aij,ai,j->a", self.policy(self.other), self.likes, EXAMINED).mean())

    def log(self, rng: np.random.Generator, users: int, expects: Floats | None = None) -> ShownItems:
        """Answer every user once or more often, and note what is clicked.

        Args:
            rng: Chance.
            users: Users.
            expects: What a model expects of an item once examined, [tastes, items]; nothing if left out.
        """
        expects = np.zeros_like(self.likes) if expects is None else expects
        shown, others = self.policy(self.logging), self.policy(self.other)
        answers = rng.integers(1, 4, users)
        user = np.repeat(np.arange(users), answers)
        taste = rng.integers(TASTES, size=users)[user]
        mood = rng.normal(0, 0.05, users)[user, None]  # what the answers of one user have in common

        chance = rng.gumbel(size=(len(user), ITEMS))
        item = np.argsort(-(self.logging[taste] + chance), axis=1)[:, :SLOTS]
        slot = np.broadcast_to(np.arange(SLOTS), item.shape)
        who = taste[:, None]
        clicked = rng.random(item.shape) < EXAMINED * np.clip(self.likes[who, item] + mood, 0, 1)
        of_other = EXAMINED * np.einsum("ai,aij->aj", expects, others)[taste]
        return ShownItems(
            np.repeat(user, SLOTS),
            slot.ravel(),
            shown[who, item, slot].ravel(),
            others[who, item, slot].ravel(),
            clicked.astype(np.float64).ravel(),
            (EXAMINED * expects[who, item]).ravel(),
            of_other.ravel(),
        )


def width(found: Comparison, name: str) -> float:
    estimate = getattr(found, name)
    return float(estimate.high - estimate.low)


def test_95_percent_intervals_hold_the_truth_that_often() -> None:
    """Also with a model of rewards that is wrong: the probabilities make up for it."""
    rng = np.random.default_rng(2026)
    hits = {"snips": 0, "doubly_robust": 0}
    draws = 300
    for _ in range(draws):
        world = World.make(rng)
        truth = world.truth()
        wrong = np.clip(world.likes + rng.normal(0, 0.1, world.likes.shape), 0, 1)
        found = compare(world.log(rng, 1000, wrong))
        for name in hits:
            estimate = getattr(found, name)
            hits[name] += estimate.low <= truth <= estimate.high
    assert min(hits.values()) >= 0.93 * draws, hits


def test_a_right_model_makes_the_interval_narrower_and_the_estimate_stays() -> None:
    rng = np.random.default_rng(5)
    world = World.make(rng)
    with_model = compare(world.log(np.random.default_rng(1), 3000, world.likes))
    without = compare(world.log(np.random.default_rng(1), 3000))
    assert width(with_model, "doubly_robust") < 0.95 * width(without, "doubly_robust")
    assert with_model.doubly_robust.value == pytest.approx(world.truth(), abs=width(with_model, "doubly_robust"))


def test_the_same_policy_earns_what_was_earned() -> None:
    rng = np.random.default_rng(3)
    world = World.make(rng)
    found = compare(replace(world, other=world.logging).log(rng, 500))
    assert found.snips == pytest.approx(found.logged)
    assert found.support >= 0.999
    assert found.effective == found.answers


def test_answers_of_one_user_are_no_independent_witnesses() -> None:
    rows = World.make(np.random.default_rng(4)).log(np.random.default_rng(4), 400)
    found = compare(rows)
    as_if_strangers = compare(replace(rows, subject=np.arange(len(rows.subject))))
    assert found.snips.value == as_if_strangers.snips.value
    thrice = ShownItems(*(np.tile(getattr(rows, name), 3) for name in ShownItems.__dataclass_fields__))
    assert compare(thrice).snips == pytest.approx(found.snips, rel=1e-6), "repeating what users did says nothing new"


def test_a_policy_that_shows_what_could_not_be_shown_is_not_judged() -> None:
    rng = np.random.default_rng(6)
    rows = World.make(rng).log(rng, 500)
    with pytest.raises(DataError, match=r"at most \d+% of what the other policy shows could have been shown"):
        compare(replace(rows, other=rows.other * 0.5))


def test_few_answers_that_matter_are_not_judged() -> None:
    rng = np.random.default_rng(7)
    rows = World.make(rng, noise=4.0).log(rng, 60)
    with pytest.raises(DataError, match=r"say as much as \d+ drawn by the other policy, 100 are needed"):
        compare(rows)


def test_rows_that_cannot_be_are_refused() -> None:
    rows = World.make(np.random.default_rng(8)).log(np.random.default_rng(8), 50)
    with pytest.raises(DataError, match="with the probability 0"):
        compare(replace(rows, shown=np.zeros_like(rows.shown)))
    nothing = ShownItems(*(getattr(rows, name)[:0] for name in ShownItems.__dataclass_fields__))
    with pytest.raises(DataError, match="no shown item has a known probability"):
        compare(nothing)
