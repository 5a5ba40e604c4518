"""Report of an experiment: what each variant does, whether they differ, and whether the figures can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from model_store.experiments.confidence import Interval, Outcomes, difference, sample_ratio_p_value
from model_store.experiments.tally import Tally, Variant

ALPHA = 0.05
"""Probability of any false alarm about an outcome, over all variants and however often somebody looks."""

SAMPLE_RATIO_ALPHA = 0.001
"""Probability of a false alarm about the sizes of variants; a real mistake soon gives far smaller values."""

Verdict = Literal["higher", "lower", "open", "too few"]


class Comparison(NamedTuple):
    """One outcome of a variant beside that of the control, which is the first variant.

    Attributes:
        variant: Name of the variant.
        outcome: Name of the outcome.
        control_mean: Mean of the control, by user and session.
        mean: Mean of the variant.
        interval: Difference with its interval; ``None`` while too few users are in.
        verdict: ``higher`` or ``lower`` if the interval says so at any time, ``open`` if not.
    """

    variant: str
    outcome: str
    control_mean: float
    mean: float
    interval: Interval | None
    verdict: Verdict


class SampleRatio(NamedTuple):
    """Whether variants have the sizes that they have by design.

    Attributes:
        p_value: Valid at all times.
        is_as_designed: ``False`` if the assignment or the counting is broken: then nothing else here counts.
    """

    p_value: float
    is_as_designed: bool


class Report(NamedTuple):
    """What the tallies of an experiment say."""

    comparisons: list[Comparison]
    sample_ratio: SampleRatio


def judge(variants: Sequence[Variant], tallies: Sequence[Tally]) -> Report:
    """Compare every variant with the control in every outcome.

    Args:
        variants: The variants, the control first, ``[variants]``.
        tallies: What is counted of each, ``[variants]``.
    """
    of_each = [tally.outcomes() for tally in tallies]
    names = sorted({name for outcomes in of_each for name in outcomes}, key=_by_importance)
    alpha = ALPHA / max(1, len(variants) - 1)  # of each variant, so that all together keep it (Bonferroni)

    comparisons = [
        _compare(
            (variants[0], of_each[0].get(name, _nothing(tallies[0]))),
            (variant, outcomes.get(name, _nothing(tally))),
            name,
            alpha,
        )
        for variant, tally, outcomes in zip(variants[1:], tallies[1:], of_each[1:], strict=True)
        for name in names
    ]
    p_value = sample_ratio_p_value([tally.subjects for tally in tallies], [variant.share for variant in variants])
    return Report(comparisons, SampleRatio(p_value, p_value >= SAMPLE_RATIO_ALPHA))


def _compare(control: tuple[Variant, Outcomes], other: tuple[Variant, Outcomes], name: str, alpha: float) -> Comparison:
    found = difference(control[1], other[1], (control[0].share, other[0].share), alpha)
    verdict: Verdict = "too few"
    if found is not None:
        verdict = "open" if not found.excludes_zero else "higher" if found.low > 0 else "lower"
    return Comparison(other[0].name, name, control[1].mean, other[1].mean, found, verdict)


def _nothing(tally: Tally) -> Outcomes:
    """Return the outcomes of a variant in which nobody did such a thing yet."""
    return Outcomes(tally.subjects, 0, 0.0, 0.0)


def _by_importance(name: str) -> tuple[int, str]:
    order = ("reached_goal", "clicked")
    return (order.index(name) if name in order else len(order), name)
