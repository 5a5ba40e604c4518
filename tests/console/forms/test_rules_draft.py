"""Drafts of rules: whatever is stored comes back as it was, and what cannot be read is named."""

from __future__ import annotations

from typing import Any

import pytest

from console.forms.rules_draft import (
    BoostDraft,
    DraftError,
    ExplorationDraft,
    Moment,
    PinDraft,
    RangeDraft,
    RulesDraft,
    SteerDraft,
)

DOCUMENTS: list[dict[str, Any]] = [
    {},
    {"k": 20},
    {"exclude_seen": True},
    {"exclude_seen": False},
    {"exclude_seen": []},
    {"exclude_seen": ["purchase", "cart"]},
    {"exclude_shown": {"answers": 3}},
    {"exclude_shown": {"answers": 3, "hours": 1.5}},
    {"filter": {"categories": ["a, b", "c"], "not": {"categories": ["Horror"]}, "deny": ["1"]}},
    {"filter": {"attributes": [{"field": "year", "gte": 1990}, {"field": "price", "gte": 1.5, "lte": 9}]}},
    {"filter": {"attributes": [{"field": "year", "gt": 1990}]}},
    {"filter": {"attributes": [{"field": "price", "lte": {"viewed": "price", "times": 1.2}}]}},
    {"filter": {"categories": {"viewed": True}, "categories_all": ["x"], "allow": ["1"]}},
    {"filter": {"not": {"categories": ["a"], "allow": ["7"]}}},
    {"filter": {"not": {"categories": {"viewed": True}}}},
    {"max_per_prefix": 4},
    {"max_per_prefix": {"1": 4, "2": 1}},
    {"max_per_prefix": {"2": 1, "3": 1}},
    {"boosts": [{"nats": 0.5, "categories": ["Animation"], "from": 1_800_000_017, "until": 1_900_000_000}]},
    {"boosts": [{"nats": -1, "items": ["1", "2"]}, {"nats": 2.0, "prefix": [3, 22]}]},
    {"boosts": [{"nats": 1, "attributes": [{"field": "year", "gte": 1997}]}]},
    {"boosts": [{"nats": 1, "attributes": [{"field": "a", "gte": 1}, {"field": "b", "lt": 2}]}]},
    {"pins": [{"position": 1, "item": "50"}]},
    {"steer": {"3-7": 0.5, "1": -2}},
    {"exploration": {"slots": 3}},
    {"exploration": {"share": 0.07, "temperature": 12.5}},
    {"exploration": None},
    {"k": 5, "of a later release": {"a": 1}},
    {"filter": None, "pins": None, "k": 5},
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_stored_rules_come_back_as_they_were(document: dict[str, Any]) -> None:
    assert RulesDraft.of(document).document() == document


def test_given_moments_are_utc_and_untouched_ones_keep_their_seconds() -> None:
    moment = Moment.of(1_800_000_017)
    assert moment.text == "2027-01-15T08:00"
    assert moment.value("begins") == 1_800_000_017
    moment.text = "2027-01-15T08:01"
    assert moment.value("begins") == 1_800_000_060
    moment.text = ""
    assert moment.value("begins") is None


@pytest.mark.parametrize(
    ("draft", "words"),
    [
        (RulesDraft(boosts=[BoostDraft()]), "Boost 1: name at least one"),
        (RulesDraft(boosts=[BoostDraft(), BoostDraft(None, names=["a"])]), "Boost 1"),
        (RulesDraft(boosts=[BoostDraft(None, names=["a"])]), "Boost 1: give the nats"),
        (RulesDraft(boosts=[BoostDraft(condition="prefix", prefix="3/4")]), "Boost 1: give codes"),
        (RulesDraft(boosts=[BoostDraft(names=["a"], begins=Moment("soon"))]), "Boost 1, begins: give a day"),
        (RulesDraft(pins=[PinDraft(1, "5"), PinDraft(2, " ")]), "Pin 2"),
        (RulesDraft(steer=[SteerDraft("")]), "Steered group 1: give codes"),
        (RulesDraft(exploration=ExplorationDraft("slots", percent=30)), "Left to chance: give how many"),
        (RulesDraft(exploration=ExplorationDraft("share", slots=3)), "Left to chance: give how many"),
        (RulesDraft(ranges=[RangeDraft("year")]), "Range 1: give at least one bound"),
        (RulesDraft(ranges=[RangeDraft("", 1)]), "Range 1: name the attribute"),
        (RulesDraft(other_filter="{"), "Further parts of the filter: not JSON"),
        (RulesDraft(other_filter="[]"), "Further parts of the filter: give parts by name"),
        (RulesDraft(categories=["a"], other_filter='{"categories": ["b"]}'), "categories has fields of its own"),
    ],
)
def test_what_cannot_be_read_is_named(draft: RulesDraft, words: str) -> None:
    with pytest.raises(DraftError) as caught:
        draft.document()
    assert words in str(caught.value)
