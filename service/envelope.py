"""What surrounds every request: its id, its metrics, and the one place where errors become problem documents.

Plain ASGI: it costs microseconds and passes streams through untouched.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import orjson
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem, problem_of
from service.telemetry import Telemetry

log = structlog.get_logger()

REQUEST_ID_HEADER = "X-Request-ID"
PROBLEM_JSON = "application/problem+json"

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Envelope:
    """Middleware around the whole app.

    Args:
        app: What it surrounds.
        telemetry: Counts requests and refusals.
        is_draining: Whether clients should leave: then each answer closes its connection, since a request sent on an
            idle one at the moment when the server closes it would get no answer.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._telemetry = telemetry
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _WELL_FORMED.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                if self._is_draining():
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_on)
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
            self._telemetry.requests.labels(_endpoint(scope), str(status)).observe(seconds)


def problem_response(problem: Problem, request_id: str) -> Response:
    """The HTTP answer that carries a problem document."""
    body = orjson.dumps(problem.document(request_id))
    return Response(body, problem.status, headers=dict(problem.headers), media_type=PROBLEM_JSON)


def _endpoint(scope: Scope) -> str:
    """The path template: few distinct values, whatever clients send."""
    route: Any = scope.get("route")
    return getattr(route, "path", "unmatched")
