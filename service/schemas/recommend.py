"""Requests and answers of ``POST /recommend``: the fields, their meaning and their fixed bounds.

:mod:`service.http.limits` checks the bounds that operators choose (``max_k``, ``max_history_ids`` …).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, model_validator
from typing_extensions import TypedDict

from model_store.catalogue.catalogue import Catalogue
from model_store.events.event import EVENT_TYPES, EventType
from service.schemas.explanations import Explanation
from service.schemas.ids import ShortId, ShortIds
from service.schemas.types import Body, Listed, Nullable

MAX_RANGES = 64
"""Largest number of attribute ranges in one filter. Each is compared with all items."""

CONTAINERS = 9 + MAX_RANGES
"""Largest number of JSON objects and lists in one request: itself, history, types, filter with its five lists,
ranges."""


class AttributeRange(Body):
    """Restricts a numeric attribute by at least one bound; items without a number in the field do not match."""

    field: str = Field(min_length=1, max_length=256, description="name of the attribute, such as `year`")
    gte: float | None = Field(None, allow_inf_nan=False, description="at least")
    gt: float | None = Field(None, allow_inf_nan=False, description="more than")
    lte: float | None = Field(None, allow_inf_nan=False, description="at most")
    lt: float | None = Field(None, allow_inf_nan=False, description="less than")

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        """Refuse a range without bounds, or one that no number lies in: the client cannot have meant it."""
        low = [bound for bound in (self.gte, self.gt) if bound is not None]
        high = [bound for bound in (self.lte, self.lt) if bound is not None]
        if not low and not high:
            raise ValueError("must have a bound: gte, gt, lte or lt")

        if low and high:
            least = max(low)
            most = min(high)
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
        None, max_length=MAX_RANGES, description="only items whose numeric attributes lie in all of these ranges"
    )
    allow: ShortIds | None = Field(None, description="only these items; ids that the catalogue lacks allow nothing")
    deny: ShortIds | None = Field(None, description="none of these items")


class RecommendRequest(Body):
    """Body of `POST /recommend`."""

    user_id: ShortId | None = Field(None, description="whose stored history to use, if `history` is absent")
    history: ShortIds | None = Field(
        None, description="item ids, oldest first; wins over the stored history of `user_id`"
    )
    k: int = Field(10, ge=1, description="answers wanted")
    exclude_seen: bool | Annotated[Listed[EventType], Field(max_length=len(EVENT_TYPES))] = Field(
        True,
        description="leave out items that the user had in events of these types; true: of those that the service is"
        " set to, by default purchases and ratings; false: none. Where the type is not known, as in `history`, the item"
        " is left out by true and by any list that is not empty",
    )
    filter: Filter | None = None
    max_per_prefix: int | None = Field(
        None, ge=1, le=1000, description="at most so many answers that share their first code"
    )
    budget_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="time budget in milliseconds, at most the service's own"
    )
    explain: bool = Field(False, description="tell why each item was answered; costs about as much as a batch")


ONE_REQUEST: TypeAdapter[RecommendRequest] = TypeAdapter(RecommendRequest)
"""Body of `POST /recommend`."""

REQUESTS: TypeAdapter[list[RecommendRequest]] = TypeAdapter(Listed[RecommendRequest])
"""Body of `POST /recommend/batch`."""


class RecommendedItem(TypedDict):
    """One recommended item."""

    item_id: str
    score: Annotated[float, Field(description="items are ordered by it; comparable inside one answer only")]
    log_prob: Annotated[
        float, Field(description="natural logarithm of the item's probability, by the model or by popularity")
    ]
    codes: Annotated[list[int], Field(description="the item's semantic ID")]
    title: NotRequired[Nullable[str]]
    explanation: NotRequired[Annotated[Nullable[Explanation], Field(description="only if `explain` asked for it")]]


class RecommendResponse(TypedDict):
    """Answer of `POST /recommend`."""

    request_id: str
    model_version: str
    served_by: Literal["model", "cache", "popular"]
    degraded: Annotated[bool, Field(description="true while the store cannot be reached: histories may be missing")]
    took_ms: float
    unknown_items: Annotated[Sequence[str], Field(description="ids of the history that the catalogue lacks")]
    items: Annotated[list[RecommendedItem], Field(description="best first; fewer than k only if fewer obey the rules")]


def build_recommended_items(
    catalogue: Catalogue,
    rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    log_probs: npt.NDArray[np.float32],
) -> list[RecommendedItem]:
    """Return the documents of items, best first.

    Args:
        catalogue: The catalogue that ``rows`` belong to.
        rows: Rows of the recommended items, ``[n]``.
        scores: Their scores, ``[n]``.
        log_probs: Their log-probabilities, ``[n]``.
    """
    places = rows.tolist()
    codes = catalogue.codes[places].tolist() if places else []

    return [
        {
            "item_id": catalogue.item_ids[row],
            "score": score,
            "log_prob": log_prob,
            "codes": code,
            "title": catalogue.titles[row] or None,
        }
        for row, score, log_prob, code in zip(places, scores.tolist(), log_probs.tolist(), codes, strict=True)
    ]
