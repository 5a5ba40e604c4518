"""Notes on a finished run in plain sentences: coverage, and warnings if the model is hardly worth serving."""

from __future__ import annotations

from training.evaluation.bootstrap import CONFIDENCE
from training.evaluation.coverage import K
from training.run_evaluation import Evaluation, Intervals

METRIC = f"ndcg@{K}"
INTERVAL = f"{METRIC}, {CONFIDENCE:.0%} of samples"
"""Head of a column of :func:`show_interval`."""

CLEAR_ERRORS = 2.0
"""Standard errors by which a difference must exceed 0 to be more than chance."""

HIGH_TOP_SHARE = 0.5
LOW_ITEM_SHARE = 0.05
"""Concentration is extreme if the ten most recommended items take this share of all answers, and five times what they
would in equal answers, or if fewer than this share of the items that could be recommended are."""

_HELP = (
    "What usually helps: more interactions per user, a longer period, the right columns (`etegrec-train validate` "
    "checks them), or another preset."
)


def warnings(evaluation: Evaluation) -> list[str]:
    """Return what a person must know before serving the model, and what usually helps; mostly there is nothing."""
    found = [_popularity_warning(evaluation), _concentration_warning(evaluation)]
    found = [warning for warning in found if warning]
    return [*found, _HELP] if found else []


def search_note(evaluation: Evaluation) -> str:
    """Say by how much the search raises the accuracy of the answers, and whether that may be chance.

    Empty for an evaluation that did not measure it.
    """
    if not evaluation.search_adds:
        return ""
    mean = evaluation.search_adds["mean"]
    low, high = evaluation.search_adds["interval"]
    fused = evaluation.test["fused"][METRIC]
    without = evaluation.test["fused_without_search"][METRIC]
    share = f", {mean / without:+.1%}" if without else ""
    return (
        f"The search adds {_gain_verdict(low, high)}: test {METRIC} {fused:.4f} with its scores, "
        f"{without:.4f} without them{share}; the difference is {mean:.4f}, in {CONFIDENCE:.0%} of samples "
        f"{low:.4f} to {high:.4f}."
    )


def ranker_note(evaluation: Evaluation) -> str:
    """Say by how much the ranker raises the accuracy of the answers, and whether that may be chance.

    Empty without one.
    """
    if not evaluation.ranker_adds:
        return ""
    mean = evaluation.ranker_adds["mean"]
    low, high = evaluation.ranker_adds["interval"]
    fused = evaluation.test["fused"][METRIC]
    without = fused - mean
    share = f", {mean / without:+.1%}" if without > 0 else ""
    return (
        f"The ranker adds {_gain_verdict(low, high)}: test {METRIC} {fused:.4f} with it, {without:.4f} without it"
        f"{share}; the difference is {mean:.4f}, in {CONFIDENCE:.0%} of samples {low:.4f} to {high:.4f}."
    )


def show_interval(intervals: Intervals, suffix: str = "") -> str:
    """Return a row's interval of NDCG@10 under one protocol as text, ``low to high``."""
    low, high = intervals[f"interval{suffix}"]
    return f"{low:.4f} to {high:.4f}"


def coverage_note(evaluation: Evaluation) -> str:
    """Return the coverage in one sentence; empty for the evaluation of an older release, which did not measure it."""
    figures = evaluation.coverage
    if not figures:
        return ""
    return (
        f"The top {K} of {figures['users']:,} test users hold {figures['recommended_items']:,} of "
        f"{figures['catalogue_items']:,} items ({figures['catalogue_share']:.1%}); the {K} most recommended items take "
        f"{figures['top_share']:.1%} of the places (items of the history excluded)."
    )


def _gain_verdict(low: float, high: float) -> str:
    """Return what a gain amounts to by its interval."""
    if low > 0:
        return "more than chance"
    return "less than nothing" if high < 0 else "nothing beyond chance"


def _popularity_warning(evaluation: Evaluation) -> str:
    served = evaluation.test["fused"][METRIC]
    popularity = evaluation.test["popularity"][METRIC]
    error = evaluation.above_popularity.get("error")
    if served - popularity > CLEAR_ERRORS * (error or 0.0):
        return ""

    verdict = "not better" if served <= popularity else "not clearly better"
    spread = "" if error is None else f" ± {error:.4f}"
    return (
        f"This model is {verdict} than recommending the most popular items to everyone: test {METRIC} {served:.4f} "
        f"against {popularity:.4f}, a difference of {served - popularity:+.4f}{spread}."
    )


def _concentration_warning(evaluation: Evaluation) -> str:
    figures = evaluation.coverage
    if not figures:
        return ""

    items = figures["catalogue_items"]
    possible = min(items, K * figures["users"])
    is_top_heavy = figures["top_share"] >= max(HIGH_TOP_SHARE, 5 * K / items)
    if not is_top_heavy and figures["recommended_items"] >= LOW_ITEM_SHARE * possible:
        return ""
    return f"This model recommends few items to nearly everyone. {coverage_note(evaluation)}"
