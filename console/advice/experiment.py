"""Advice about an experiment: what to do with what its report says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from etegrec_client.types import ComparisonReport, ExperimentReportResponse

from console.advice.card import Advice

GOAL = "reached_goal"
"""Outcome that decides: the share of users and sessions who reach the goal."""


def advice_of(report: ExperimentReportResponse, placements: Sequence[str]) -> Advice:
    """Return what to do about an experiment.

    Args:
        report: Its report.
        placements: Names of the placements that name it.
    """
    kind = report["verdict_kind"]
    if kind == "broken":
        return Advice(
            "The figures cannot be trusted",
            "The variants have other sizes than their shares say, so use none of the figures. Check that the shop "
            "sends the same user_id or session_id at each visit, and asks for every visitor; then end this experiment "
            "and begin a new one.",
            "attention",
        )
    if kind == "guardrail":
        failed = [each for each in report["guardrails"] if each["holds"] is False]
        failing = sorted({each["variant"] for each in failed})
        if all(each["figure"] == "fallback_share" for each in failed):
            return Advice(
                f"The model of {_named(failing)} does not answer",
                "The live version answers in its place, so the variants are more alike than the models. The page "
                "Models says what became of the candidate: mend it, or end the experiment.",
                "attention",
            )
        return Advice(
            f"A guardrail fails: {_named(failing)}",
            "It is slower, fails more or answers less than the control: the guardrails below say which. End the "
            "experiment, unless the gain is worth that to you.",
            "attention",
        )
    if kind == "found":
        return _of_difference(report, placements)
    return _of_nothing_found(report, placements)


def _of_difference(report: ExperimentReportResponse, placements: Sequence[str]) -> Advice:
    comparisons: list[ComparisonReport] = [each for each in report["comparisons"] if each["outcome"] == GOAL]
    better = [each for each in comparisons if each["verdict"] == "higher"]
    if not better:
        worse = [each["variant"] for each in comparisons if each["verdict"] == "lower"]
        return Advice(
            f"{_named(worse)} is worse than the control",
            "Leave its rules out: end the experiment, and the placement's own rules hold again.",
            "attention",
        )
    best = max(better, key=lambda each: each["mean"] or 0)["variant"]
    [variant] = [each for each in report["variants"] if each["name"] == best]
    if variant["model"] == "candidate" and variant["versions"]:
        version = variant["versions"][0]["version"]
        return Advice(
            f"“{best}” is better than the control",
            "End the experiment, then promote its version. If the variant has rules, give them to the placement.",
            "well",
            (f"etegrec-models promote {shlex.quote(version)}",),
        )
    where = f"the placement {', '.join(placements)}" if placements else "your placement"
    return Advice(
        f"“{best}” is better than the control",
        f"Give its rules to {where}, then end the experiment.",
        "well",
    )


def _of_nothing_found(report: ExperimentReportResponse, placements: Sequence[str]) -> Advice:
    status = report["status"]
    if status == "planned":
        return Advice("It has not begun", _if_unused(placements) or "Nothing: it begins by itself.", "plain")
    if status == "ended":
        return Advice(
            "It ended without a difference that it could find",
            "Keep the rules of the control. A difference that needs more users to be seen is small.",
            "plain",
        )
    if not sum(each["answers"] for each in report["variants"]):
        return Advice("Nobody is in it yet", _if_unused(placements) or "Wait for visitors.", "attention")
    return Advice(
        "No difference found so far",
        "Let it run. You may look as often as you like: the intervals allow for it.",
        "plain",
    )


def _if_unused(placements: Sequence[str]) -> str:
    return "" if placements else "No placement names it: choose it on the page of a placement."


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"“{name}”" for name in names) or "A variant"
