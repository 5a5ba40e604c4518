"""Items as clients send them, as the change stream stores them, and as answers show them.

The change stream stores exactly the JSON that ``PUT /items/{id}`` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, NotRequired, Self

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    JsonValue,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from typing_extensions import TypedDict

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.changes import ItemPut
from model_store.replication.item_payload import named
from service.schemas.ids import ShortId
from service.schemas.types import Body, Listed, Nullable
from service.store.change_stream import RawChange

MAX_PAYLOAD_BYTES = 65_536
"""Size of the longest item, as JSON. Replicas read thousands of changes at once."""

MAX_CONTAINERS = 1024
"""Largest number of JSON objects and lists in one item: itself, its fields and what lies in its attributes."""

MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**63 - 1
"""Range of integers in attributes: what JSON encoders, databases and other languages hold without loss."""


def _check_size(value: float) -> float:
    if abs(value) > 1e30:
        raise ValueError("must be at most 1e30 in size")
    return value


def _check_integers(values: Iterable[JsonValue]) -> None:
    """Raise ``ValueError`` if a value is, or contains, an integer beyond 64 bits; without the key, a client's word."""
    for value in values:
        if isinstance(value, int):
            if not MIN_INTEGER <= value <= MAX_INTEGER:
                raise ValueError(f"integers must be {MIN_INTEGER} to {MAX_INTEGER}, which is what 64 bits hold")
        elif isinstance(value, dict):
            _check_integers(value.values())
        elif isinstance(value, list):
            _check_integers(value)


Title = Annotated[str, Field(max_length=2000)]
Categories = Annotated[Listed[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=256)]
Attributes = Annotated[dict[str, JsonValue], Field(max_length=256)] | Annotated[str, Field(max_length=20_000)]
Embedding = Annotated[Listed[Annotated[FiniteFloat, AfterValidator(_check_size)]], Field(max_length=4096)]


class StoredItem(Body):
    """Item as the change stream holds it, without the bounds that clients are held to.

    It may be older than a bound, or come from an items file, which has none, and be stored because a client hid it,
    brought it back or changed another field.
    """

    title: str = ""
    categories: list[str] = Field([])
    attributes: dict[str, JsonValue] | str = Field(default_factory=dict, description="text, or values by key")
    embedding: list[FiniteFloat] | None = Field(
        None, description="the item's embedding; only where the model was trained on given ones"
    )

    @property
    def named_attributes(self) -> dict[str, JsonValue]:
        """Attributes by key; plain text has the key ``text``."""
        return named(self.attributes)

    @property
    def unique_categories(self) -> tuple[str, ...]:
        """Categories, each once."""
        return tuple(dict.fromkeys(self.categories))

    def payload(self) -> bytes:
        """Return the JSON that the change stream stores."""
        return self.model_dump_json(exclude_defaults=True).encode()

    def put(self, item_id: str) -> ItemPut:
        """Return the change of the catalogue, without codes and vector."""
        return ItemPut(item_id, self.title, self.unique_categories, self.named_attributes)

    def change(self, item_id: str) -> RawChange:
        """Return the entry to append to the change stream."""
        return RawChange(item_id, "put", self.payload())


_CONTENT = frozenset(StoredItem.model_fields)


def _check_attributes(attributes: dict[str, JsonValue] | str) -> dict[str, JsonValue] | str:
    """Refuse what could be stored but not be read again everywhere: other programs' integers have 64 bits."""
    if not isinstance(attributes, str):
        _check_integers(attributes.values())
    return attributes


GivenAttributes = Annotated[Attributes, AfterValidator(_check_attributes)]


class ItemBody(StoredItem):
    """Body of `PUT /items/{id}`. It replaces the whole item: fields that are left out become empty."""

    title: Title = ""
    categories: Categories = Field([])
    attributes: GivenAttributes = Field(default_factory=dict, description="text, or values by key")
    embedding: Embedding | None = Field(
        None, description="the item's embedding; only where the model was trained on given ones"
    )

    @model_validator(mode="after")
    def _check_that_something_is_given(self) -> Self:
        """Refuse a body without content: it would empty the item, which nobody means to."""
        if _CONTENT.isdisjoint(self.model_fields_set):
            raise ValueError(f"needs at least one of {', '.join(StoredItem.model_fields)}")
        return self


class _Attributes(Body):
    """Attributes with a patch applied to them. Older values may lie beyond the integers that clients may send now."""

    attributes: Attributes


class ItemPatch(Body):
    """Body of `PATCH /items/{id}`, a JSON merge patch: given fields change, null empties, absent fields stay."""

    title: Title | None = None
    categories: Categories | None = None
    attributes: GivenAttributes | None = Field(
        None, description="text, or values by key: given keys change, null removes one, absent keys stay"
    )
    embedding: Embedding | None = None
    hidden: bool = Field(False, description="whether to hide the item, or to bring it back with its content")

    @model_validator(mode="after")
    def _check_that_something_is_given(self) -> Self:
        """Refuse a patch that changes nothing."""
        if not self.model_fields_set:
            raise ValueError(f"needs at least one of {', '.join(ItemPatch.model_fields)}")
        return self

    def apply(self, item: StoredItem, *, is_hidden: bool) -> tuple[StoredItem, bool]:
        """Return the patched item, and whether it is hidden. Fields that the patch leaves alone are not checked.

        Raises:
            ValidationError: The outcome is no valid item: it has too many attributes.
        """
        changed = self.model_dump(exclude_unset=True)
        is_hidden = changed.pop("hidden", is_hidden)
        if changed.get("attributes") is not None:
            merged = merge_patch(item.named_attributes, changed["attributes"])
            changed["attributes"] = _Attributes.model_validate({"attributes": merged}).attributes

        empty = StoredItem()
        given = {name: getattr(empty, name) if value is None else value for name, value in changed.items()}
        return item.model_copy(update=given), is_hidden


def merge_patch(target: JsonValue, patch: JsonValue) -> JsonValue:
    """Return the target with a JSON merge patch applied to it (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch

    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


class BulkItem(ItemBody):
    """One line of the body of `POST /items/bulk`."""

    item_id: ShortId

    @property
    def bulk_change(self) -> RawChange:
        """Entry to append to the change stream."""
        return RawChange(self.item_id, "put", self.model_dump_json(exclude_defaults=True, exclude={"item_id"}).encode())


ONE_PATCH: TypeAdapter[ItemPatch] = TypeAdapter(ItemPatch)
"""Body of `PATCH /items/{id}`."""

ONE_ITEM: TypeAdapter[ItemBody] = TypeAdapter(ItemBody)
"""Body of `PUT /items/{id}`."""

BULK_ITEM: TypeAdapter[BulkItem] = TypeAdapter(BulkItem)
"""One line of the body of `POST /items/bulk`."""


def read_payload(payload: bytes) -> StoredItem | None:
    """Read what :meth:`StoredItem.payload` wrote; ``None`` if this release does not understand it."""
    try:
        return StoredItem.model_validate_json(payload)
    except ValidationError:
        return None


def delete_change(item_id: str, content: bytes = b"") -> RawChange:
    """Return the entry to append to the change stream to hide an item; ``content`` is its payload, if it is known."""
    return RawChange(item_id, "delete", content)


class ShownItem(TypedDict):
    """An item with its title."""

    item_id: str
    title: NotRequired[Nullable[str]]


class CodedItem(ShownItem):
    """An item with its title and semantic ID."""

    codes: list[int]


class NearItem(TypedDict):
    """An item near a given one."""

    item_id: str
    title: str | None
    codes: list[int]


class ItemResponse(TypedDict):
    """Answer of `GET /items/{id}` and `PATCH /items/{id}`."""

    item_id: str
    model_version: str
    revision: Annotated[int, Field(description="changes that the catalogue contained when this was read")]
    title: str | None
    categories: list[str]
    attributes: Mapping[str, JsonValue]
    codes: Annotated[list[int], Field(description="the item's semantic ID")]
    hidden: Annotated[bool, Field(description="deleted; a PATCH of `hidden` brings it back")]
    is_new: Annotated[bool, Field(description="it came after the version was published")]


class PutResponse(TypedDict):
    """Answer of `PUT /items/{id}`, sent once this replica can recommend the item."""

    item_id: str
    model_version: str
    revision: Annotated[int, Field(description="number of this change")]
    codes: Annotated[list[int], Field(description="the item's semantic ID; an update never changes it")]
    is_new: Annotated[bool, Field(description="it came after the version was published")]
    says_nothing: Annotated[
        bool,
        Field(
            description="true for a new item of which nothing can be read, neither words nor categories nor attributes:"
            " its codes are a guess"
        ),
    ]
    nearest: Annotated[list[NearItem], Field(description="items most like it, best first; none if it says nothing")]
    recommendable_after_ms: Annotated[
        float, Field(description="from the request until this replica could recommend it")
    ]


class DeleteResponse(TypedDict):
    """Answer of `DELETE /items/{id}`, sent once no answer of this replica contains the item."""

    item_id: str
    revision: Annotated[int, Field(description="number of this change")]
    hidden: bool


class BulkResponse(TypedDict):
    """Answer of `POST /items/bulk`, sent once this replica can recommend the items."""

    items: Annotated[int, Field(description="lines stored")]
    new: Annotated[int, Field(description="items that the catalogue did not have")]
    say_nothing: Annotated[
        int, Field(description="lines of new items of which nothing can be read: their codes are a guess")
    ]
    revision: Annotated[int, Field(description="number of the last change")]
    recommendable_after_ms: float


def build_coded_item(catalogue: Catalogue, row: int) -> CodedItem:
    """Return the item in a row with its title and semantic ID."""
    return {
        "item_id": catalogue.item_ids[row],
        "title": catalogue.titles[row] or None,
        "codes": catalogue.codes[row].tolist(),
    }


def build_near_item(catalogue: Catalogue, row: int) -> NearItem:
    """Return the item in a row, found near another one."""
    return {
        "item_id": catalogue.item_ids[row],
        "title": catalogue.titles[row] or None,
        "codes": catalogue.codes[row].tolist(),
    }
