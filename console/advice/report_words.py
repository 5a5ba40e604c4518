"""Figures of comparisons in words: names of figures and outcomes, values with their units, verdicts."""

from __future__ import annotations

from etegrec_client.types import ComparisonReport

from console.advice.experiment import GOAL
from console.parts import share

FIGURES = {
    "latency_p99_ms": "slowest 1 % of answers",
    "error_share": "share of failed requests",
    "empty_share": "share of empty answers",
    "fallback_share": "share answered by the live model instead",
    "clicked": "share who click",
}
"""Names of the figures that guardrails watch, and of the one that decides beside them in a canary."""

VERDICTS = {"higher": "higher", "lower": "lower", "open": "no difference found", "too few": "too few users so far"}
"""Verdicts of comparisons."""


def outcome_words(outcome: str, goal: str) -> str:
    """Return the name of an outcome for people."""
    if is_value(outcome):
        currency = outcome.removeprefix("value_")
        return f"Value by user, {currency}" if currency != "-" else "Value by user"
    return f"Share who reach the goal: {goal}" if outcome == GOAL else "Share who click"


def is_value(outcome: str) -> bool:
    """Tell whether an outcome is a sum of values; others are shares of users and sessions."""
    return outcome.startswith("value_")


def mean_words(value: float | None, outcome: str) -> str:
    """Return the mean of an outcome; a dash if it is not known."""
    if value is None:
        return "–"
    return f"{value:.3f}" if is_value(outcome) else share(value)


def difference_words(found: ComparisonReport) -> str:
    """Return a difference with its interval; a dash if it is not known."""
    each = found["difference"]
    if each is None:
        return "–"
    if is_value(found["outcome"]):
        return f"{each['difference']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f})"
    points = [100 * each[name] for name in ("difference", "low", "high")]
    return f"{points[0]:+.2f} points ({points[1]:+.2f} to {points[2]:+.2f})"


def figure_words(value: float | None, figure: str) -> str:
    """Return the value of a figure of :data:`FIGURES` with its unit; a dash if it is not known."""
    if value is None:
        return "–"
    return f"{value:.1f} ms" if figure == "latency_p99_ms" else share(value)
