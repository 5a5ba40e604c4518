"""What to do about an experiment, for each thing that its report can say."""

from __future__ import annotations

from typing import Any, cast

import pytest
from etegrec_client.types import ExperimentReportResponse

from console.advice.experiment import advice_of


def report_of(**given: Any) -> ExperimentReportResponse:
    """Return a report with some answers, in which nothing was found."""
    report = {
        "status": "running",
        "control": "control",
        "verdict_kind": "open",
        "variants": [{"name": name, "answers": 9, "model": None, "versions": []} for name in ("control", *"abc")],
        "comparisons": [],
        "guardrails": [],
        **given,
    }
    return cast(ExperimentReportResponse, report)


def compared(variant: str, verdict: str, mean: float = 0.1, outcome: str = "reached_goal") -> dict[str, Any]:
    return {"variant": variant, "outcome": outcome, "verdict": verdict, "mean": mean}


@pytest.mark.parametrize(
    ("given", "title", "action"),
    [
        ({"verdict_kind": "broken"}, "cannot be trusted", "user_id or session_id"),
        (
            {
                "verdict_kind": "guardrail",
                "guardrails": [
                    {"variant": "new", "figure": "error_share", "holds": False},
                    {"variant": "new", "figure": "fallback_share", "holds": False},
                    {"variant": "other", "figure": "error_share", "holds": True},
                ],
            },
            "A guardrail fails: “new”",
            "End the experiment",
        ),
        (
            {
                "verdict_kind": "guardrail",
                "guardrails": [
                    {"variant": "new", "figure": "fallback_share", "holds": False},
                    {"variant": "new", "figure": "error_share", "holds": True},
                ],
            },
            "The model of “new” does not answer",
            "The page Models says what became of the candidate",
        ),
        (
            {
                "verdict_kind": "found",
                "comparisons": [compared("a", "higher", 0.2), compared("b", "higher", 0.3), compared("c", "lower")],
            },
            "“b” is better",
            "Give its rules to the placement home",
        ),
        (
            {"verdict_kind": "found", "comparisons": [compared("c", "lower"), compared("a", "higher", 1, "clicked")]},
            "“c” is worse",
            "end the experiment",
        ),
        ({}, "No difference found so far", "Let it run"),
        ({"status": "ended"}, "It ended without a difference", "Keep the rules of the control"),
        ({"status": "planned"}, "It has not begun", "begins by itself"),
        ({"variants": []}, "Nobody is in it yet", "Wait for visitors"),
    ],
)
def test_each_verdict_says_what_to_do(given: dict[str, Any], title: str, action: str) -> None:
    advice = advice_of(report_of(**given), ["home"])
    assert title in advice.title
    assert action in advice.action


@pytest.mark.parametrize("given", [{"status": "planned"}, {"variants": []}])
def test_an_experiment_that_no_placement_names_is_told(given: dict[str, Any]) -> None:
    assert "No placement names it" in advice_of(report_of(**given), []).action


def test_a_better_model_is_promoted() -> None:
    variant = {"name": "next", "answers": 9, "model": "candidate", "versions": [{"version": "v2", "answers": 9}]}
    found = advice_of(
        report_of(verdict_kind="found", variants=[variant], comparisons=[compared("next", "higher")]), ["home"]
    )
    assert found.commands == ("etegrec-models promote v2",)
    assert "End the experiment, then promote its version" in found.action
