"""Answers read from a log: which count, and what their users had done before."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from model_store.attribution.keys import AttributionKeys
from model_store.attribution.token import Answered, Chance, sign, subject_of
from model_store.events.history_entry import UserInteractions
from training.off_policy.logged_answers import (
    IMPLICIT,
    NO_IMPRESSION,
    OTHER_PLACEMENT,
    UNEXPLORED,
    UNKNOWN_ASKER,
    UNVERIFIED,
    HistoryEntry,
    histories_before,
    read_answers,
)
from training.off_policy.rewards import RewardModel

NOW = 1_760_000_000
KEYS = AttributionKeys.of([b"a secret of the shop"], "")
OTHERS = AttributionKeys.of([b"the secret of another"], "")


def token(*items: str, user: str = "u", keys: AttributionKeys = KEYS, explores: bool = True, **given: Any) -> str:
    chance = Chance(np.full(len(items), 0.5), b"chance") if explores else None
    fields = {"placement": "home", "is_implicit": False, **given}
    return sign(Answered(NOW, subject_of(user, None), "v", items, chance=chance, **fields), keys.signing)


def log(*events: tuple[str, str, str, int, str | None]) -> pl.DataFrame:
    """Make a log of user, item, type, time and token."""
    names = ("user_id", "item_id", "type", "timestamp", "attribution")
    return pl.DataFrame(
        [dict(zip(names, event, strict=True)) for event in events], schema_overrides={names[4]: pl.String}
    )


def test_an_answer_has_what_was_shown_and_clicked() -> None:
    shown = token("a", "b", "c")
    events = log(
        ("u", "a", "impression", NOW, shown),
        ("u", "c", "click", NOW, shown),
        ("u", "c", "click", NOW + 1, shown),
        ("u", "b", "purchase", NOW, shown),
        ("u", "other", "click", NOW, shown),
    )
    [answer], left_out = read_answers(events, KEYS, "home", "click")
    assert (answer.user_id, answer.items, answer.rewarded) == ("u", {0: "a", 1: "b", 2: "c"}, {2})
    assert left_out == {}


@pytest.mark.parametrize(
    ("given", "user", "kind", "reason"),
    [
        ({"explores": False}, "u", "impression", UNEXPLORED),
        ({"is_implicit": True}, "u", "impression", IMPLICIT),
        ({"placement": "cart"}, "u", "impression", OTHER_PLACEMENT),
        ({"keys": OTHERS}, "u", "impression", UNVERIFIED),
        ({}, "somebody else", "impression", UNKNOWN_ASKER),
        ({}, "u", "click", NO_IMPRESSION),
    ],
)
def test_what_cannot_be_used_is_counted_by_reason(given: dict[str, Any], user: str, kind: str, reason: str) -> None:
    text = token("a", "b", **given)
    events = log((user, "a", kind, NOW, text), (user, "b", "click", NOW, text))
    assert read_answers(events, KEYS, "home", "click") == ([], {reason: 1})


def test_histories_end_before_the_answer_and_count_nothing_twice() -> None:
    shown = token("a", "b")
    events = log(
        ("u", "x", "view", NOW - 20, None),
        ("u", "y", "impression", NOW - 10, None),
        ("v", "z", "view", NOW - 10, None),
        ("u", "y", "purchase", NOW - 5, None),
        ("u", "a", "impression", NOW, shown),
        ("u", "a", "click", NOW, shown),
    )
    [answer], _ = read_answers(events, KEYS, None, "click")
    earlier = [
        UserInteractions("u", ["w", "x", "later"], [0, NOW - 20, NOW + 5], "-vp"),
        UserInteractions("v", ["z"], [NOW - 30], "v"),
    ]
    whole = [HistoryEntry(0, "w", None), HistoryEntry(NOW - 20, "x", "view"), HistoryEntry(NOW - 5, "y", "purchase")]
    assert list(histories_before([answer], events, iter(earlier), 10)) == [whole]
    assert list(histories_before([answer], events, iter(earlier), 2)) == [whole[1:]]


def test_rewards_are_those_of_item_and_place() -> None:
    answers = []
    for number in range(400):
        text = token("good", "bad", user=f"u{number}") if number % 2 else token("bad", "good", user=f"u{number}")
        [answer], _ = read_answers(log((f"u{number}", "good", "impression", NOW, text)), KEYS, None, "click")
        answer.items = {0: "good", 1: "bad"} if number % 2 else {0: "bad", 1: "good"}
        answer.rewarded = {place for place, item in answer.items.items() if item == "good" and number % 4 < 2 + place}
        answers.append(answer)
    found = RewardModel(answers, 2).expect(["good", "bad", "new"])
    assert found[0, 0] > found[2, 0] > found[1, 0]
    assert found[2].tolist() == pytest.approx(
        [sum(0 in a.rewarded for a in answers) / 400, sum(1 in a.rewarded for a in answers) / 400]
    )
    assert RewardModel([], 2).expect(["good"]).tolist() == [[0.0, 0.0]]
