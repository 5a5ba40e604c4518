"""Sentences about why an item is not in an answer."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from etegrec_client.types import WhyNotResponse

from console.views.absence import verdict_of


def absence(verdict: str, **given: Any) -> Any:
    return {"verdict": verdict, "closed_by": None, "rank": None, "levels": [], **given}


VERDICTS = get_args(get_type_hints(WhyNotResponse)["verdict"])


@pytest.mark.parametrize("verdict", VERDICTS)
def test_there_is_a_sentence_for_every_verdict(verdict: str) -> None:
    assert verdict_of(absence(verdict)).endswith(".")


def test_the_place_the_rule_and_the_code_are_named() -> None:
    assert verdict_of(absence("answered", rank=3)) == "It is in the answer, at rank 3."
    assert "filter.categories" in verdict_of(absence("filtered", closed_by="filter.categories"))
    levels = [{"survived": True}, {"survived": False}, {"survived": False}]
    assert verdict_of(absence("outscored", levels=levels)).endswith("The search left its path at code 2 of 3.")
    assert "code 2" not in verdict_of(absence("seen", levels=levels))
