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


def why_not(request: t.WhyNotRequest) -> Call[t.WhyNotResponse]:
    """Return the call of ``POST /recommend/why-not``."""
    return Call("POST", "/recommend/why-not", _encode(request))


def put_placement(name: str, placement: t.Placement, revision: int | None) -> Call[t.PlacementResponse]:
    """Return the call of ``PUT /placements/{name}``."""
    return Call("PUT", _placement(name), _encode(placement), query=_given(revision=revision))


def get_placement(name: str) -> Call[t.PlacementResponse]:
    """Return the call of ``GET /placements/{name}``."""
    return Call("GET", _placement(name))


def list_placements() -> Call[t.PlacementsResponse]:
    """Return the call of ``GET /placements``."""
    return Call("GET", "/placements")


def delete_placement(name: str, revision: int | None) -> Call[t.DeletedPlacementResponse]:
    """Return the call of ``DELETE /placements/{name}``."""
    return Call("DELETE", _placement(name), query=_given(revision=revision))


def preview_placement(
    placement: t.Placement, replaces: str | None, histories: int, at: int | None
) -> Call[t.PlacementPreviewResponse]:
    """Return the call of ``POST /placements/preview``."""
    query = _given(replaces=replaces, histories=histories, at=at)
    return Call("POST", "/placements/preview", _encode(placement), query=query)


def put_experiment(name: str, experiment: t.Experiment, revision: int | None) -> Call[t.ExperimentResponse]:
    """Return the call of ``PUT /experiments/{name}``."""
    return Call("PUT", _experiment(name), _encode(experiment), query=_given(revision=revision))


def get_experiment(name: str) -> Call[t.ExperimentResponse]:
    """Return the call of ``GET /experiments/{name}``."""
    return Call("GET", _experiment(name))


def list_experiments() -> Call[t.ExperimentsResponse]:
    """Return the call of ``GET /experiments``."""
    return Call("GET", "/experiments")


def delete_experiment(name: str, revision: int | None, *, force: bool) -> Call[t.DeletedExperimentResponse]:
    """Return the call of ``DELETE /experiments/{name}``."""
    return Call("DELETE", _experiment(name), query=_given(revision=revision, force="true" if force else None))


def get_experiment_report(name: str) -> Call[t.ExperimentReportResponse]:
    """Return the call of ``GET /experiments/{name}/report``."""
    return Call("GET", f"{_experiment(name)}/report")


def record_events(events: Iterable[t.Event]) -> Call[t.EventsResponse]:
    """Return the call of ``POST /events``. Events without an id get one here: a repeated call counts once."""
    return Call("POST", "/events", _encode([{"event_id": uuid.uuid4().hex, **event} for event in events]))


def get_item(item_id: t.Id) -> Call[t.ItemResponse]:
    """Return the call of ``GET /items/{id}``."""
    return Call("GET", _item(item_id))


def put_item(item_id: t.Id, item: t.Item) -> Call[t.PutResponse]:
    """Return the call of ``PUT /items/{id}``."""
    return Call("PUT", _item(item_id), _encode(item))


def preview_item(item: t.Item, k: int, histories: int) -> Call[t.ItemPreviewResponse]:
    """Return the call of ``POST /items/preview``."""
    return Call("POST", "/items/preview", _encode(item), query={"k": k, "histories": histories})


def patch_item(item_id: t.Id, patch: t.ItemPatch) -> Call[t.ItemResponse]:
    """Return the call of ``PATCH /items/{id}``."""
    return Call("PATCH", _item(item_id), _encode(patch), "application/merge-patch+json")


def delete_item(item_id: t.Id) -> Call[t.DeleteResponse]:
    """Return the call of ``DELETE /items/{id}``."""
    return Call("DELETE", _item(item_id))


def upload_items(items: Iterable[t.BulkItem]) -> Call[t.BulkResponse]:
    """Return the call of ``POST /items/bulk``."""
    return Call("POST", "/items/bulk", b"".join(_encode(item) + b"\n" for item in items), JSON_LINES)


def search_items(query: str, limit: int, offset: int) -> Call[t.ItemsResponse]:
    """Return the call of ``GET /items``."""
    return Call("GET", "/items", query={"query": query, "limit": limit, "offset": offset})


def similar_items(item_id: t.Id, k: int) -> Call[t.SimilarResponse]:
    """Return the call of ``GET /items/{id}/similar``."""
    return Call("GET", f"{_item(item_id)}/similar", query={"k": k})


def first_codes(limit: int, offset: int) -> Call[t.CodesResponse]:
    """Return the call of ``GET /codes``."""
    return Call("GET", "/codes", query={"limit": limit, "offset": offset})


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


def get_attribution(days: int) -> Call[t.AttributionResponse]:
    """Return the call of ``GET /attribution``."""
    return Call("GET", "/attribution", query=_given(days=days))


def get_code_attribution(days: int) -> Call[t.CodeAttributionResponse]:
    """Return the call of ``GET /attribution/codes``."""
    return Call("GET", "/attribution/codes", query=_given(days=days))


def get_model() -> Call[dict[str, Any]]:
    """Return the call of ``GET /model``."""
    return Call("GET", "/model")


def get_models() -> Call[t.ModelsResponse]:
    """Return the call of ``GET /models``."""
    return Call("GET", "/models")


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


def _placement(name: str) -> str:
    return f"/placements/{quote(name, safe='')}"


def _experiment(name: str) -> str:
    return f"/experiments/{quote(name, safe='')}"


def _user(user_id: t.Id) -> str:
    return f"/users/{quote(str(user_id), safe='')}"


def _given(**query: object) -> dict[str, object]:
    return {name: value for name, value in query.items() if value is not None}
