"""Answer of ``GET /models``: the live model, those of aliases, and how their trials go."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from service.schemas.experiment_report import ComparisonReport, GuardrailReport
from service.schemas.types import Body


class CanaryEnd(Body):
    """A canary that was rolled back, as it is stored."""

    version: str
    key: str = Field(description="tells this trial from others of the same version")
    share: float
    figure: str
    reason: str
    at: int


ONE_CANARY_END: TypeAdapter[CanaryEnd] = TypeAdapter(CanaryEnd)
"""A stored end of a canary."""


class LiveModelReport(TypedDict):
    """The live model of this replica."""

    version: Annotated[str | None, Field(description="null until one is loaded")]
    problem: Annotated[str, Field(description="why the newest version does not serve; empty while it does")]


class AliasReport(TypedDict):
    """The model of an alias on this replica."""

    version: str
    share: Annotated[float, Field(description="of users and sessions that it answers, or of requests that it searches")]
    since: Annotated[str, Field(description="when it got the alias, such as 2026-01-05T10:00:00+00:00")]
    state: Annotated[
        str,
        Field(
            description="`waiting` for a live version, or until another one is live; `loading`; `serving`; `refused`:"
            " not loaded, see `problem`; `ended`: rolled back"
        ),
    ]
    problem: Annotated[str, Field(description="why it does not serve; empty while it does")]
    memory_mb: Annotated[int, Field(description="memory that loading it took at most; 0 while it is not loaded")]


class HealthReport(TypedDict):
    """How requests went."""

    answers: int
    empty_answers: int
    errors: int
    latency_p99_ms: Annotated[float | None, Field(description="null without answers, and above 5 s")]


class CanaryFigures(TypedDict):
    """Requests of the users and sessions of a canary, by the model that they get."""

    live: HealthReport
    candidate: HealthReport
    guardrails: Annotated[list[GuardrailReport], Field(description="one that does not hold rolls the canary back")]


class CanaryReport(TypedDict):
    """The canary that runs."""

    version: str
    share: float
    here: Annotated[CanaryFigures, Field(description="on this replica, since it loaded the candidate")]
    all_replicas: Annotated[
        CanaryFigures | None,
        Field(description="since it began, without requests of experiments; null until the store was asked"),
    ]
    clicks: Annotated[
        ComparisonReport | None, Field(description="users and sessions who clicked; null until the store was asked")
    ]


class ShadowReport(TypedDict):
    """Requests that the shadow searched again on this replica, since it was loaded here."""

    dropped: Annotated[int, Field(description="sampled, but not searched, because other requests came first")]
    overlap: Annotated[
        float | None, Field(description="mean share of an answer's items that it finds as well; null without any")
    ]
    score_shift: Annotated[
        float | None, Field(description="mean score of its answers less that of the live ones; null without any")
    ]
    live: HealthReport
    shadow: Annotated[HealthReport, Field(description="its search has one core, and no request waits for it")]


class CanaryEndReport(TypedDict):
    """A canary that was rolled back."""

    version: str
    share: Annotated[float, Field(description="share of users and sessions that it answered")]
    figure: Annotated[
        str, Field(description="what was worse: `latency_p99_ms`, `error_share`, `empty_share` or `clicked`")
    ]
    reason: Annotated[str, Field(description="the same in words, with both figures")]
    at: Annotated[int, Field(description="when it was rolled back, Unix time in seconds")]


class ModelsResponse(TypedDict):
    """Answer of `GET /models`."""

    live: LiveModelReport
    candidate: Annotated[AliasReport | None, Field(description="null if no version has the alias")]
    shadow: Annotated[AliasReport | None, Field(description="likewise")]
    canary: Annotated[CanaryReport | None, Field(description="null while none runs on this replica")]
    comparison: Annotated[ShadowReport | None, Field(description="of the shadow; null while none is loaded")]
    rolled_back: Annotated[list[CanaryEndReport], Field(description="canaries that were rolled back, newest first")]
