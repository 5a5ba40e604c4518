"""Payload of an item in a catalogue change: title, categories and attributes, as retraining reads them.

The service checks what clients send and writes the payload (``service/schemas/items.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

TEXT = "text"
"""Key under which attributes that came as plain text are kept."""


class ItemContent(NamedTuple):
    """Content of an item: everything that is known of it except its interactions."""

    title: str  # "" where unknown
    categories: tuple[str, ...]
    attributes: dict[str, Any]


class NewItem(NamedTuple):
    """Item that a model was not trained on, as its encoder reads it."""

    title: str  # "" where unknown
    categories: Sequence[str]
    attributes: Mapping[str, Any] | str  # text, or values by key
    embedding: Sequence[float] | None = None  # raw, [d_s]; only where the model was trained on given embeddings


class _Payload(BaseModel):
    model_config = ConfigDict(extra="ignore")  # an embedding is not content

    title: str = ""
    categories: list[str] = []
    attributes: dict[str, JsonValue] | str = {}


def named(attributes: dict[str, JsonValue] | str) -> dict[str, JsonValue]:
    """Return attributes by key; plain text gets the key :data:`TEXT`."""
    if isinstance(attributes, str):
        return {TEXT: attributes} if attributes else {}
    return attributes


def read_content(payload: bytes) -> ItemContent | None:
    """Decode the payload of a ``put``; ``None`` if it is not valid."""
    try:
        body = _Payload.model_validate_json(payload)
    except ValidationError:
        return None
    return ItemContent(body.title, tuple(dict.fromkeys(body.categories)), named(body.attributes))
