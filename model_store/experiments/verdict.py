"""Verdict of an experiment in words, for people."""

from __future__ import annotations

from collections.abc import Sequence

from model_store.experiments.guardrails import Guardrail
from model_store.experiments.report import Comparison, Report

_FIGURES = {
    "latency_p99_ms": "it answers too slowly",
    "error_share": "too many of its requests fail",
    "empty_share": "too many of its answers are empty",
    "fallback_share": "the live model gave too many of its answers, because its own did not answer",
}


def say_verdict(report: Report, guardrails: Sequence[Guardrail]) -> str:
    """Return the verdict: whether the figures can be trusted, what is wrong, and whether variants differ."""
    if not report.sample_ratio.is_as_designed:
        return (
            f"do not use these figures: the variants do not have the sizes that their shares give them"
            f" (p = {report.sample_ratio.p_value:.2g}), so assignment or counting is broken"
        )

    broken = [f"{each.variant}: {_FIGURES[each.figure]}" for each in guardrails if each.holds is False]
    found = [_say(each) for each in report.comparisons if each.outcome == "reached_goal"]
    return "; ".join([*broken, *found])


def _say(found: Comparison) -> str:
    if found.interval is None:
        return f"{found.variant}: too few users and sessions to judge"

    low, high = (f"{100 * end:+.2f}" for end in (found.interval.low, found.interval.high))
    means = f"{100 * found.mean:.2f} % reach the goal, {100 * found.control_mean:.2f} % in the control"
    between = f"the difference is between {low} and {high} percentage points"
    words = {"higher": "better than the control", "lower": "worse than the control"}
    return f"{found.variant}: {words.get(found.verdict, 'no difference found so far')} ({means}; {between})"
