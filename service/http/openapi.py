"""The OpenAPI document behind GET /docs, made from the endpoints.

The framework derives paths, names and descriptions. It would derive the rest only from handlers whose bodies, queries
and keys it reads itself; here the service reads them (see :mod:`service.http.body`), so this module adds the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import TypeAdapter

from model_store.catalogue.catalogue import ID_BYTES
from service.access.keys import HEADER, SCOPES
from service.http.endpoints import Endpoint
from service.http.limits import describe_length, describe_limits
from service.http.problems import PROBLEM_JSON, ProblemDocument
from service.schemas.browse import CODE_PREFIX
from service.settings import Settings

Json = dict[str, Any]

_REF = "#/components/schemas/"
_PROBLEM = {
    "description": "Problem",
    "content": {PROBLEM_JSON: {"schema": {"$ref": f"{_REF}{ProblemDocument.__name__}"}}},
}
_KEY_NEEDED = f"needed where keys are configured; each operation names the scope it needs: {', '.join(sorted(SCOPES))}"
_PATH_PARAMETER = re.compile(r"{(\w+)(:id)?}")
_ID_SCHEMA = {"type": "string", "minLength": 1, "maxLength": ID_BYTES}
_PATH_SCHEMAS = {"prefix": {"type": "string", "pattern": CODE_PREFIX}}


def describe(app: FastAPI, endpoints: Sequence[Endpoint], settings: Settings) -> None:
    """Make the app's description complete, with the limits of these settings. It is computed when it is asked for."""
    derive = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(derive(), endpoints, settings)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: Json, endpoints: Sequence[Endpoint], settings: Settings) -> Json:
    schemas, components = _collect_schemas(endpoints)
    describe_limits(components, settings)

    for endpoint in endpoints:
        path = document["paths"][endpoint.path.replace(":id", "")]
        path[endpoint.method.lower()] |= _describe_operation(endpoint, schemas, settings)

    document["components"] = {
        "schemas": components,
        "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": HEADER, "description": _KEY_NEEDED}},
    }
    return document


def _describe_operation(endpoint: Endpoint, schemas: dict[str, Json], settings: Settings) -> Json:
    operation: Json = {"responses": _describe_responses(endpoint, schemas[_key(endpoint, "answer")])}

    parameters = [*_describe_path(endpoint), *_describe_query(endpoint)]
    if parameters:
        operation["parameters"] = parameters

    if endpoint.body is not None:
        schema = schemas[_key(endpoint, "body")]
        if endpoint.max_entries:
            describe_length(schema, getattr(settings, endpoint.max_entries))
        operation["requestBody"] = {"required": True, "content": {endpoint.body_media: {"schema": schema}}}

    if endpoint.access != "open":
        operation["security"] = [{}, {"key": [endpoint.access]}]
    return operation


def _collect_schemas(endpoints: Sequence[Endpoint]) -> tuple[dict[str, Json], Json]:
    """Return the JSON schemas of all bodies and answers by :func:`_key`, and of the models they refer to by name."""
    types = {_key(endpoint, "answer"): endpoint.answer for endpoint in endpoints}
    types |= {_key(endpoint, "body"): endpoint.body for endpoint in endpoints if endpoint.body is not None}
    types["problem"] = ProblemDocument

    adapters: list[tuple[str, Literal["validation"], TypeAdapter[Any]]] = [
        (key, "validation", TypeAdapter(type_)) for key, type_ in types.items()
    ]
    schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REF + "{model}")
    return {key: schema for (key, _), schema in schemas.items()}, definitions["$defs"]


def _key(endpoint: Endpoint, part: str) -> str:
    return f"{part} of {endpoint.method} {endpoint.path}"


def _describe_responses(endpoint: Endpoint, answer: Json) -> Json:
    media = endpoint.answer_media.partition(";")[0]
    responses: Json = {"200": {"description": "OK", "content": {media: {"schema": answer}}}}
    return responses | {str(status): _PROBLEM for status in endpoint.statuses}


def _describe_path(endpoint: Endpoint) -> list[Json]:
    names = [match[1] for match in _PATH_PARAMETER.finditer(endpoint.path)]
    return [
        {"name": name, "in": "path", "required": True, "schema": _PATH_SCHEMAS.get(name, _ID_SCHEMA)} for name in names
    ]


def _describe_query(endpoint: Endpoint) -> list[Json]:
    if endpoint.query is None:
        return []
    fields = endpoint.query.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields.items()]
