"""Every operation of the API as a description of its HTTP request, which both clients send."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from etegrec_client import types as t

A = TypeVar("A")

JSON_LINES = "application/jsonl"


@dataclass(frozen=True)
class Call(Generic[A]):
    """Request for an answer of type ``A``."""

    method: str
    path: str
    body: bytes | None = None
    media_type: str = "application/json"
    query: Mapping[str, Any] = field(default_factory=dict)


def recommend(request: t.RecommendRequest) -> Call[t.RecommendResponse]:
    """Return the call of ``POST /recommend``."""
    return Call("POST", "/recommend", _encode(request))


def recommend_batch(requests: Sequence[t.RecommendRequest]) -> Call[list[t.RecommendResponse]]:
    """Return the call of ``POST /recommend/batch``."""
    return Call("POST", "/recommend/batch", _encode(list(requests)))


def record_events(events: Iterable[t.Event]) -> Call[t.EventsResponse]:
    """Return the call of ``POST /events``. Events without an id get one here: a repeated call counts once."""
    return Call("POST", "/events", _encode([{"event_id": uuid.uuid4().hex, **event} for event in events]))


def get_item(item_id: t.Id) -> Call[t.ItemResponse]:
    """Return the call of ``GET /items/{id}``."""
    return Call("GET", _item(item_id))


def put_item(item_id: t.Id, item: t.Item) -> Call[t.PutResponse]:
    """Return the call of ``PUT /items/{id}``."""
    return Call("PUT", _item(item_id), _encode(item))


def patch_item(item_id: t.Id, patch: t.ItemPatch) -> Call[t.ItemResponse]:
    """Return the call of ``PATCH /items/{id}``."""
    return Call("PATCH", _item(item_id), _encode(patch), "application/merge-patch+json")


def delete_item(item_id: t.Id) -> Call[t.DeleteResponse]:
    """Return the call of ``DELETE /items/{id}``."""
    return Call("DELETE", _item(item_id))


def upload_items(items: Iterable[t.BulkItem]) -> Call[t.BulkResponse]:
    """Return the call of ``POST /items/bulk``."""
    return Call("POST", "/items/bulk", b"".join(_encode(item) + b"\n" for item in items), JSON_LINES)


def similar_items(item_id: t.Id, k: int) -> Call[t.SimilarResponse]:
    """Return the call of ``GET /items/{id}/similar``."""
    return Call("GET", f"{_item(item_id)}/similar", query={"k": k})


def items_by_codes(prefix: Sequence[int], limit: int, offset: int) -> Call[t.CodesResponse]:
    """Return the call of ``GET /codes/{prefix}``."""
    return Call("GET", f"/codes/{'-'.join(map(str, prefix))}", query={"limit": limit, "offset": offset})


def popular_items(category: str | None, k: int) -> Call[t.PopularResponse]:
    """Return the call of ``GET /popular``."""
    return Call("GET", "/popular", query=_given(category=category, k=k))


def trending_items(category: str | None, k: int) -> Call[t.PopularResponse]:
    """Return the call of ``GET /trending``."""
    return Call("GET", "/trending", query=_given(category=category, k=k))


def get_user(user_id: t.Id) -> Call[t.UserResponse]:
    """Return the call of ``GET /users/{id}``."""
    return Call("GET", _user(user_id))


def delete_user(user_id: t.Id) -> Call[t.ForgottenResponse]:
    """Return the call of ``DELETE /users/{id}``."""
    return Call("DELETE", _user(user_id))


def get_model() -> Call[dict[str, Any]]:
    """Return the call of ``GET /model``."""
    return Call("GET", "/model")


def health_live() -> Call[dict[str, Any]]:
    """Return the call of ``GET /health/live``."""
    return Call("GET", "/health/live")


def health_ready() -> Call[dict[str, Any]]:
    """Return the call of ``GET /health/ready``."""
    return Call("GET", "/health/ready")


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _item(item_id: t.Id) -> str:
    return f"/items/{quote(str(item_id), safe='')}"


def _user(user_id: t.Id) -> str:
    return f"/users/{quote(str(user_id), safe='')}"


def _given(**query: object) -> dict[str, object]:
    return {name: value for name, value in query.items() if value is not None}
