"""From the bytes of a request to typed values, refusing whatever a careful JSON reader refuses.

The parser of the validation library already refuses lone surrogates, text that is no UTF-8, huge numbers and deep
nesting, but it takes ``NaN``, ``1e999`` (as infinity) and repeated keys; :func:`parse` looks for those first.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from service.errors import BadJson, BodyTooLarge, BodyTooSlow, ClientGone, InvalidFields, WrongContentType

T = TypeVar("T")

MAX_DEPTH = 32
"""Arrays and objects inside each other, at most."""

MAX_KEYS = 256
"""Keys in one object at most, far more than any has: validation reports each unknown one, and that takes its time."""

QUICK_BYTES = 65_536
"""Bodies up to this size are parsed at once: milliseconds."""

_TEXT_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[][{}]', re.DOTALL)
_CLOSE = {"Connection": "close"}  # the rest of the body is not read, so the connection cannot be used again


def content_type(request: Request) -> str:
    """What a body is declared as, without parameters.

    Raises:
        WrongContentType: It is compressed: the limits are of what a body becomes, not of what it was.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        detail = "send the body as it is: this service takes no Content-Encoding, such as gzip"
        raise WrongContentType(detail, headers={"Accept-Encoding": "identity", **_CLOSE})
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """All bytes of a JSON body, counted as they come: a missing or wrong Content-Length changes nothing.

    Raises:
        WrongContentType: It is not declared as JSON, or compressed.
        BodyTooLarge: It exceeds ``max_bytes``; the rest is not read.
        BodyTooSlow: It took longer than ``timeout_s``.
        ClientGone: The connection closed before its end.
    """
    declared = content_type(request)
    if declared != "application/json" and not declared.endswith("+json"):
        raise WrongContentType("send JSON with the header Content-Type: application/json", headers=_CLOSE)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    detail = f"the body must be at most {max_bytes} bytes long (max_body_bytes)"
                    raise BodyTooLarge(detail, headers=_CLOSE)
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTooSlow(f"the body must arrive within {timeout_s:g} s (body_timeout_s)", headers=_CLOSE) from None
    except ClientDisconnect:
        raise ClientGone("the connection closed before the end of the body") from None
    return b"".join(chunks)


def parse(body: bytes, validate: Callable[[bytes], T]) -> T:
    """Check the JSON itself, then its fields.

    Args:
        body: The bytes as they came.
        validate: Pydantic's validation from JSON bytes, in strict mode.

    Raises:
        BadJson: No JSON, or JSON with non-finite numbers, repeated keys, lone surrogates or deep nesting.
        InvalidFields: The JSON does not fit the schema.
    """
    _check_json(body)
    try:
        return validate(body)
    except ValidationError as refused:
        first = refused.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            reason = str(first["ctx"]["error"]).replace("unexpected end of hex escape", "a lone surrogate")
            raise BadJson(f"{reason} in the JSON body") from None
        raise InvalidFields.of(refused) from None


async def parse_aside(body: bytes, validate: Callable[[bytes], T]) -> T:
    """:func:`parse`, in a thread if the body is large, so that other requests go on meanwhile."""
    if len(body) <= QUICK_BYTES:
        return parse(body, validate)
    return await asyncio.to_thread(parse, body, validate)


def _check_json(body: bytes) -> None:
    try:
        text = body.decode()
        if max(text.count("["), text.count("{")) > MAX_DEPTH:  # else it cannot be too deep, strings or not
            _check_depth(text)
        json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError:
        raise BadJson("the body must be UTF-8") from None
    except json.JSONDecodeError as refused:
        raise BadJson(f"not JSON: {refused.msg} at line {refused.lineno} column {refused.colno}") from None
    except ValueError:  # Python refuses to convert integers of thousands of digits
        raise BadJson("the body holds a number that is out of range") from None


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TEXT_OR_BRACKET.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise BadJson(f"the body must not nest deeper than {MAX_DEPTH} levels")
        elif token[0] in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadJson("the body repeats a key inside one object")
    if len(found) > MAX_KEYS:
        raise BadJson(f"the body holds an object with more than {MAX_KEYS} keys")
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise BadJson("NaN and Infinity are not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadJson("the body holds a number that is out of range")
    return value
