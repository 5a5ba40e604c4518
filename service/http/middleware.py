"""Middleware around every request: its id, span, metrics, and the one place where errors become problems.

It is plain ASGI, which costs microseconds and passes streams through untouched.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from http import HTTPMethod
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import structlog
from prometheus_client import Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_store.tracing.interface import Span
from service.http.endpoints import BoundHandler
from service.http.problems import new_request_id, problem_of
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

REQUEST_ID_HEADER = "X-Request-ID"

DirectHandlers = Mapping[tuple[str, str], BoundHandler]
"""Handlers by method and path that are called without the framework's routing, which costs more than they do."""

_RAW_HEADER = REQUEST_ID_HEADER.lower().encode()
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset(HTTPMethod)
_NO_SPAN = Span()
_UNTRACED = ("/health/", "/metrics")  # asked by probes and scrapers, many times a minute


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
        self._seconds: dict[tuple[str, int], Histogram] = {}  # by endpoint and status, as few as labels have

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        tracing = self._telemetry.tracing
        if not tracing.is_on or scope["path"].startswith(_UNTRACED):
            await self._serve(scope, receive, send, _NO_SPAN)
            return
        with tracing.span("request", "server", _header(scope, b"traceparent")) as span:
            await self._serve(scope, receive, send, span)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, span: Span) -> None:
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
            span.set("etegrec.problem", problem.slug)
            await problem.response(request_id)(scope, receive, send_on)
        finally:
            seconds = time.monotonic() - started
            endpoint = scope["path"] if direct is not None else _path_template(scope)
            self._seconds_of(endpoint, status).observe(seconds)
            if self._telemetry.tracing.is_on:
                _describe(span, "HEAD" if is_head else scope["method"], endpoint, status, request_id)

    def _seconds_of(self, endpoint: str, status: int) -> Histogram:
        found = self._seconds.get((endpoint, status))
        if found is None:
            found = self._seconds[endpoint, status] = self._telemetry.requests.labels(endpoint, str(status))
        return found


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


def _request_id(scope: Scope) -> str:
    given = _header(scope, _RAW_HEADER)
    return given if _WELL_FORMED.fullmatch(given) else new_request_id()


def _describe(span: Span, method: str, endpoint: str, status: int, request_id: str) -> None:
    """Say in a span what was asked and answered. The path itself stays out: it may hold the id of a user."""
    method = method if method in _METHODS else "_OTHER"
    span.rename(f"{method} {endpoint}")
    span.set("http.request.method", method)
    span.set("http.route", endpoint)
    span.set("etegrec.request_id", request_id)
    if status:  # else nothing was answered, and the failure is noted by the span itself
        span.set("http.response.status_code", status)
    if status >= 500:
        span.fail(str(status))


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
