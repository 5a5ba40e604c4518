"""Off-policy estimates in the simulated shop, many times: how often their intervals hold the truth.

Two policies rank the same candidates of each person by scores that know her tastes unlike well. One answers, with
chance in every slot; the other is estimated from these answers. What it would have earned is known, as the world is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.loop.world import Floats, Ints, World, examined
from model_store.search.exploration import slot_probabilities
from training.off_policy.estimators import ShownItems, compare

CANDIDATES = 12
SLOTS = 3
NOISE = 0.7
"""Deviation of the scores of both policies from what people like, in logits."""

MODEL_NOISE = 0.5
"""The same of the model of rewards, which so is wrong."""

MOST_ANSWERS = 3


@dataclass(frozen=True)
class Policies:
    """Both policies for every person, and what is known of the world.

    Attributes:
        logging: Scores of the policy that answers, in nats, ``[users, candidates]``.
        shown: Probability of each candidate in each slot under it, ``[users, candidates, slots]``.
        other: The same under the other policy.
        likes: Probability of a click once looked at, ``[users, candidates]``.
        expected: The same as the model of rewards has it, ``[users, candidates]``.
    """

    logging: Floats
    shown: Floats
    other: Floats
    likes: Floats
    expected: Floats

    @classmethod
    def make(cls, world: World, users: int, rng: np.random.Generator) -> Policies:
        """Draw candidates and policies of the first people of a world."""
        likes = np.stack([rng.choice(world.likes(user), CANDIDATES, replace=False) for user in range(users)])
        logits = np.log(likes / (1 - likes))
        logging = logits + rng.normal(0, NOISE, logits.shape)
        other = logits + rng.normal(0, NOISE, logits.shape)
        expected = 1 / (1 + np.exp(-(logits + rng.normal(0, MODEL_NOISE, logits.shape))))
        return cls(logging, _slots(logging), _slots(other), likes, expected)

    def truth(self) -> float:
        """Return the clicks an answer under the other policy, over all people alike."""
        return float(np.einsum("uij,ui,j->u", self.other, self.likes, examined(SLOTS)).mean())

    def log(self, people: int, rng: np.random.Generator) -> ShownItems:
        """Answer people, drawn from all, a few times each, and note what is clicked."""
        drawn = rng.integers(0, len(self.likes), people)
        answers = rng.integers(1, MOST_ANSWERS + 1, people)
        subject = np.repeat(np.arange(people), answers)
        who = drawn[subject]

        perturbed = self.logging[who] + rng.gumbel(size=(len(who), CANDIDATES))
        item: Ints = np.argsort(-perturbed, axis=1)[:, :SLOTS]
        slot = np.broadcast_to(np.arange(SLOTS), item.shape)
        looks = examined(SLOTS)
        row = who[:, None]
        clicked = rng.random(item.shape) < looks * self.likes[row, item]
        of_other = looks * np.einsum("ui,uij->uj", self.expected, self.other)[who]
        return ShownItems(
            subject=np.repeat(subject, SLOTS),
            slot=slot.ravel(),
            shown=self.shown[row, item, slot].ravel(),
            other=self.other[row, item, slot].ravel(),
            reward=clicked.astype(np.float64).ravel(),
            expected=(looks * self.expected[row, item]).ravel(),
            expected_other=of_other.ravel(),
        )


def coverage(world: World, draws: int, people: int, seed: int) -> dict[str, float]:
    """Return the share of draws whose interval holds the truth, by estimator.

    Args:
        world: People and items.
        draws: Number of logs.
        people: People in each log.
        seed: Source of all chance.
    """
    rng = np.random.default_rng(seed)
    policies = Policies.make(world, min(people, world.users), rng)
    truth = policies.truth()
    hits = {"snips": 0, "doubly_robust": 0}
    for _ in range(draws):
        found = compare(policies.log(people, rng))
        hits["snips"] += found.snips.low <= truth <= found.snips.high
        hits["doubly_robust"] += found.doubly_robust.low <= truth <= found.doubly_robust.high
    return {name: hit / draws for name, hit in hits.items()}


def _slots(scores: Floats) -> Floats:
    return np.stack([slot_probabilities(row, SLOTS) for row in scores])
