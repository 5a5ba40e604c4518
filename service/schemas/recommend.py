"""Requests and answers of the HTTP interface: the fields, their meaning and their fixed bounds.

Bounds that operators choose (``max_k``, ``max_history_ids`` …) are checked by :mod:`service.http.limits`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from model_store.catalogue.catalogue import ID_BYTES
from model_store.events.event import Event
from service.schemas.browse import Explanation


def _fits(value: str) -> str:
    if not value.isascii() and len(value.encode()) > ID_BYTES:
        raise ValueError(f"must be 1 to {ID_BYTES} bytes long in UTF-8")
    return value


ShortId = Annotated[str, Field(min_length=1, max_length=ID_BYTES), AfterValidator(_fits)]
"""An item or user id, 1 to 128 bytes; the JSON parser has already refused lone surrogates."""


T = TypeVar("T")
Listed = Annotated[list[T], Field(fail_fast=True)]
"""A list checked up to its first wrong entry: reporting half a million would keep the event loop for seconds."""


class Body(BaseModel):
    """A request body: strict types, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AttributeRange(Body):
    """Restricts a numeric attribute by at least one bound; items without a number in the field do not match."""

    field: str = Field(min_length=1, max_length=256, description="name of the attribute, such as `year`")
    gte: float | None = Field(None, allow_inf_nan=False, description="at least")
    gt: float | None = Field(None, allow_inf_nan=False, description="more than")
    lte: float | None = Field(None, allow_inf_nan=False, description="at most")
    lt: float | None = Field(None, allow_inf_nan=False, description="less than")

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        """A range without bounds, or one that nothing lies in, is a mistake of whoever asks, not a wish."""
        low = [bound for bound in (self.gte, self.gt) if bound is not None]
        high = [bound for bound in (self.lte, self.lt) if bound is not None]
        if not low and not high:
            raise ValueError("must have a bound: gte, gt, lte or lt")
        if low and high:
            least, most = max(low), min(high)
            if least > most or (least == most and (self.gt == least or self.lt == most)):
                raise ValueError("no number lies in this range: its lower bound is not below its upper one")
        return self


class Filter(Body):
    """Restricts what may be answered; the parts apply together."""

    categories: Listed[Annotated[str, Field(max_length=256)]] | None = Field(
        None, description="only items of any of these categories"
    )
    categories_all: Listed[Annotated[str, Field(max_length=256)]] | None = Field(
        None, description="only items of all of these categories"
    )
    attributes: Listed[AttributeRange] | None = Field(
        None, description="only items whose numeric attributes lie in all of these ranges"
    )
    allow: Listed[ShortId] | None = Field(
        None, description="only these items; ids that the catalogue lacks allow nothing"
    )
    deny: Listed[ShortId] | None = Field(None, description="none of these items")


class RecommendRequest(Body):
    """What `POST /recommend` takes."""

    user_id: ShortId | None = Field(None, description="whose stored history to use, if `history` is absent")
    history: Listed[ShortId] | None = Field(
        None, description="item ids, oldest first; wins over the stored history of `user_id`"
    )
    k: int = Field(10, ge=1, description="answers wanted")
    exclude_seen: bool = Field(True, description="leave out the items of the history")
    filter: Filter | None = None
    max_per_prefix: int | None = Field(
        None, ge=1, le=1000, description="at most so many answers that share their first code"
    )
    budget_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="time budget in milliseconds, at most the service's own"
    )
    explain: bool = Field(False, description="tell why each item was answered; costs about as much as a batch")


class RecommendedItem(BaseModel):
    """One answer."""

    item_id: str
    score: float = Field(description="what the order follows; comparable inside one answer only")
    log_prob: float = Field(description="natural logarithm of the item's probability, by the model or by popularity")
    codes: list[int] = Field(description="the item's semantic ID")
    title: str | None = None
    explanation: Explanation | None = Field(None, description="only if `explain` asked for it")


class RecommendResponse(BaseModel):
    """What `POST /recommend` answers."""

    request_id: str
    model_version: str
    served_by: Literal["model", "cache", "popular"]
    degraded: bool = Field(description="true while the live store cannot be reached: histories may be missing")
    took_ms: float
    unknown_items: list[str] = Field(description="ids of the history that the catalogue lacks")
    items: list[RecommendedItem] = Field(description="best first; fewer than k only if fewer obey the rules")


Requests: TypeAdapter[list[RecommendRequest]] = TypeAdapter(Listed[RecommendRequest])
"""What `POST /recommend/batch` takes."""

Events: TypeAdapter[list[Event]] = TypeAdapter(Listed[Event])
"""What `POST /events` takes; a single event may come without the list around it."""


class EventsResponse(BaseModel):
    """What `POST /events` answers once the events are safe."""

    accepted: int
    duplicates: int = Field(description="events whose id was recorded before")


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """Every error (RFC 9457, application/problem+json)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldProblem] | None = None
