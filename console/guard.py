"""Guard around every request and web socket: host names, origins, the password, and headers for browsers.

Pages act through web sockets, which browsers open across sites without asking. So a web socket, and any request but
GET and HEAD, must come from a page of this console (its ``Origin``). Host names are checked because a foreign name may
be made to point to this machine (DNS rebinding), and would then count as the same site.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.settings import Settings

CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # the library's start script, and templates of its widgets
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What pages may load: files of the console and nothing from elsewhere."""

_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

HEALTH = "/health"
"""Path that says that the console runs, without a password."""

WRONG_PASSWORD_S = 1.0
"""Seconds that an answer to a wrong password waits."""


class Guard:
    """Middleware around the whole console.

    Args:
        app: The app it surrounds.
        settings: Names of the console and its password.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = _LOOPBACK_NAMES | {settings.host.lower()}
        self._names |= {name.strip().lower() for name in settings.names.split(",") if name.strip()}
        self._any_name = settings.host in ("0.0.0.0", "::") and not settings.names  # noqa: S104  nothing is bound here
        self._password = None if settings.password is None else settings.password.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or web socket (ASGI)."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and not self._has_password(headers) and scope["path"] != HEALTH:
            if "authorization" in headers:
                await asyncio.sleep(WRONG_PASSWORD_S)
            refusal = PlainTextResponse(
                "This console needs its password.",
                401,
                {"WWW-Authenticate": 'Basic realm="ETEGRec console", charset="UTF-8"'},
            )

        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        """Return the answer to a request that comes by a foreign name or from a foreign page; else ``None``."""
        host = headers.get("host", "")
        if not self._any_name and _name_of(host) not in self._names:
            return PlainTextResponse(
                "This console is not known by that name: give it by --names, or come by its address.", 400
            )

        origin = headers.get("origin")
        acts = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if (acts or origin is not None) and urlsplit(origin or "").netloc.lower() != host.lower():
            return PlainTextResponse("Only pages of this console may ask for this.", 403)
        return None

    def _has_password(self, headers: Headers) -> bool:
        if self._password is None:
            return True

        kind, _, encoded = headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True) if kind.lower() == "basic" else b""
        except binascii.Error:
            return False
        return hmac.compare_digest(given.partition(b":")[2], self._password)


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port."""
    name = host.lower()
    return name[: name.rindex("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0]


def _with_headers(send: Send) -> Send:
    """Return ``send`` with the headers for browsers added to every answer."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return send_with_headers
