"""Drafts of experiments: what is left out stays out, and what cannot be read is named."""

from __future__ import annotations

import pytest

from console.forms.experiment_draft import ExperimentDraft, VariantDraft
from console.forms.rules_draft import BoostDraft, DraftError, Moment, RulesDraft


def test_only_what_is_given_is_sent() -> None:
    draft = ExperimentDraft(variants=[VariantDraft("a", 33.3), VariantDraft("b", 66.7, RulesDraft(k=3))])
    assert draft.document() == {
        "goal": "purchase",
        "variants": [{"name": "a", "share": 0.333}, {"name": "b", "share": 0.667, "rules": {"k": 3}}],
    }


def test_a_variant_may_name_a_model() -> None:
    draft = ExperimentDraft(variants=[VariantDraft("now"), VariantDraft("next", model="candidate")])
    assert draft.document()["variants"] == [
        {"name": "now", "share": 0.5},
        {"name": "next", "share": 0.5, "model": "candidate"},
    ]


def test_everything_is_sent_in_the_units_of_the_api() -> None:
    draft = ExperimentDraft(
        description=" why ",
        goal="cart",
        starts=Moment("2027-01-15T08:00"),
        ends=Moment("2027-01-16T08:00"),
        layer="home",
        layer_from=25,
        layer_to=50,
    )
    document = draft.document()
    assert document["description"] == "why"
    assert (document["starts"], document["ends"]) == (1_800_000_000, 1_800_086_400)
    assert document["traffic"] == {"layer": "home", "start": 0.25, "end": 0.5}
    assert [each["share"] for each in document["variants"]] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("draft", "words"),
    [
        (ExperimentDraft(starts=Moment("soon")), "Starts: give a day"),
        (ExperimentDraft(variants=[VariantDraft("")]), "Variant 1: give a name"),
        (ExperimentDraft(variants=[VariantDraft("a", None)]), "Variant 1: give a name and a share"),
        (ExperimentDraft(variants=[VariantDraft("a", 50, RulesDraft(boosts=[BoostDraft()]))]), "Variant 1: Boost 1"),
    ],
)
def test_what_cannot_be_read_is_named(draft: ExperimentDraft, words: str) -> None:
    with pytest.raises(DraftError) as caught:
        draft.document()
    assert words in str(caught.value)
