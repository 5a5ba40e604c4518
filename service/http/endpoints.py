"""The shape of an endpoint with its description, and what all endpoints share: ids, queries, keys, JSON answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_type_hints
from urllib.parse import unquote_to_bytes

from pydantic import TypeAdapter, ValidationError
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from model_store.catalogue.catalogue import ID_BYTES
from service.access.keys import HEADER, Scope
from service.access.limits import KeyUsage
from service.errors import InvalidFields
from service.field_errors import FieldError
from service.http.field_problems import invalid_fields, unknown_field
from service.http.json_answers import encode_answer
from service.schemas.types import Query
from service.service import Service

Handler = Callable[[Service, Request], Awaitable[object]]
"""Function that answers a request with a JSON document, or with bytes that are sent as they are."""

BoundHandler = Callable[[Request], Awaitable[Response]]
"""Handler of one running service, as the framework calls it."""

Access = Scope | Literal["open"]
"""Scope that the key of a request needs, or that it needs no key."""

Tag = Literal["recommendations", "placements", "experiments", "events", "items", "users", "browsing", "operation"]
"""Group of operations, in ``GET /docs`` and in generated clients."""

TAGS: dict[Tag, str] = {
    "recommendations": "Items for a user, by stored or given history, under the rules of the request.",
    "placements": "Named sets of rules, which requests name instead of repeating them. Changes hold within a second.",
    "experiments": "Variants of rules that users and sessions get by chance, and what they lead to.",
    "events": "What users did. A recorded event is in the user's history at once, and in the next training.",
    "items": "The catalogue: add, change, hide and show items. Changes are recommendable within milliseconds.",
    "users": "The stored data of a user: show it, erase it. It is personal data, so it needs the scope admin.",
    "browsing": "Similar, popular and trending items, and what items below a code prefix have in common.",
    "operation": "The model that answers, health and metrics.",
}
"""Descriptions of the groups, in the order in which they are shown."""

Q = TypeVar("Q", bound=Query)


class IdConvertor(StringConvertor):
    """Path convertor for an id that ends a path, or stands before a suffix: it may hold slashes."""

    regex = r"[\s\S]*"


register_url_convertor("id", IdConvertor())


@dataclass(frozen=True)
class Endpoint:
    """One operation of the API: how it is answered, and how ``GET /openapi.json`` describes it.

    The handler's docstring describes the operation, its return annotation the answer.

    Attributes:
        method: HTTP method.
        path: Starlette's path, matched before percent-encoding is decoded; ``{item_id:id}`` lets ids hold slashes.
        handler: Answers a request of the service, after its key was checked.
        access: Scope that a request's key needs, or "open".
        tag: Group of operations, see :data:`TAGS`.
        problems: Statuses of the problems it may answer with, besides those of keys and of reading a body.
        body: Type of the body.
        body_media: Media type of the body.
        max_entries: Setting that limits the length of a list as body.
        query: Model of the query string.
        answer_media: Media type of the answer.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    tag: Tag
    problems: tuple[int, ...] = ()
    body: Any = None
    body_media: str = "application/json"
    max_entries: str = ""
    query: type[Query] | None = None
    answer_media: str = "application/json"

    @property
    def operation_id(self) -> str:
        """Name of the operation, by which generated clients call it."""
        return self.handler.__name__

    @property
    def answer(self) -> Any:
        """Type of the answer."""
        return get_type_hints(self.handler, include_extras=True)["return"]

    @property
    def statuses(self) -> list[int]:
        """Statuses of all problems that it may answer with, ascending."""
        of_key = () if self.access == "open" else (401, 403, 429)
        of_body = () if self.body is None else (408, 413, 415, 422)
        return sorted({*self.problems, *of_key, *of_body})

    def bind(self, service: Service) -> BoundHandler:
        """Return the handler for one service, which checks the key first and sends the answer."""
        scope = self.access
        gate = service.gate

        async def answer(request: Request) -> Response:
            content = await self.handler(service, request)
            body = content if isinstance(content, bytes) else encode_answer(content)
            return Response(body, media_type=self.answer_media)

        if scope == "open" or gate.is_open:
            return answer

        async def answer_with_key(request: Request) -> Response:
            usage = gate.enter(request.headers.get(HEADER), client_address(request), scope)
            request.state.key_usage = usage
            try:
                return await answer(request)
            finally:
                usage.end()

        return answer_with_key


def client_address(request: Request) -> str:
    """Return the address of the connection; of a proxy, if one is in between."""
    return request.client.host if request.client else "unknown"


def key_usage(request: Request) -> KeyUsage | None:
    """Return the use of the request's key; ``None`` where nobody needs a key."""
    return getattr(request.state, "key_usage", None)


def read_id(request: Request, name: str) -> str:
    """Return an item or user id from the path, percent-decoded.

    Raises:
        InvalidFields: It is empty, too long, or not UTF-8: replacing what does not decode would name someone else.
    """
    try:
        value = unquote_to_bytes(request.path_params[name]).decode()
    except UnicodeDecodeError:
        raise InvalidFields([FieldError(name, "must be percent-encoded UTF-8")]) from None

    if not 1 <= len(value.encode()) <= ID_BYTES:
        raise InvalidFields([FieldError(name, f"must be 1 to {ID_BYTES} bytes long in UTF-8")])
    return value


def read_query(request: Request, model: type[Q]) -> Q:
    """Return the query string as a model; text becomes numbers where the model wants them.

    Raises:
        InvalidFields: A parameter is unknown, repeated, of the wrong type or out of bounds.
    """
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        raise InvalidFields([FieldError("query", "repeats a parameter")])

    unknown = next((name for name in values if name not in model.model_fields), None)
    if unknown is not None:
        raise InvalidFields([unknown_field(unknown, list(model.model_fields), "query")])

    try:
        return model.model_validate_strings(values)
    except ValidationError as refused:
        raise invalid_fields(refused, _adapter_of(model)) from None


@cache
def _adapter_of(model: type[Query]) -> TypeAdapter[Query]:
    return TypeAdapter(model)
