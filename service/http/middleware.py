"""What surrounds every request: its id, its metrics, and the one place where errors become problem documents.

Plain ASGI: it costs microseconds and passes streams through untouched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem, problem_of
from service.telemetry import Telemetry

log = structlog.get_logger()

REQUEST_ID_HEADER = "X-Request-ID"
PROBLEM_JSON = "application/problem+json"

Direct = Mapping[tuple[str, str], Callable[[Request], Awaitable[Response]]]
"""Handlers by method and path that are called without the framework's routing, which costs more than they do."""

_RAW_HEADER = REQUEST_ID_HEADER.lower().encode()
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestMiddleware:
    """Middleware around the whole app.

    Args:
        app: What it surrounds.
        telemetry: Counts requests and refusals.
        is_draining: Whether clients should leave: then each answer closes its connection, since a request sent on an
            idle one at the moment when the server closes it would get no answer.
        direct: What is answered right here; everything else by the app.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, is_draining: Callable[[], bool], direct: Direct) -> None:
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
        direct = self._direct.get((scope["method"], scope["path"]))
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (_RAW_HEADER, request_id.encode())]
                if self._is_draining():
                    _close_connection(message)
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
            await problem_response(problem, request_id)(scope, receive, send_on)
        finally:
            seconds = time.monotonic() - started
            endpoint = scope["path"] if direct is not None else _endpoint(scope)
            self._telemetry.requests.labels(endpoint, str(status)).observe(seconds)


def problem_response(problem: Problem, request_id: str) -> Response:
    """The HTTP answer that carries a problem document."""
    body = orjson.dumps(problem.document(request_id))
    return Response(body, problem.status, headers=dict(problem.headers), media_type=PROBLEM_JSON)


def _request_id(scope: Scope) -> str:
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == _RAW_HEADER), "")
    return given if _WELL_FORMED.fullmatch(given) else os.urandom(16).hex()


def _close_connection(message: Message) -> None:
    kept = [header for header in message["headers"] if header[0].lower() != b"connection"]
    message["headers"] = [*kept, (b"connection", b"close")]


def _endpoint(scope: Scope) -> str:
    """The path template: few distinct values, whatever clients send."""
    route: Any = scope.get("route")
    return getattr(route, "path", "unmatched")
