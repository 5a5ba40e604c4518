"""Middleware around every request: its id, its metrics, and the one place where errors become problem documents.

It is plain ASGI, which costs microseconds and passes streams through untouched.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.endpoints import BoundHandler
from service.http.problems import new_request_id, problem_of
from service.telemetry import Telemetry

log = structlog.get_logger()

REQUEST_ID_HEADER = "X-Request-ID"

DirectHandlers = Mapping[tuple[str, str], BoundHandler]
"""Handlers by method and path that are called without the framework's routing, which costs more than they do."""

_RAW_HEADER = REQUEST_ID_HEADER.lower().encode()
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestMiddleware:
    """Middleware around the whole app.

    Args:
        app: The app it surrounds.
        telemetry: Counts requests and refusals.
        is_draining: Returns true while clients should leave. Then each answer closes its connection, since a request
            sent on an idle one at the moment when the server closes it would get no answer.
        direct: Handlers that answer right here; the app answers everything else.
    """

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, is_draining: Callable[[], bool], direct: DirectHandlers
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._is_draining = is_draining
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = time.monotonic()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        is_head = scope["method"] == "HEAD"
        scope = _routed(scope)
        direct = self._direct.get((scope["method"], scope["path"]))
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (_RAW_HEADER, request_id.encode())]
                if self._is_draining():
                    _close_connection(message)
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            if direct is None:
                await self._app(scope, receive, send_on)
            else:
                answer = await direct(Request(scope, receive))
                await answer(scope, receive, send_on)
        except Exception as failure:
            if status:  # too late for another answer: the server closes the connection
                raise
            problem = problem_of(failure)
            if problem.status == 500:
                log.exception("request_failed", request_id=request_id)
            self._telemetry.rejected.labels(problem.slug).inc()
            await problem.response(request_id)(scope, receive, send_on)
        finally:
            seconds = time.monotonic() - started
            endpoint = scope["path"] if direct is not None else _path_template(scope)
            self._telemetry.requests.labels(endpoint, str(status)).observe(seconds)


def _request_id(scope: Scope) -> str:
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == _RAW_HEADER), "")
    return given if _WELL_FORMED.fullmatch(given) else new_request_id()


def _routed(scope: Scope) -> Scope:
    """Return the request as it is routed: HEAD like GET, and by the path as it came.

    An encoded slash is data of an id and separates nothing, so the path is not decoded as a whole. Within its parts,
    encodings are made uniform: ``%41`` is ``A``, as RFC 3986 has it.
    """
    raw = scope.get("raw_path")
    if raw is None:  # a server need not say how the path came
        raw = quote(scope["path"]).encode()
    if b"%" in raw:
        parts = [quote(unquote_to_bytes(part), safe="") for part in raw.split(b"/")]
        scope = {**scope, "path": "/".join(parts)}
    if scope["method"] == "HEAD":
        scope = {**scope, "method": "GET"}
    return scope


def _close_connection(message: Message) -> None:
    kept = [header for header in message["headers"] if header[0].lower() != b"connection"]
    message["headers"] = [*kept, (b"connection", b"close")]


def _path_template(scope: Scope) -> str:
    """Return the template of the path: few distinct values, whatever clients send."""
    route: Any = scope.get("route")
    return getattr(route, "path", "unmatched")
