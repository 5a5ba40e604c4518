"""Queries and answers of the endpoints beside recommendations, and explanations: the fields and their meaning."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

CODE_PREFIX = r"^[0-9]{1,5}(-[0-9]{1,5}){0,7}$"


class Query(BaseModel):
    """A query string: unknown parameters are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SimilarQuery(Query):
    """Of `GET /items/{item_id}/similar`."""

    k: int = Field(10, ge=1, le=100, description="items wanted")


class CodesQuery(Query):
    """Of `GET /codes/{prefix}`."""

    limit: int = Field(20, ge=1, le=100, description="items on this page")
    offset: int = Field(0, ge=0, le=2**31 - 1, description="items before this page")


class PopularQuery(Query):
    """Of `GET /popular` and `GET /trending`."""

    k: int = Field(10, ge=1, le=100, description="items wanted")
    category: str | None = Field(None, max_length=256, description="only items of this category")


class ShownItem(BaseModel):
    """An item as people see it."""

    item_id: str
    title: str | None = None


class CodedItem(ShownItem):
    """An item with its semantic ID."""

    codes: list[int]


class SimilarItem(CodedItem):
    """An item like another one."""

    similarity: float | None = Field(None, description="cosine of both items' embeddings; null if the model has none")
    shared_codes: int = Field(description="how many leading codes both have in common")


class SimilarResponse(BaseModel):
    """What `GET /items/{item_id}/similar` answers."""

    model_version: str
    items: list[SimilarItem] = Field(description="most similar first")


class NextCode(BaseModel):
    """A code that may follow a prefix."""

    code: int
    items: int = Field(description="items below it")


class SharedTrait(BaseModel):
    """A value that is more frequent below a prefix than in the catalogue."""

    field: str = Field(description="`category`, or the name of an attribute")
    value: str
    share: float = Field(description="of the items below the prefix")
    catalogue_share: float = Field(description="of all items")
    lift: float = Field(description="share by catalogue_share")


class CodesResponse(BaseModel):
    """What `GET /codes/{prefix}` answers."""

    model_version: str
    prefix: list[int]
    total: int = Field(description="items below the prefix, hidden ones left out")
    items: list[CodedItem] = Field(description="one page of them, most popular first")
    next_codes: list[NextCode] = Field(description="ascending; empty below a whole semantic ID")
    common: list[SharedTrait] = Field(description="most telling first")
    measured_items: int = Field(description="items that shares below the prefix were measured on; a sample if many")


class CountedItem(CodedItem):
    """An item and how much was heard of it."""

    events: float = Field(description="events, each counting half after every half-life")
    popularity: int = Field(description="interactions in training")


class PopularResponse(BaseModel):
    """What `GET /popular` and `GET /trending` answer."""

    model_version: str
    items: list[CountedItem]


class UserResponse(BaseModel):
    """What `GET /users/{user_id}` answers."""

    user_id: str
    count: int
    history: list[str] = Field(description="item ids, oldest first")
    newest_event_at: int | None = Field(description="Unix time of the newest event; null if none is known")


class ForgottenResponse(BaseModel):
    """What `DELETE /users/{user_id}` answers once everything is gone."""

    history: int = Field(description="item ids forgotten")
    events: int = Field(description="recorded events erased before training saw them")


class CodeReason(BaseModel):
    """One code of an answer."""

    code: int
    log_prob: float | None = Field(None, description="of this code after those before it; null for popular items")
    items: int = Field(description="items below the prefix that ends here")
    examples: list[ShownItem] = Field(description="popular ones among them")


class HistoryReason(ShownItem):
    """What one item of the history contributed."""

    contribution: float | None = Field(
        None, description="what the score loses without this item; null if the history is this item alone"
    )


class Explanation(BaseModel):
    """Why an item was answered."""

    codes: list[CodeReason]
    history: list[HistoryReason] = Field(
        description="newest items of the history, oldest first; none for popular items"
    )
