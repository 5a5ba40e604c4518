"""What a change of the live catalogue says of an item, for those who read it without the service: retraining.

The service checks what clients send (``service/schemas/items.py``) and writes the payload; this is its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

TEXT = "text"
"""Name of the attribute that attributes given as plain text become."""


class ItemContent(NamedTuple):
    """What is known of an item besides its interactions."""

    title: str  # "" where unknown
    categories: tuple[str, ...]
    attributes: dict[str, Any]


class NewItem(NamedTuple):
    """What a model encodes."""

    title: str  # "" where unknown
    categories: Sequence[str]
    attributes: Mapping[str, Any] | str  # text, or values by key
    embedding: Sequence[float] | None = None  # raw, [d_s], where the model was trained on embeddings of the user's


class _Payload(BaseModel):
    model_config = ConfigDict(extra="ignore")  # an embedding is no content

    title: str = ""
    categories: list[str] = []
    attributes: dict[str, JsonValue] | str = {}


def named(attributes: dict[str, JsonValue] | str) -> dict[str, JsonValue]:
    """Attributes by key; plain text has the key :data:`TEXT`."""
    if isinstance(attributes, str):
        return {TEXT: attributes} if attributes else {}
    return attributes


def read_content(payload: bytes) -> ItemContent | None:
    """What a ``put`` says; ``None`` if it does not decode."""
    try:
        body = _Payload.model_validate_json(payload)
    except ValidationError:
        return None
    return ItemContent(body.title, tuple(dict.fromkeys(body.categories)), named(body.attributes))
