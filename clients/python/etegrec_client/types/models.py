"""The models of a replica, and how those beside the live one do."""

from typing import TypedDict

from etegrec_client.types.experiments import ComparisonReport, GuardrailReport


class LiveModelReport(TypedDict):
    """The live model of a replica; ``problem`` says why the newest version does not serve."""

    version: str | None
    problem: str


class AliasReport(TypedDict):
    """The model of an alias on a replica."""

    version: str
    share: float
    since: str
    state: str
    problem: str
    memory_mb: int


class HealthReport(TypedDict):
    """How requests went."""

    answers: int
    empty_answers: int
    errors: int
    latency_p99_ms: float | None


class CanaryFigures(TypedDict):
    """Requests of the users and sessions of a canary, by the model that they get."""

    live: HealthReport
    candidate: HealthReport
    guardrails: list[GuardrailReport]


class CanaryReport(TypedDict):
    """The canary that runs."""

    version: str
    share: float
    here: CanaryFigures
    all_replicas: CanaryFigures | None
    clicks: ComparisonReport | None


class ShadowReport(TypedDict):
    """Requests that the shadow searched again."""

    dropped: int
    overlap: float | None
    score_shift: float | None
    live: HealthReport
    shadow: HealthReport


class CanaryEndReport(TypedDict):
    """A canary that was rolled back, and why."""

    version: str
    share: float
    figure: str
    reason: str
    at: int


class ModelsResponse(TypedDict):
    """The live model, those of aliases, and how a canary goes."""

    live: LiveModelReport
    candidate: AliasReport | None
    shadow: AliasReport | None
    canary: CanaryReport | None
    comparison: ShadowReport | None
    rolled_back: list[CanaryEndReport]
