"""The OpenAPI document behind GET /docs, made from the endpoints.

The framework derives paths, names and descriptions. It would derive the rest only from handlers whose bodies, queries
and keys it reads itself; here the service reads them (see :mod:`service.http.body`), so this module adds the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import TypeAdapter

from model_store.catalogue.catalogue import ID_BYTES
from service.access.keys import HEADER, SCOPES
from service.http.bulk_upload import MEDIA_TYPES
from service.http.endpoints import TAGS, Endpoint
from service.http.example import Example
from service.http.examples import EXAMPLES
from service.http.limits import describe_length, describe_limits
from service.http.problems import PROBLEM_JSON, ProblemDocument
from service.schemas.browse import CODE_PREFIX
from service.schemas.placements import NAME_PATTERN
from service.settings import Settings

Json = dict[str, Any]

JSON_LINES = MEDIA_TYPES[0]
"""Media type of bulk uploads."""

_DESCRIPTION = (
    "Recommendations by a generative model. Ids of users, items and events are text of 1 to 128 bytes; in JSON bodies "
    "an integer counts as its decimal text. Errors are problem documents (RFC 9457)."
)
_REF = "#/components/schemas/"
_PROBLEM = {
    "description": "Problem",
    "content": {PROBLEM_JSON: {"schema": {"$ref": f"{_REF}{ProblemDocument.__name__}"}}},
}
_KEY_NEEDED = f"needed where keys are configured; each operation names the scope it needs: {', '.join(sorted(SCOPES))}"
_PATH_PARAMETER = re.compile(r"{(\w+)(:id)?}")
_ID_SCHEMA = {"type": "string", "minLength": 1, "maxLength": ID_BYTES}
_PATH_SCHEMAS = {
    "prefix": {"type": "string", "pattern": CODE_PREFIX},
    "name": {"type": "string", "pattern": NAME_PATTERN},
}


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

    document["info"]["version"] = version("etegrec")
    document["info"]["description"] = _DESCRIPTION
    document["tags"] = [{"name": name, "description": description} for name, description in TAGS.items()]
    document["components"] = {
        "schemas": components,
        "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": HEADER, "description": _KEY_NEEDED}},
    }
    return document


def _describe_operation(endpoint: Endpoint, schemas: dict[str, Json], settings: Settings) -> Json:
    example = EXAMPLES[endpoint.operation_id]
    operation: Json = {"responses": _describe_responses(endpoint, schemas[_key(endpoint, "answer")], example)}

    parameters = [*_describe_path(endpoint, example), *_describe_query(endpoint, example)]
    if parameters:
        operation["parameters"] = parameters

    if endpoint.body is not None:
        schema = schemas[_key(endpoint, "body")]
        if endpoint.max_entries:
            describe_length(schema, getattr(settings, endpoint.max_entries))
        if endpoint.body_media == JSON_LINES:
            schema = _describe_lines(schema)
        content = {endpoint.body_media: {"schema": schema, "example": example.body}}
        operation["requestBody"] = {"required": True, "content": content}

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


def _describe_lines(line: Json) -> Json:
    """Return the schema of JSON Lines: one text, which generated clients send as it is, of lines of this schema.

    It names no ``contentMediaType``, for which Swagger UI and some generators take a text as a file.
    """
    return {
        "type": "string",
        "contentSchema": line,
        "description": "JSON Lines in UTF-8: one JSON object a line, each of the schema of `contentSchema`; empty "
        "lines are skipped.",
    }


def _describe_responses(endpoint: Endpoint, answer: Json, example: Example) -> Json:
    media = endpoint.answer_media.partition(";")[0]
    content = {media: {"schema": answer, "example": example.answer}}
    responses: Json = {"200": {"description": "OK", "content": content}}
    return responses | {str(status): _PROBLEM for status in endpoint.statuses}


def _describe_path(endpoint: Endpoint, example: Example) -> list[Json]:
    names = [match[1] for match in _PATH_PARAMETER.finditer(endpoint.path)]
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _PATH_SCHEMAS.get(name, _ID_SCHEMA),
            "example": example.path[name],
        }
        for name in names
    ]


def _describe_query(endpoint: Endpoint, example: Example) -> list[Json]:
    if endpoint.query is None:
        return []
    fields = endpoint.query.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        | ({"example": example.query[name]} if name in example.query else {})
        for name, schema in fields.items()
    ]
