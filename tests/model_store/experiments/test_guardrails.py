"""Guardrails find a variant that is slow, fails or answers nothing, and judge nobody by a handful of answers."""

from __future__ import annotations

import math

import pytest

from model_store.experiments.guardrails import FEWEST_ANSWERS, Guardrail, Health, check_guardrails

WELL = Health(answers=1000, empty=10, errors=5, p99_ms=50.0)


def judged(control: Health, variant: Health) -> dict[str, bool | None]:
    return {each.figure: each.holds for each in check_guardrails(["control", "other"], [control, variant])}


def test_a_variant_that_is_as_well_as_the_control_passes() -> None:
    assert judged(WELL, WELL) == {"latency_p99_ms": True, "error_share": True, "empty_share": True}


@pytest.mark.parametrize(
    ("variant", "figure"),
    [
        (WELL._replace(p99_ms=100.1), "latency_p99_ms"),
        (WELL._replace(p99_ms=math.inf), "latency_p99_ms"),
        (WELL._replace(errors=17), "error_share"),
        (WELL._replace(empty=21), "empty_share"),
    ],
)
def test_one_figure_that_is_worse_fails_alone(variant: Health, figure: str) -> None:
    found = judged(WELL, variant)
    assert {name for name, holds in found.items() if holds is False} == {figure}


def test_answers_of_the_live_model_are_judged_by_themselves_in_the_control_as_well() -> None:
    found = check_guardrails(["control", "other"], [WELL._replace(fallbacks=10), WELL._replace(fallbacks=11)])
    assert found[-2:] == [
        Guardrail("control", "fallback_share", None, 0.01, True),
        Guardrail("other", "fallback_share", None, 0.011, False),
    ]
    few = Health(answers=FEWEST_ANSWERS - 1, empty=0, errors=0, p99_ms=50.0, fallbacks=50)
    assert judged(WELL, few)["fallback_share"] is None


def test_what_is_just_allowed_holds() -> None:
    assert judged(WELL, WELL._replace(p99_ms=100.0, empty=20))["latency_p99_ms"] is True
    assert judged(WELL, WELL._replace(empty=20))["empty_share"] is True


def test_too_few_answers_of_either_judge_nothing() -> None:
    ill = Health(answers=FEWEST_ANSWERS - 2, empty=FEWEST_ANSWERS - 2, errors=1, p99_ms=5000.0)
    assert set(judged(WELL, ill).values()) == {None}
    assert set(judged(ill, WELL).values()) == {None}
    assert set(judged(WELL, ill._replace(answers=FEWEST_ANSWERS)).values()) == {False, True}


def test_a_variant_whose_every_request_fails_is_found_without_an_answer() -> None:
    found = judged(WELL, Health(answers=0, empty=0, errors=FEWEST_ANSWERS, p99_ms=None))
    assert found == {"latency_p99_ms": None, "error_share": False, "empty_share": True}


def test_every_variant_is_compared_with_the_first() -> None:
    slow = WELL._replace(p99_ms=500.0)
    found = check_guardrails(["control", "a", "b"], [WELL, slow, WELL])
    assert found[0] == Guardrail("a", "latency_p99_ms", 50.0, 500.0, False)
    assert [(each.variant, each.holds) for each in found if each.variant == "b"] == [("b", True)] * 3
