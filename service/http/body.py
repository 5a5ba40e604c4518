"""Reading a JSON body: its bytes within limits, then typed values; everything unsafe is refused.

The parser of the validation library already refuses lone surrogates, text that is not UTF-8, huge numbers and deep
nesting, but it accepts ``NaN``, ``1e999`` (as infinity) and repeated keys. :func:`parse` looks for those first, and
before that it counts: a body that is too long is not parsed at all.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request

from service.errors import BadJson, BodyTooLarge, BodyTooSlow, ClientGone, WrongContentType
from service.http.exchange import TAKE_BODY
from service.http.field_problems import invalid_fields
from service.http.json_shape import Bounds, measure
from service.settings import Settings

T = TypeVar("T")

MAX_DEPTH = 32
"""Largest number of arrays and objects inside each other."""

MAX_KEYS = 256
"""Largest number of keys in one object, far more than any needs. To report each unknown one would take long."""

QUICK_BYTES = 65_536
"""Bodies up to this size are parsed at once, in the event loop: it takes milliseconds."""


def content_type(request: Request) -> str:
    """Return the declared type of a body, without parameters.

    Raises:
        WrongContentType: The body is compressed. The limits apply to the bytes as they come.
    """
    media_type = b""
    encoding = b"identity"
    # Sooner than by the framework's mapping, which decodes all headers at each look-up; of several, the first counts.
    for name, value in reversed(request.scope["headers"]):
        if name == b"content-type":
            media_type = value
        elif name == b"content-encoding":
            encoding = value
    if encoding.strip().lower() != b"identity":
        detail = "send the body as it is: this service takes no Content-Encoding, such as gzip"
        raise WrongContentType(detail, headers={"Accept-Encoding": "identity"})
    return media_type.decode("latin-1").partition(";")[0].strip().lower()


async def read_body(request: Request, settings: Settings) -> bytes:
    """Read all bytes of a JSON body. They are counted as they come: a wrong Content-Length changes nothing.

    Raises:
        WrongContentType: The body is not declared as JSON, or is compressed.
        BodyTooLarge: It exceeds ``max_body_bytes``; the rest is not read.
        BodyTooSlow: It took longer than ``body_timeout_s``.
        ClientGone: The connection closed before its end.
    """
    declared = content_type(request)
    if declared != "application/json" and not declared.endswith("+json"):
        raise WrongContentType("send JSON with the header Content-Type: application/json")

    take = request.scope.get("extensions", {}).get(TAKE_BODY)
    whole: bytes | None = take() if take is not None else None
    if whole is not None:
        _check_size(len(whole), settings)
        return whole

    chunks = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                _check_size(size, settings)
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTooSlow(settings.body_timeout_s, "body_timeout_s") from None
    except ClientDisconnect:
        raise ClientGone from None
    return b"".join(chunks)


def _check_size(size: int, settings: Settings) -> None:
    if size > settings.max_body_bytes:
        raise BodyTooLarge(settings.max_body_bytes, "max_body_bytes")


async def read_json(request: Request, settings: Settings, schema: TypeAdapter[T], bounds: Bounds) -> T:
    """Read a JSON body and validate it. Raises like :func:`read_body` and :func:`parse`."""
    return await parse_aside(await read_body(request, settings), schema, bounds)


async def parse_aside(body: bytes, schema: TypeAdapter[T], bounds: Bounds) -> T:
    """Run :func:`parse`, in a thread if the body is large, so that other requests go on meanwhile."""
    if len(body) <= QUICK_BYTES:
        return parse(body, schema, bounds)
    return await asyncio.to_thread(parse, body, schema, bounds)


def parse(body: bytes, schema: TypeAdapter[T], bounds: Bounds) -> T:
    """Check the size and the JSON itself, then its fields, in strict mode.

    Raises:
        BadJson: No JSON, or JSON with non-finite numbers, repeated keys, lone surrogates or deep nesting.
        InvalidFields: The JSON exceeds the bounds, or does not fit the schema.
    """
    _check_shape(body, bounds)
    _check_json(body)
    try:
        return schema.validate_json(body, strict=True)
    except ValidationError as refused:
        first = refused.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            reason = str(first["ctx"]["error"]).replace("unexpected end of hex escape", "a lone surrogate")
            raise BadJson(f"{reason} in the JSON body") from None
        raise invalid_fields(refused, schema) from None


def _check_shape(body: bytes, bounds: Bounds) -> None:
    """Refuse a body that is too deep or too long. At a glance, most cannot be: only the others are measured."""
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= MAX_DEPTH and brackets + body.count(b",") <= bounds.values:
        return

    shape = measure(body)
    if shape.depth > MAX_DEPTH:
        raise BadJson(f"the body must not nest deeper than {MAX_DEPTH} levels")
    bounds.check(shape)


def _check_json(body: bytes) -> None:
    try:
        text = body.decode()
        _JSON.decode(text)
    except UnicodeDecodeError:
        raise BadJson("the body must be UTF-8") from None
    except json.JSONDecodeError as refused:
        raise BadJson(f"not JSON: {refused.msg} at line {refused.lineno} column {refused.colno}") from None
    except ValueError:  # Python refuses to convert integers of thousands of digits
        raise BadJson("the body holds a number that is out of range") from None


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadJson("the body repeats a key inside one object")
    if len(found) > MAX_KEYS:
        raise BadJson(f"the body holds an object with more than {MAX_KEYS} keys")
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise BadJson("NaN and Infinity are not JSON")


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadJson("the body holds a number that is out of range")
    return value


_JSON = json.JSONDecoder(object_pairs_hook=_build_object, parse_constant=_refuse_constant, parse_float=_parse_float)
"""Made once: to make one takes longer than to read a usual body with it."""
