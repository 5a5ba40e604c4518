"""Items as clients send them, and as the change stream keeps them: what ``PUT /items/{id}`` takes, word for word."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, JsonValue, ValidationError

from model_store.catalogue.changes import ItemPut
from model_store.replication.item_payload import named
from service.schemas.recommend import Body, Listed, ShortId
from service.store.change_stream import RawChange

MAX_PAYLOAD_BYTES = 65_536
"""Longest item, as JSON. Replicas read thousands of changes at once."""


def _known_number(value: float) -> float:
    if abs(value) > 1e30:
        raise ValueError("must be at most 1e30 in size")
    return value


class ItemBody(Body):
    """What `PUT /items/{id}` takes. It replaces the whole item: what is left out is empty afterwards."""

    title: str = Field("", max_length=2000)
    categories: Listed[Annotated[str, Field(min_length=1, max_length=256)]] = Field([], max_length=256)
    attributes: dict[str, JsonValue] | Annotated[str, Field(max_length=20_000)] = Field(
        default_factory=dict, description="text, or values by key", max_length=256
    )
    embedding: Listed[Annotated[FiniteFloat, AfterValidator(_known_number)]] | None = Field(
        None, max_length=4096, description="the item's embedding; only where the model was trained on given ones"
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
        """As the change stream keeps it."""
        return self.model_dump_json(exclude_defaults=True).encode()

    def put(self, item_id: str) -> ItemPut:
        """The change of the catalogue, without codes and vector."""
        return ItemPut(item_id, self.title, self.unique_categories, self.named_attributes)

    def change(self, item_id: str) -> RawChange:
        """What is appended to the change stream."""
        return RawChange(item_id, "put", self.payload())


class BulkItem(ItemBody):
    """One line of what `POST /items/bulk` takes."""

    item_id: ShortId

    @property
    def bulk_change(self) -> RawChange:
        """What is appended to the change stream."""
        return RawChange(self.item_id, "put", self.model_dump_json(exclude_defaults=True, exclude={"item_id"}).encode())


class NearItem(BaseModel):
    """An item near a given one."""

    item_id: str
    title: str | None
    codes: list[int]


class ItemResponse(BaseModel):
    """What `GET /items/{id}` answers."""

    item_id: str
    model_version: str
    revision: int = Field(description="changes that the catalogue contained when this was read")
    title: str | None
    categories: list[str]
    attributes: dict[str, JsonValue]
    codes: list[int] = Field(description="the item's semantic ID")
    hidden: bool = Field(description="deleted; a PUT brings it back")
    is_new: bool = Field(description="the model was not trained on it")


class PutResponse(BaseModel):
    """What `PUT /items/{id}` answers once this replica can recommend the item."""

    item_id: str
    model_version: str
    revision: int = Field(description="number of this change")
    codes: list[int] = Field(description="the item's semantic ID; an update never changes it")
    is_new: bool = Field(description="the model was not trained on it")
    nearest: list[NearItem] = Field(description="items most like it, best first")
    recommendable_after_ms: float = Field(description="from the request until this replica could recommend it")


class DeleteResponse(BaseModel):
    """What `DELETE /items/{id}` answers once no answer of this replica contains the item."""

    item_id: str
    revision: int = Field(description="number of this change")
    hidden: bool


class BulkResponse(BaseModel):
    """What `POST /items/bulk` answers once this replica can recommend the items."""

    items: int = Field(description="lines stored")
    new: int = Field(description="items that the catalogue did not have")
    revision: int = Field(description="number of the last change")
    recommendable_after_ms: float


def read_payload(payload: bytes) -> ItemBody | None:
    """What :meth:`ItemBody.payload` wrote; ``None`` if this release does not understand it."""
    try:
        return ItemBody.model_validate_json(payload)
    except ValidationError:
        return None


def delete_change(item_id: str) -> RawChange:
    """What is appended to the change stream to hide an item."""
    return RawChange(item_id, "delete", b"")
