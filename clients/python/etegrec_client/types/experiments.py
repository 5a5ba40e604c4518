"""Experiments and their reports."""

from typing import Any, Literal, Required, TypedDict

from etegrec_client.types.rules import RuleFields


class Rules(RuleFields, total=False):
    """Rules of a variant."""


class TrafficBody(TypedDict, total=False):
    """Part of a layer's traffic."""

    layer: Required[str]
    start: float
    end: float


class Variant(TypedDict, total=False):
    """One way to answer."""

    name: Required[str]
    share: Required[float]
    model: Literal["live", "candidate"] | None
    rules: Rules


class Experiment(TypedDict, total=False):
    """Variants of rules that users and sessions get by chance; the first is the control."""

    description: str
    traffic: TrafficBody | None
    variants: Required[list[Variant]]
    goal: str
    starts: int | str | None
    ends: int | str | None


class ExperimentResponse(TypedDict):
    """An experiment as it is stored."""

    name: str
    revision: int
    status: Literal["planned", "running", "ended"]
    experiment: dict[str, Any]


class ExperimentsResponse(TypedDict):
    """All experiments."""

    revision: int
    experiments: list[ExperimentResponse]


class DeletedExperimentResponse(TypedDict):
    """Result of deleting an experiment."""

    name: str
    revision: int


class ValueSum(TypedDict):
    """Value of goals in one currency."""

    payers: int
    total: float


class VersionAnswers(TypedDict):
    """Answers of one version in a variant."""

    version: str
    answers: int


class VariantReport(TypedDict):
    """What the answers of one variant led to, on all days."""

    name: str
    share: float
    model: Literal["live", "candidate"] | None
    versions: list[VersionAnswers]
    fallbacks: int
    subjects: int
    answers: int
    empty_answers: int
    errors: int
    clicks: int
    goals: int
    clickers: int
    achievers: int
    values: dict[str, ValueSum]
    latency_p99_ms: float | None


class VariantDayReport(TypedDict):
    """What the answers of one variant and day led to."""

    name: str
    answers: int
    clicks: int
    goals: int
    values: dict[str, float]


class DayReport(TypedDict):
    """One day of an experiment."""

    day: str
    variants: list[VariantDayReport]


class DifferenceReport(TypedDict):
    """A difference with the ends of its interval."""

    difference: float
    low: float
    high: float


class ComparisonReport(TypedDict):
    """One outcome of a variant beside that of the control."""

    variant: str
    outcome: str
    control_mean: float | None
    mean: float | None
    difference: DifferenceReport | None
    verdict: Literal["higher", "lower", "open", "too few"]


class SampleRatioReport(TypedDict):
    """Whether variants have the sizes that their shares give them."""

    p_value: float
    is_as_designed: bool


class GuardrailReport(TypedDict):
    """One figure of a variant's health beside that of the control."""

    variant: str
    figure: Literal["latency_p99_ms", "error_share", "empty_share", "fallback_share"]
    control: float | None
    value: float | None
    holds: bool | None


class ExperimentReportResponse(TypedDict):
    """What each variant of an experiment led to, and whether they differ."""

    name: str
    hash: str
    status: Literal["planned", "running", "ended"]
    goal: str
    control: str
    verdict: str
    verdict_kind: Literal["broken", "guardrail", "found", "open"]
    variants: list[VariantReport]
    days: list[DayReport]
    comparisons: list[ComparisonReport]
    sample_ratio: SampleRatioReport
    guardrails: list[GuardrailReport]
