"""Answer of ``GET /experiments/{name}/report``: what each variant led to, and whether they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from model_store.attribution.experiment_counters import CLICK, VariantDay, tally_of, variant_of_days
from model_store.experiments.confidence import Interval
from model_store.experiments.guardrails import Figure, Guardrail, check_guardrails
from model_store.experiments.report import Comparison, Verdict, judge
from model_store.experiments.tally import Tally, Value, Variant
from model_store.experiments.verdict import say_verdict
from service.schemas.experiments import Experiment, Status, VariantModel


class ValueSum(TypedDict):
    """Value of goals in one currency."""

    payers: Annotated[int, Field(description="users and sessions whose value is not 0")]
    total: float


class VersionAnswers(TypedDict):
    """Answers of one version in a variant."""

    version: Annotated[str, Field(description="name of the version; its hash if no replica knows the name any more")]
    answers: int


class VariantReport(TypedDict):
    """What the answers of one variant led to, on all days."""

    name: str
    share: float
    model: Annotated[
        VariantModel | None, Field(description="the model that it names, or that others name one; null: by canary")
    ]
    versions: Annotated[list[VersionAnswers], Field(description="which versions answered, most answers first")]
    fallbacks: Annotated[
        int, Field(description="answers of the live model while the variant's own did not answer; among `answers`")
    ]
    subjects: Annotated[int, Field(description="users and sessions who got an answer, each once")]
    answers: int
    empty_answers: int
    errors: Annotated[int, Field(description="requests that failed")]
    clicks: int
    goals: int
    clickers: Annotated[int, Field(description="users and sessions with a click")]
    achievers: Annotated[int, Field(description="users and sessions with a goal")]
    values: Annotated[dict[str, ValueSum], Field(description="by currency; `-`: without a currency")]
    latency_p99_ms: Annotated[
        float | None, Field(description="99 of 100 answers were as fast; at most 43 % too high; null above 5 s")
    ]


class VariantDayReport(TypedDict):
    """What the answers of one variant and day led to, however late the events came."""

    name: str
    answers: int
    clicks: int
    goals: int
    values: Annotated[dict[str, float], Field(description="value of goals by currency")]


class DayReport(TypedDict):
    """One day of an experiment."""

    day: Annotated[str, Field(description="day of the answers in UTC, such as 2026-01-05")]
    variants: list[VariantDayReport]


class DifferenceReport(TypedDict):
    """A difference, with the ends of an interval that holds at all times together, however often one looks."""

    difference: float
    low: float
    high: float


class ComparisonReport(TypedDict):
    """One outcome of a variant beside that of the control, per user or session."""

    variant: str
    outcome: Annotated[str, Field(description="`reached_goal`, `clicked`, or `value_` with a currency")]
    control_mean: float | None
    mean: float | None
    difference: Annotated[DifferenceReport | None, Field(description="null while too few users and sessions are in")]
    verdict: Verdict


class SampleRatioReport(TypedDict):
    """Whether variants have the sizes that their shares give them; if not, no other figure can be trusted."""

    p_value: float
    is_as_designed: bool


class GuardrailReport(TypedDict):
    """One figure of a variant's health beside that of the control."""

    variant: str
    figure: Figure
    control: float | None
    value: float | None
    holds: Annotated[bool | None, Field(description="null while there are too few answers")]


class ExperimentReportResponse(TypedDict):
    """Answer of `GET /experiments/{name}/report`."""

    name: str
    hash: Annotated[str, Field(description="stands for the experiment in `etegrec-train attribution`")]
    status: Status
    goal: str
    control: Annotated[str, Field(description="variant with which the others are compared")]
    verdict: Annotated[str, Field(description="the same in words, for people")]
    verdict_kind: Annotated[
        Literal["broken", "guardrail", "found", "open"],
        Field(
            description="`broken`: wrong sample ratio; `guardrail`: a variant fails one; `found`: a variant differs in"
            " reaching the goal; `open`: none does so far"
        ),
    ]
    variants: list[VariantReport]
    days: Annotated[list[DayReport], Field(description="oldest first, of those days that have answers")]
    comparisons: list[ComparisonReport]
    sample_ratio: SampleRatioReport
    guardrails: list[GuardrailReport]


def build_experiment_report(
    name: str,
    experiment: Experiment,
    status: Status,
    label: str,
    days: Sequence[str],
    counters: Sequence[Mapping[str, float]],
    sums: Mapping[str, float],
    names: Mapping[str, str],
) -> ExperimentReportResponse:
    """Return the report of an experiment.

    Args:
        name: Its name.
        experiment: The experiment.
        status: Whether it runs.
        label: Hash that stands for it in counters.
        days: Its days, oldest first.
        counters: Counters of each.
        sums: Sums over its subjects, see :mod:`model_store.events.marks`.
        names: Names of versions by their hash.
    """
    goal = experiment.goal
    variants = [Variant(each.name, each.share) for each in experiment.variants]
    found = [variant_of_days(counters, label, place) for place in range(len(variants))]
    tallies = [tally_of(each, sums, place, goal) for place, each in enumerate(found)]
    judged = judge(variants, tallies)
    guardrails = check_guardrails([each.name for each in variants], [each.answered.health() for each in found])

    kind: Literal["broken", "guardrail", "found", "open"] = "open"
    if not judged.sample_ratio.is_as_designed:
        kind = "broken"
    elif any(each.holds is False for each in guardrails):
        kind = "guardrail"
    elif any(each.outcome == "reached_goal" and each.verdict in ("higher", "lower") for each in judged.comparisons):
        kind = "found"
    return {
        "name": name,
        "hash": label,
        "status": status,
        "goal": goal,
        "control": variants[0].name,
        "verdict": say_verdict(judged, guardrails),
        "verdict_kind": kind,
        "variants": [
            _variant(variant, experiment.model_of(place), tally, each, names)
            for place, (variant, tally, each) in enumerate(zip(variants, tallies, found, strict=True))
        ],
        "days": [
            _day(day, amounts, label, variants, goal)
            for day, amounts in zip(days, counters, strict=True)
            if any(variant_of_days([amounts], label, place).answered.answers for place in range(len(variants)))
        ],
        "comparisons": [build_comparison(each) for each in judged.comparisons],
        "sample_ratio": {
            "p_value": judged.sample_ratio.p_value,
            "is_as_designed": judged.sample_ratio.is_as_designed,
        },
        "guardrails": [build_guardrail(each) for each in guardrails],
    }


def _variant(
    variant: Variant, model: VariantModel | None, tally: Tally, found: VariantDay, names: Mapping[str, str]
) -> VariantReport:
    versions = sorted(found.answered.versions.items(), key=lambda each: -each[1])
    return {
        "name": variant.name,
        "share": variant.share,
        "model": model,
        "versions": [{"version": names.get(label, label), "answers": answers} for label, answers in versions],
        "fallbacks": found.answered.fallbacks,
        "subjects": tally.subjects,
        "answers": tally.answers,
        "empty_answers": tally.empty,
        "errors": found.answered.errors,
        "clicks": tally.clicks,
        "goals": tally.goals,
        "clickers": tally.clickers,
        "achievers": tally.achievers,
        "values": {currency: _value(value) for currency, value in tally.value.items()},
        "latency_p99_ms": _finite(found.answered.health().p99_ms),
    }


def _value(value: Value) -> ValueSum:
    return {"payers": value.payers, "total": value.total}


def _day(day: str, amounts: Mapping[str, float], label: str, variants: Sequence[Variant], goal: str) -> DayReport:
    rows: list[VariantDayReport] = []
    for place, variant in enumerate(variants):
        found = variant_of_days([amounts], label, place)
        rows.append(
            {
                "name": variant.name,
                "answers": found.answered.answers,
                "clicks": found.events.get(CLICK, 0),
                "goals": found.events.get(goal, 0),
                "values": found.values.get(goal, {}),
            }
        )
    return {"day": day, "variants": rows}


def build_guardrail(found: Guardrail) -> GuardrailReport:
    """Return one figure of a variant's health beside that of the control."""
    return {
        "variant": found.variant,
        "figure": found.figure,
        "control": _finite(found.control),
        "value": _finite(found.value),
        "holds": found.holds,
    }


def build_comparison(found: Comparison) -> ComparisonReport:
    """Return one outcome of a variant beside that of the control."""
    return {
        "variant": found.variant,
        "outcome": found.outcome,
        "control_mean": _finite(found.control_mean),
        "mean": _finite(found.mean),
        "difference": None if found.interval is None else _difference(found.interval),
        "verdict": found.verdict,
    }


def _difference(interval: Interval) -> DifferenceReport:
    return {"difference": interval.difference, "low": interval.low, "high": interval.high}


def _finite(number: float | None) -> float | None:
    """Return a number that JSON can hold."""
    return number if number is not None and math.isfinite(number) else None
