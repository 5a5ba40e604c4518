"""Evaluation of another policy: logged answers and its own to the same histories, put together and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from model_store.attribution.fingerprints import fingerprints
from model_store.errors import DataError
from training.off_policy.estimators import Comparison, Estimate, ShownItems, compare
from training.off_policy.logged_answers import LoggedAnswer
from training.off_policy.other_policy import OtherAnswer
from training.off_policy.rewards import RewardModel

FOLDS = 2
"""Parts of the users: the rewards that are expected in one are learned from the others."""


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
        reward: Type of the events that count.
        users: Number of users.
        slots: Places of an answer that both policies fill.
        comparison: The estimates, per answer.
        left_out: What of the log was left out, by reason.
    """

    reward: str
    users: int
    slots: int
    comparison: Comparison
    left_out: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; rates are for each item shown."""
        found = self.comparison
        return {
            "event": self.reward,
            "answers": found.answers,
            "users": self.users,
            "slots": self.slots,
            "logged": self._rate(found.logged),
            "snips": self._rate(found.snips),
            "doubly_robust": self._rate(found.doubly_robust),
            "effective_answers": round(found.effective, 1),
            "support": round(min(1.0, found.support), 4),
            "left_out": dict(self.left_out),
        }

    def _rate(self, estimate: Estimate) -> dict[str, float]:
        return {name: round(value / self.slots, 6) for name, value in estimate._asdict().items()}


def evaluate(
    answers: Sequence[LoggedAnswer], others: Sequence[OtherAnswer], reward: str, left_out: Mapping[str, int]
) -> Evaluation:
    """Estimate what the other policy would have earned.

    Args:
        answers: Logged answers.
        others: The other policy's answers to the same histories, in the same order.
        reward: Type of the events that count.
        left_out: What of the log was left out, by reason.

    Raises:
        DataError: The logged answers say too little about the other policy.
    """
    slots = _shared_slots(answers, others)
    numbers = {user_id: number for number, user_id in enumerate(dict.fromkeys(each.user_id for each in answers))}
    models = [
        RewardModel([each for each in answers if numbers[each.user_id] % FOLDS != fold], slots) for fold in range(FOLDS)
    ]
    rows = [
        _rows(answer, other, numbers[answer.user_id], models[numbers[answer.user_id] % FOLDS], slots)
        for answer, other in zip(answers, others, strict=True)
    ]
    columns = {name: np.concatenate([getattr(each, name) for each in rows]) for name in ShownItems.__dataclass_fields__}
    return Evaluation(reward, len(numbers), slots, compare(ShownItems(**columns)), left_out)


def _shared_slots(answers: Sequence[LoggedAnswer], others: Sequence[OtherAnswer]) -> int:
    """Return how many places both policies fill."""
    logged = max((len(answer.token.items) for answer in answers), default=0)
    slots = min(logged, max((other.probabilities.shape[1] for other in others), default=0))
    if not slots:
        raise DataError("no answer of the log can be compared", "collect answers with `exploration` and impressions")
    return slots


def _rows(answer: LoggedAnswer, other: OtherAnswer, subject: int, model: RewardModel, slots: int) -> ShownItems:
    """Return the shown items of one answer."""
    token = answer.token
    assert token.propensities is not None
    count = min(slots, len(token.items))
    places = np.arange(count)

    probabilities = np.zeros((len(other.items), count))
    known = min(count, other.probabilities.shape[1])
    probabilities[:, :known] = other.probabilities[:, :known]
    expected = model.expect(other.items)[:, :count]

    # The token has no ids: the shown item is found among those that the other policy may show, if it is one of them.
    is_shown = fingerprints(other.items, token.answer_id)[:, None] == token.items[:count]
    return ShownItems(
        subject=np.full(count, subject),
        slot=places,
        shown=token.propensities[:count],
        other=(probabilities * is_shown).sum(axis=0),
        reward=np.array([float(place in answer.rewarded) for place in range(count)]),
        expected=(expected * is_shown).sum(axis=0),
        expected_other=(probabilities * expected).sum(axis=0),
    )
