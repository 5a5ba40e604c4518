"""Items: their content, changes, previews, and lists of them."""

from typing import Any, NotRequired, Required, TypedDict

from etegrec_client.types.fields import Attributes, Id


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


class PutResponse(TypedDict):
    """Result of putting an item."""

    item_id: str
    model_version: str
    revision: int
    codes: list[int]
    is_new: bool
    says_nothing: bool
    nearest: list[NearItem]
    recommendable_after_ms: float


class DisplacedItem(CodedItem):
    """An item that would leave answers."""

    answers: int


class ItemPreviewResponse(TypedDict):
    """Where a new item would stand."""

    model_version: str
    codes: list[int]
    names: list[str | None]
    nearest: list[NearItem]
    histories: int
    users: int
    ranks: list[int]
    displaced: list[DisplacedItem]


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
    say_nothing: int
    revision: int
    recommendable_after_ms: float


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
    popularity: int
    category: str | None


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


class FoundItem(CodedItem):
    """An item that was found by its title."""

    categories: list[str]
    popularity: int
    hidden: bool
    is_new: bool


class ItemsResponse(TypedDict):
    """Items found by their titles, best first."""

    model_version: str
    total: int
    items: list[FoundItem]


class CountedItem(CodedItem):
    """An item, with its events and its popularity."""

    events: float
    popularity: int


class PopularResponse(TypedDict):
    """Popular or trending items."""

    model_version: str
    items: list[CountedItem]
