"""What the modules of endpoints share: the shape of an endpoint, reading ids and queries, writing JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

import orjson
from pydantic import BaseModel, ValidationError
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from model_store.catalogue.catalogue import ID_BYTES
from service.api_keys import HEADER
from service.errors import FieldError, InvalidFields
from service.http.body import read_body
from service.service import Service

Handler = Callable[[Service, Request], Awaitable[Response]]
Query = TypeVar("Query", bound=BaseModel)


class IdConvertor(StringConvertor):
    """The rest of a path, or what stands before a suffix, as an id: it may hold any character."""

    regex = r"[\s\S]*"


register_url_convertor("id", IdConvertor())


class Endpoint(NamedTuple):
    """One operation of the interface; its docstring is its description.

    Attributes:
        method: HTTP method.
        path: Starlette's path; ``{item_id:id}`` lets ids hold slashes and line feeds.
        handler: Answers a request of the service.
    """

    method: str
    path: str
    handler: Handler


def check_key(service: Service, request: Request, *, write: bool) -> None:
    """Return if the request's key allows it; raises like :meth:`service.api_keys.Keys.check`."""
    service.keys.check(request.headers.get(HEADER), write=write)


async def body_of(service: Service, request: Request) -> bytes:
    """The JSON body within the settings' bounds; raises like :func:`service.http.body.read_body`."""
    return await read_body(request, service.settings.max_body_bytes, service.settings.body_timeout_s)


def id_of(request: Request, name: str) -> str:
    """An item or user id from the path, percent-decoded.

    Raises:
        InvalidFields: It is empty, too long, or no UTF-8: replacing what does not decode would name someone else.
    """
    value = str(request.path_params[name])
    try:
        unquote_to_bytes(request.scope.get("raw_path", b"")).decode()
    except UnicodeDecodeError:
        raise InvalidFields([FieldError(name, "must be percent-encoded UTF-8")]) from None
    if not 1 <= len(value.encode()) <= ID_BYTES:
        raise InvalidFields([FieldError(name, f"must be 1 to {ID_BYTES} bytes long in UTF-8")])
    return value


def query_of(request: Request, model: type[Query]) -> Query:
    """The query string as a model; text becomes numbers where the model wants them.

    Raises:
        InvalidFields: A parameter is unknown, repeated, of the wrong type or out of bounds.
    """
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        raise InvalidFields([FieldError("query", "repeats a parameter")])
    if not values.keys() <= model.model_fields.keys():
        raise InvalidFields([FieldError("query", f"holds a parameter that is none of {', '.join(model.model_fields)}")])
    try:
        return model.model_validate_strings(values)
    except ValidationError as refused:
        raise InvalidFields.of(refused) from None


def json_answer(content: object) -> Response:
    """200 with a JSON body."""
    return Response(orjson.dumps(content), media_type="application/json")
