"""Experiments: variants of rules that users and sessions get by chance, and what is answered about them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator
from typing_extensions import TypedDict

from model_store.events.event import EventName
from model_store.experiments.assignment import Traffic
from service.schemas.events import Moment
from service.schemas.placements import NAME_PATTERN, ExpectedRevision
from service.schemas.rules import Rules
from service.schemas.types import Body, Listed

MAX_VARIANTS = 20
"""Largest number of variants of one experiment."""

SHARES_WITHIN = 1e-6
"""How far the sum of shares may be from 1."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]

VariantModel = Literal["live", "candidate"]
"""Model of a variant. A shadow is none: it answers nobody, with one core."""


class TrafficBody(Body):
    """Part of a layer's traffic: nobody is in two experiments of one layer at a time."""

    layer: Name = Field(description="experiments of one layer share its users and sessions")
    start: float = Field(0.0, ge=0, lt=1, description="begin of the part")
    end: float = Field(1.0, gt=0, le=1, description="end of the part, itself outside")

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        if self.start >= self.end:
            raise ValueError("start must be below end")
        return self


class Variant(Body):
    """One way to answer."""

    name: Name
    share: float = Field(gt=0, lt=1, description="share of those in the experiment; all shares together are 1")
    model: VariantModel | None = Field(
        None,
        description="the model that answers: the live one, or the candidate; while the candidate does not answer, the"
        " live one does, which is counted. Needs a key of scope admin. If any variant names a model, the others are"
        " answered by the live one, and no canary has a part in the experiment",
    )
    rules: Rules = Field(
        default_factory=Rules, description="rules in place of those of the placement; only fields that are given count"
    )


class Experiment(Body):
    """Body of `PUT /experiments/{name}`."""

    description: str = Field("", max_length=1000, description="what is tried and why, for people")
    traffic: TrafficBody | None = Field(
        None, description="who takes part; left out: everybody, independently of other experiments"
    )
    variants: Listed[Variant] = Field(
        min_length=2,
        max_length=MAX_VARIANTS,
        description="the first is the control, with which others are compared",
    )
    goal: EventName = Field("purchase", description="type of the events that the experiment wants more of")
    starts: Moment | None = Field(None, description="when it begins; left out: at once")
    ends: Moment | None = Field(None, description="when it ends, and the placement's own rules hold again")

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError("variants must have different names")
        total = math.fsum(variant.share for variant in self.variants)
        if abs(total - 1) > SHARES_WITHIN:
            raise ValueError(f"the shares of the variants must add up to 1, not {total:g}")
        if self.starts is not None and self.ends is not None and self.starts >= self.ends:
            raise ValueError("starts must be before ends")
        return self

    def payload(self) -> bytes:
        """Return what is stored: the given fields, as JSON."""
        return self.model_dump_json(exclude_unset=True).encode()

    def traffic_of(self, name: str) -> Traffic:
        """Return the traffic of an experiment of this name; without any, a layer that no other one can name."""
        if self.traffic is None:
            return Traffic(f"={name}", 0.0, 1.0)
        return Traffic(self.traffic.layer, self.traffic.start, self.traffic.end)

    @property
    def names_models(self) -> bool:
        """Whether a variant names the model that answers."""
        return any(variant.model is not None for variant in self.variants)

    def model_of(self, variant: int) -> VariantModel | None:
        """Return the model of a variant; ``None`` if no variant names one, so that others choose."""
        return self.variants[variant].model or ("live" if self.names_models else None)

    def runs(self, now: float) -> bool:
        """Tell whether it runs at a Unix time, in seconds."""
        return (self.starts or 0) <= now and (self.ends is None or now < self.ends)


ONE_EXPERIMENT: TypeAdapter[Experiment] = TypeAdapter(Experiment)
"""Body of `PUT /experiments/{name}`."""


class ExperimentDeletion(ExpectedRevision):
    """Query of `DELETE /experiments/{name}`."""

    force: bool = Field(False, description="delete it although it runs: its figures are lost")


class UsedExperiment(TypedDict):
    """The experiment that the asker takes part in."""

    name: str
    variant: str


Status = Literal["planned", "running", "ended"]


class ExperimentResponse(TypedDict):
    """An experiment as it is stored."""

    name: str
    revision: Annotated[int, Field(description="number of the write that made it; each write of any experiment counts")]
    status: Status
    experiment: Annotated[dict[str, Any], Field(description="the fields that were given, and when it starts")]


class ExperimentsResponse(TypedDict):
    """Answer of `GET /experiments`."""

    revision: Annotated[int, Field(description="number of the newest write of any experiment")]
    experiments: Annotated[list[ExperimentResponse], Field(description="by name")]


class DeletedExperimentResponse(TypedDict):
    """Answer of `DELETE /experiments/{name}`."""

    name: str
    revision: Annotated[int, Field(description="number of this write")]
