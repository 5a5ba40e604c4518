"""Requests and answers as typed dictionaries: the JSON of the API, field by field.

`GET /docs` of a running service says what each field means. The project's tests compare all of these with it.
"""

from typing import Any, Literal, NotRequired, Required, TypedDict

Id = str | int
"""An id of a user, item or event. An integer counts as its decimal text."""

Attributes = dict[str, Any] | str
"""Attributes of an item: values by key, or text."""

EventType = Literal["view", "click", "cart", "purchase", "rating"]


class AttributeRange(TypedDict, total=False):
    """Restricts a numeric attribute by at least one bound."""

    field: Required[str]
    gte: float | None
    gt: float | None
    lte: float | None
    lt: float | None


class Filter(TypedDict, total=False):
    """Restricts what may be answered; the parts apply together."""

    categories: list[str] | None
    categories_all: list[str] | None
    attributes: list[AttributeRange] | None
    allow: list[Id] | None
    deny: list[Id] | None


class RecommendRequest(TypedDict, total=False):
    """Request for recommendations: a user's stored history, or one of your own."""

    user_id: Id | None
    history: list[Id] | None
    k: int
    exclude_seen: bool | list[EventType]
    filter: Filter | None
    max_per_prefix: int | None
    budget_ms: float | None
    explain: bool


class Event(TypedDict, total=False):
    """One interaction of a user with an item. The client makes the `event_id`, so that it can safely repeat itself."""

    event_id: Id
    user_id: Required[Id]
    item_id: Required[Id]
    type: EventType
    timestamp: int | str


class Item(TypedDict, total=False):
    """Content of an item; fields that are left out become empty."""

    title: str
    categories: list[str]
    attributes: Attributes
    embedding: list[float] | None


class BulkItem(Item):
    """One item of a bulk upload."""

    item_id: Required[Id]


class ItemPatch(TypedDict, total=False):
    """Changes of an item: given fields change, None empties one, absent fields stay."""

    title: str | None
    categories: list[str] | None
    attributes: Attributes | None
    embedding: list[float] | None
    hidden: bool


class ShownItem(TypedDict):
    """An item with its title."""

    item_id: str
    title: NotRequired[str | None]


class CodedItem(ShownItem):
    """An item with its title and semantic ID."""

    codes: list[int]


class NearItem(TypedDict):
    """An item near a given one."""

    item_id: str
    title: str | None
    codes: list[int]


class CodeReason(TypedDict):
    """Contribution of one code of a recommended item."""

    code: int
    name: NotRequired[str | None]
    log_prob: NotRequired[float | None]
    items: int
    examples: list[ShownItem]


class HistoryReason(ShownItem):
    """Contribution of one item of the history."""

    contribution: NotRequired[float | None]


class Explanation(TypedDict):
    """Reasons for one recommended item."""

    codes: list[CodeReason]
    history: list[HistoryReason]


class RecommendedItem(TypedDict):
    """One recommended item. Scores are comparable inside one answer only."""

    item_id: str
    score: float
    log_prob: float
    codes: list[int]
    title: NotRequired[str | None]
    explanation: NotRequired[Explanation | None]


class RecommendResponse(TypedDict):
    """Recommendations for one request, best first."""

    request_id: str
    model_version: str
    served_by: Literal["model", "cache", "popular"]
    degraded: bool
    took_ms: float
    unknown_items: list[str]
    items: list[RecommendedItem]


class EventsResponse(TypedDict):
    """Result of recording events."""

    accepted: int
    duplicates: int
    event_ids: NotRequired[list[str]]
    timestamps: NotRequired[list[int]]


class PutResponse(TypedDict):
    """Result of putting an item."""

    item_id: str
    model_version: str
    revision: int
    codes: list[int]
    is_new: bool
    nearest: list[NearItem]
    recommendable_after_ms: float


class ItemResponse(TypedDict):
    """One item as the service knows it."""

    item_id: str
    model_version: str
    revision: int
    title: str | None
    categories: list[str]
    attributes: dict[str, Any]
    codes: list[int]
    hidden: bool
    is_new: bool


class DeleteResponse(TypedDict):
    """Result of hiding an item."""

    item_id: str
    revision: int
    hidden: bool


class BulkResponse(TypedDict):
    """Result of a bulk upload."""

    items: int
    new: int
    revision: int
    recommendable_after_ms: float


class StoredInteraction(TypedDict):
    """One interaction of a user's stored history."""

    item_id: str
    type: EventType | None
    timestamp: int | None


class UserResponse(TypedDict):
    """Stored history of a user."""

    user_id: str
    count: int
    history: list[str]
    interactions: list[StoredInteraction]
    newest_event_at: int | None


class ForgottenResponse(TypedDict):
    """Amount of data that was erased of a user."""

    history: int
    events: int


class SimilarItem(CodedItem):
    """An item like another one."""

    similarity: NotRequired[float | None]
    shared_codes: int


class SimilarResponse(TypedDict):
    """Items like a given one, most similar first."""

    model_version: str
    items: list[SimilarItem]


class NextCode(TypedDict):
    """A code that may follow a prefix."""

    code: int
    name: NotRequired[str | None]
    items: int


class SharedTrait(TypedDict):
    """A value that is more frequent below a prefix than in the catalogue."""

    field: str
    value: str
    share: float
    catalogue_share: float
    lift: float


class CodesResponse(TypedDict):
    """Items below a code prefix, and what they have in common."""

    model_version: str
    prefix: list[int]
    name: NotRequired[str | None]
    total: int
    items: list[CodedItem]
    next_codes: list[NextCode]
    common: list[SharedTrait]
    measured_items: int


class CountedItem(CodedItem):
    """An item, with its events and its popularity."""

    events: float
    popularity: int


class PopularResponse(TypedDict):
    """Popular or trending items."""

    model_version: str
    items: list[CountedItem]


class FieldProblem(TypedDict):
    """A wrong field of a request, and what it takes."""

    field: str
    message: str
    expected: NotRequired[str | None]
    limit: NotRequired[float | None]
