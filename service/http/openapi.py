"""The interface description behind GET /docs.

Handlers read their bodies themselves (see :mod:`service.http.body`), so the framework cannot derive this.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypedDict

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from model_store.catalogue.catalogue import ID_BYTES
from model_store.events.event import Event
from service.http.middleware import PROBLEM_JSON
from service.schemas.browse import (
    CODE_PREFIX,
    CodesQuery,
    CodesResponse,
    ForgottenResponse,
    PopularQuery,
    PopularResponse,
    SimilarQuery,
    SimilarResponse,
    UserResponse,
)
from service.schemas.items import BulkItem, BulkResponse, DeleteResponse, ItemBody, ItemResponse, PutResponse
from service.schemas.recommend import EventsResponse, ProblemDocument, RecommendRequest, RecommendResponse
from service.settings import Settings

_REF = "#/components/schemas/"
_PROBLEM = {PROBLEM_JSON: {"schema": {"$ref": f"{_REF}ProblemDocument"}}}
_MODELS: tuple[type[BaseModel], ...] = (
    RecommendRequest,
    RecommendResponse,
    Event,
    EventsResponse,
    UserResponse,
    ForgottenResponse,
    SimilarResponse,
    CodesResponse,
    PopularResponse,
    BulkItem,
    BulkResponse,
    ItemBody,
    PutResponse,
    DeleteResponse,
    ItemResponse,
    ProblemDocument,
)


class Documented(TypedDict):
    """What the framework is told about an endpoint."""

    description: str
    response_model: None
    openapi_extra: dict[str, Any]


class _Bodies(NamedTuple):
    request: dict[str, Any] | None
    answer: dict[str, Any]
    problems: tuple[int, ...]
    query: type[BaseModel] | None = None
    request_media: str = "application/json"


def _of(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REF + model.__name__}


def _list_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": _of(model)}


_ANY = {"type": "object"}
_READ = (400, 401, 408, 413, 415, 422, 429, 503, 504)
_LOOKUP = (401, 404, 422, 429, 503, 504)
_OPERATIONS = {
    "POST /recommend": _Bodies(_of(RecommendRequest), _of(RecommendResponse), _READ),
    "POST /recommend/batch": _Bodies(_list_of(RecommendRequest), _list_of(RecommendResponse), _READ),
    "POST /events": _Bodies(
        {"anyOf": [_of(Event), _list_of(Event)]}, _of(EventsResponse), (400, 401, 403, 408, 413, 415, 422, 503)
    ),
    "GET /users/{user_id}": _Bodies(None, _of(UserResponse), (401, 403, 404, 422, 503)),
    "DELETE /users/{user_id}": _Bodies(None, _of(ForgottenResponse), (401, 403, 404, 422, 503)),
    "POST /items/bulk": _Bodies(
        _of(BulkItem), _of(BulkResponse), (401, 403, 408, 409, 413, 415, 422, 503), None, "application/jsonl"
    ),
    "PUT /items/{item_id}": _Bodies(
        _of(ItemBody), _of(PutResponse), (400, 401, 403, 408, 409, 413, 415, 422, 429, 503, 504)
    ),
    "DELETE /items/{item_id}": _Bodies(None, _of(DeleteResponse), (401, 403, 404, 422, 503)),
    "GET /items/{item_id}": _Bodies(None, _of(ItemResponse), (401, 404, 422, 503)),
    "GET /items/{item_id}/similar": _Bodies(None, _of(SimilarResponse), _LOOKUP, SimilarQuery),
    "GET /codes/{prefix}": _Bodies(None, _of(CodesResponse), _LOOKUP, CodesQuery),
    "GET /popular": _Bodies(None, _of(PopularResponse), (401, 422, 429, 503, 504), PopularQuery),
    "GET /trending": _Bodies(None, _of(PopularResponse), (401, 422, 429, 503, 504), PopularQuery),
    "GET /model": _Bodies(None, _ANY, (401, 503)),
    "GET /health/live": _Bodies(None, _ANY, ()),
    "GET /health/ready": _Bodies(None, _ANY, (503,)),
    "GET /metrics": _Bodies(None, {"type": "string"}, ()),
}
_PATH_PARAMETER = re.compile(r"{(\w+)(:id)?}")
_IDENTIFIER = {"type": "string", "minLength": 1, "maxLength": ID_BYTES}
_PARAMETERS = {"prefix": {"type": "string", "pattern": CODE_PREFIX}}


def documented(method: str, path: str, description: str) -> Documented:
    """Parameters, request body, answer and possible problems of one operation."""
    bodies = _OPERATIONS[f"{method} {path.replace(':id', '')}"]
    media = "text/plain" if path == "/metrics" else "application/json"
    extra: dict[str, Any] = {
        "responses": {
            "200": {"description": "OK", "content": {media: {"schema": bodies.answer}}},
            **{str(status): {"description": "Problem", "content": _PROBLEM} for status in bodies.problems},
        }
    }
    parameters = [*_path_parameters(path), *_query_parameters(bodies.query)]
    if parameters:
        extra["parameters"] = parameters
    if bodies.request is not None:
        extra["requestBody"] = {"required": True, "content": {bodies.request_media: {"schema": bodies.request}}}
    if 401 in bodies.problems:
        extra["security"] = [{}, {"key": []}]
    return Documented(description=description, response_model=None, openapi_extra=extra)


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [match[1] for match in _PATH_PARAMETER.finditer(path)]
    return [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETERS.get(name, _IDENTIFIER)} for name in names
    ]


def _query_parameters(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    fields = model.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields.items()]


def describe(app: FastAPI, settings: Settings) -> None:
    """Make the app's description complete: schemas of all bodies, with the limits of these settings."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = derive()
            _, defined = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF + "{model}")
            _apply_limits(defined["$defs"], settings)
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(defined["$defs"])
            components["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
            for bodies in (each for path in schema["paths"].values() for each in path.values()):
                _apply_list_limits(bodies, settings)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _apply_limits(schemas: dict[str, Any], settings: Settings) -> None:
    schemas["RecommendRequest"]["properties"]["k"]["maximum"] = settings.max_k
    _first_array(schemas["RecommendRequest"]["properties"]["history"])["maxItems"] = settings.max_history_ids
    for part in schemas["Filter"]["properties"].values():
        _first_array(part)["maxItems"] = settings.max_filter_ids


def _apply_list_limits(operation: dict[str, Any], settings: Settings) -> None:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    limits = {f"{_REF}RecommendRequest": settings.max_batch_requests, f"{_REF}Event": settings.max_events}
    for array in (body, *body.get("anyOf", ())):
        if array.get("type") == "array":
            array["maxItems"] = limits[array["items"]["$ref"]]


def _first_array(schema: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in schema["anyOf"] if each.get("type") == "array")
