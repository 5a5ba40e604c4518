"""Queries and answers of the endpoints for browsing: similar items, code prefixes, popular and trending items."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from service.schemas.items import CodedItem
from service.schemas.types import Nullable, Query

CODE_PREFIX = r"^[0-9]{1,5}(-[0-9]{1,5}){0,7}$"
"""Pattern of a code prefix in a path: 1 to 8 codes, joined by hyphens."""


class SimilarQuery(Query):
    """Query of `GET /items/{item_id}/similar`."""

    k: int = Field(10, ge=1, le=100, description="items wanted")


class CodesQuery(Query):
    """Query of `GET /codes` and `GET /codes/{prefix}`."""

    limit: int = Field(20, ge=1, le=100, description="items on this page")
    offset: int = Field(0, ge=0, le=2**31 - 1, description="items before this page")


class ItemsQuery(Query):
    """Query of `GET /items`."""

    query: str = Field("", max_length=200, description="words of the title, at most 8, or an item id; empty: all items")
    limit: int = Field(20, ge=1, le=100, description="items on this page")
    offset: int = Field(0, ge=0, le=2**31 - 1, description="items before this page")


class PopularQuery(Query):
    """Query of `GET /popular` and `GET /trending`."""

    k: int = Field(10, ge=1, le=100, description="items wanted")
    category: str | None = Field(None, max_length=256, description="only items of this category")


class SimilarItem(CodedItem):
    """An item like another one."""

    similarity: NotRequired[
        Annotated[Nullable[float], Field(description="cosine of both items' embeddings; null if the model has none")]
    ]
    shared_codes: Annotated[int, Field(description="number of leading codes that both have in common")]


class SimilarResponse(TypedDict):
    """Answer of `GET /items/{item_id}/similar`."""

    model_version: str
    items: Annotated[list[SimilarItem], Field(description="most similar first")]


class NextCode(TypedDict):
    """A code that may follow a prefix."""

    code: int
    name: NotRequired[Annotated[Nullable[str], Field(description="of the prefix with this code; null if it has none")]]
    items: Annotated[int, Field(description="items below it")]
    popularity: Annotated[int, Field(description="interactions of these items in training")]
    category: Annotated[str | None, Field(description="the most frequent one of these items; null if they have none")]


class SharedTrait(TypedDict):
    """A value that is more frequent below a prefix than in the catalogue."""

    field: Annotated[str, Field(description="`category`, or the name of an attribute")]
    value: str
    share: Annotated[float, Field(description="of the items below the prefix")]
    catalogue_share: Annotated[float, Field(description="of all items")]
    lift: Annotated[float, Field(description="`share` divided by `catalogue_share`")]


class CodesResponse(TypedDict):
    """Answer of `GET /codes` and `GET /codes/{prefix}`."""

    model_version: str
    prefix: list[int]
    name: NotRequired[
        Annotated[
            Nullable[str], Field(description="what at least half of the items said in training; null if it has none")
        ]
    ]
    total: Annotated[int, Field(description="items below the prefix, hidden ones left out")]
    items: Annotated[list[CodedItem], Field(description="one page of them, most popular first")]
    next_codes: Annotated[list[NextCode], Field(description="ascending; empty below a whole semantic ID")]
    common: Annotated[list[SharedTrait], Field(description="most characteristic first")]
    measured_items: Annotated[
        int, Field(description="items that the shares below the prefix were measured on; a sample if there are many")
    ]


class FoundItem(CodedItem):
    """An item that was found by its title."""

    categories: list[str]
    popularity: Annotated[int, Field(description="interactions in training")]
    hidden: Annotated[bool, Field(description="deleted; a PATCH of `hidden` brings it back")]
    is_new: Annotated[bool, Field(description="it came after the version was published")]


class ItemsResponse(TypedDict):
    """Answer of `GET /items`."""

    model_version: str
    total: Annotated[int, Field(description="items that match, hidden ones included")]
    items: Annotated[
        list[FoundItem],
        Field(description="one page: the item of this id, then titles that begin with the query, then by popularity"),
    ]


class CountedItem(CodedItem):
    """An item, with its events and its popularity."""

    events: Annotated[float, Field(description="recorded events; the weight of each halves every half-life")]
    popularity: Annotated[int, Field(description="interactions in training")]


class PopularResponse(TypedDict):
    """Answer of `GET /popular` and `GET /trending`."""

    model_version: str
    items: list[CountedItem]
