"""Exchange of a call for an answer over httpx: what both clients share."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import httpx

from etegrec_client.calls import Call
from etegrec_client.errors import ServiceUnreachable, problem_of

A = TypeVar("A")

TIMEOUT_S = 10.0
"""Seconds that a connection, and each wait for bytes of an answer, may take."""

_SUCCESS = range(200, 300)


def headers_of(key: str | None) -> dict[str, str]:
    """Return the headers that every request has."""
    return {} if key is None else {"X-API-Key": key}


def arguments_of(call: Call[Any]) -> dict[str, Any]:
    """Return the arguments of httpx's ``request``."""
    headers = {} if call.body is None else {"Content-Type": call.media_type}
    return {
        "method": call.method,
        "url": call.path,
        "content": call.body,
        "headers": headers,
        "params": call.query or None,
    }


def read_answer(call: Call[A], response: httpx.Response) -> A:
    """Return the answer, or raise the problem."""
    if response.status_code not in _SUCCESS:
        raise problem_of(response)
    return cast(A, response.json())


def unreachable(failure: httpx.TransportError) -> ServiceUnreachable:
    """Return the error for a service that could not be reached."""
    return ServiceUnreachable(f"{type(failure).__name__}: {failure}")
