"""Previews: what rules or a new item would change in answers; queries and answers of ``POST …/preview``.

Their bodies are those of the ``PUT`` that would store the same.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from model_store.events.event import MAX_TIMESTAMP
from service.schemas.items import CodedItem, NearItem, ShownItem
from service.schemas.placements import PlacementName
from service.schemas.types import Query

MOST_HISTORIES = 200
"""Largest number of histories that a preview answers."""

SHOWN_ITEMS = 20
"""Items that a preview lists of each kind."""

_HISTORIES = Field(
    50,
    ge=1,
    le=MOST_HISTORIES,
    description="histories to answer, at most: of users whom this replica answered last, then examples of the version",
)


class PlacementPreviewQuery(Query):
    """Query of `POST /placements/preview`."""

    histories: int = _HISTORIES
    replaces: PlacementName | None = Field(
        None, description="placement whose stored rules are the ones so far; left out: no rules but `k`"
    )
    at: int | None = Field(
        None, ge=0, le=MAX_TIMESTAMP, description="Unix time that decides which of the new boosts apply; left out: now"
    )


class ItemPreviewQuery(Query):
    """Query of `POST /items/preview`."""

    histories: int = _HISTORIES
    k: int = Field(10, ge=1, le=100, description="items of each answer")


class AnswersPreview(TypedDict):
    """Answers to the sample under one set of rules."""

    k: Annotated[int, Field(description="items that each answer may have")]
    items: Annotated[int, Field(description="items of all answers together")]
    different_items: Annotated[int, Field(description="the same, each item once")]
    short: Annotated[int, Field(description="answers with fewer than `k` items")]


class CodeExposure(TypedDict):
    """Places of answers that items of one first code had."""

    code: int
    name: str | None
    example: Annotated[ShownItem, Field(description="the item of this code with most places, so far and then")]
    before: Annotated[int, Field(description="places under the rules so far")]
    after: Annotated[int, Field(description="places under the new rules")]


class ItemExposure(CodedItem):
    """Answers that held an item."""

    before: Annotated[int, Field(description="answers under the rules so far")]
    after: Annotated[int, Field(description="answers under the new rules")]


class PlacementPreviewResponse(TypedDict):
    """Answer of `POST /placements/preview`."""

    model_version: str
    histories: Annotated[int, Field(description="histories that were answered; 0 if none could be found")]
    users: Annotated[int, Field(description="of them, of users whom this replica answered last")]
    changed: Annotated[int, Field(description="answers that would differ, in their items or their order")]
    ignored_rules: Annotated[
        list[str],
        Field(description="rules that a preview cannot apply: it does not know who asks, nor what is viewed"),
    ]
    before: AnswersPreview
    after: AnswersPreview
    codes: Annotated[list[CodeExposure], Field(description="first codes that had or would have places, most first")]
    gained: Annotated[list[ItemExposure], Field(description="items in more answers than so far, largest gain first")]
    lost: Annotated[list[ItemExposure], Field(description="items in fewer answers than so far, largest loss first")]


class DisplacedItem(CodedItem):
    """An item that would leave answers."""

    answers: Annotated[int, Field(description="answers that it would leave for the new item")]


class ItemPreviewResponse(TypedDict):
    """Answer of `POST /items/preview`."""

    model_version: str
    codes: Annotated[list[int], Field(description="the semantic ID that the item would get now")]
    names: Annotated[list[str | None], Field(description="names of its prefixes, by number of codes")]
    nearest: Annotated[list[NearItem], Field(description="items most like it, best first")]
    histories: Annotated[int, Field(description="histories that were answered; 0 if none could be found")]
    users: Annotated[int, Field(description="of them, of users whom this replica answered last")]
    ranks: Annotated[list[int], Field(description="rank in each answer that would hold the item, from 1, ascending")]
    displaced: Annotated[list[DisplacedItem], Field(description="items that would leave these answers, most first")]
