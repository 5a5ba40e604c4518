"""One request and its answer, as the app sees them (ASGI)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

import structlog
from starlette.types import ASGIApp, Message, Scope

from service.errors import NotReady, RequestError

log = structlog.get_logger()

HIGH_WATER_BYTES = 65_536
"""Bytes of a body that wait for the app before no more are read from the connection."""

TAKE_BODY = "etegrec.take_body"
WATCH_CLIENT = "etegrec.watch_client"
"""Extensions of ASGI in the scope of a request: :meth:`Exchange.take_body` and :meth:`Exchange.watch_client`."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})


def encode_head(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return status line and headers of an answer, with the empty line behind them.

    Raises:
        ValueError: A header holds a line break.
    """
    lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n")

    head = b"".join(lines)
    breaks = len(headers) + 2
    if head.count(b"\r") != breaks or head.count(b"\n") != breaks:
        raise ValueError("a header of an answer holds a line break")
    return head


class Link(Protocol):
    """Connection of an exchange."""

    is_write_paused: bool
    """True while the client takes its answer too slowly to send more."""

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer."""

    @property
    def may_stay_open(self) -> bool:
        """False if the connection must close after this answer, for example because the body has not come whole."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    async def until_writable(self) -> None:
        """Wait until more can be sent, or the connection is lost."""

    def take_body(self) -> None:
        """Read on: the app has taken the body that had come."""

    def answered(self, *, stays_open: bool) -> None:
        """End the exchange: its answer was written whole."""

    def refuse(self, error: RequestError) -> None:
        """Answer with a problem, if no answer has begun, and close."""

    def drop(self) -> None:
        """Close at once: the answer cannot be finished."""


class Exchange:
    """One request and its answer.

    Args:
        link: The connection.
        scope: The request (ASGI).
        expects_continue: True if the client waits for ``100 Continue`` before it sends the body.
    """

    def __init__(self, link: Link, scope: Scope, expects_continue: bool) -> None:
        self.has_started = False  # bytes of the answer are written
        self._link = link
        self._scope = scope
        self._expects_continue = expects_continue
        self._is_bodiless = scope["method"] == "HEAD"
        self._on_leave: Callable[[], object] | None = None
        scope["extensions"] = {TAKE_BODY: self.take_body, WATCH_CLIENT: self.watch_client}

        self._chunks: list[bytes] = []
        self._chunk_bytes = 0
        self._has_end = False  # the whole body has come
        self._gave_end = False  # … and the app has taken it
        self._is_over = False  # answered, or the client is gone
        self._news: asyncio.Event | None = None

        self._has_status = False
        self._head = b""  # waits for the first bytes of the body, to be sent with them
        self._is_chunked = False
        self._left: int | None = None  # bytes of the declared length that are not written yet
        self._stays_open = False

    @property
    def is_full(self) -> bool:
        """True while so much of the body waits for the app that no more should be read."""
        return self._chunk_bytes > HIGH_WATER_BYTES

    def add_body(self, chunk: bytes) -> None:
        """Keep a piece of the body for the app."""
        self._chunks.append(chunk)
        self._chunk_bytes += len(chunk)
        self._tell()

    def end_body(self) -> None:
        """Tell the app that the body is complete."""
        self._has_end = True
        self._tell()

    def disconnect(self) -> None:
        """Tell the app that the client is gone; what it sends from now on is dropped."""
        self._is_over = True
        self._tell()
        if self._on_leave is not None:
            self._on_leave()

    def watch_client(self, on_leave: Callable[[], object] | None) -> None:
        """Call a function, which must not fail, once the client leaves before its answer; ``None``: call none."""
        self._on_leave = on_leave
        if on_leave is not None and self._is_over:
            asyncio.get_running_loop().call_soon(on_leave)

    async def run(self, app: ASGIApp) -> None:
        """Run the app. If it fails to answer, the client gets a problem, or its connection is cut."""
        try:
            await app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._link.refuse(NotReady("the service is shutting down"))
            raise
        except Exception:
            log.exception("app_failed")
        finally:
            # They refer back to this exchange: left there, each request would wait for a collection of garbage.
            self._scope["extensions"].clear()

        if not self._is_over:
            self._link.drop()

    def take_body(self) -> bytes | None:
        """Return the whole body if it has come already, as that of most requests; ``None``: it must be received.

        So nobody waits for it, needs a timer, or is woken, which takes longer than to read it.
        """
        is_there = self._has_end and not self._gave_end and not self._expects_continue and not self._is_over
        return self._take_chunks() if is_there else None

    async def _receive(self) -> Message:
        if self._expects_continue and not self.has_started and not self._is_over:
            self._expects_continue = False
            self._link.write(_CONTINUE)

        while not self._is_over and not self._chunks and (self._gave_end or not self._has_end):
            if self._news is None:
                self._news = asyncio.Event()
            self._news.clear()
            await self._news.wait()
        if self._is_over:
            return {"type": "http.disconnect"}

        return {"type": "http.request", "body": self._take_chunks(), "more_body": not self._has_end}

    def _take_chunks(self) -> bytes:
        body = b"".join(self._chunks)
        self._chunks.clear()
        self._chunk_bytes = 0
        self._gave_end = self._has_end
        self._link.take_body()
        return body

    async def _send(self, message: Message) -> None:
        if self._link.is_write_paused:
            await self._link.until_writable()
        if self._is_over:
            return

        kind = message["type"]
        if kind == "http.response.start" and not self._has_status:
            self._start(message["status"], list(message.get("headers", ())))
        elif kind == "http.response.body" and self._has_status:
            self._write(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            raise RuntimeError(f"the app sent {kind} at the wrong moment")

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        given: dict[bytes, Any] = dict(headers)
        self._stays_open = self._link.may_stay_open and b"close" not in given.get(b"connection", b"").lower()
        self._is_bodiless |= status in _BODILESS
        if b"content-length" in given:
            self._left = int(given[b"content-length"])
        elif not self._is_bodiless and self._scope["http_version"] != "1.0":  # there, the end is the connection's
            self._is_chunked = True
            headers.append((b"transfer-encoding", b"chunked"))
        if not self._stays_open and b"connection" not in given:
            headers.append((b"connection", b"close"))

        self._head = encode_head(status, self._link.default_headers + headers)
        self._has_status = True

    def _write(self, body: bytes, *, is_last: bool) -> None:
        if self._is_bodiless:
            body = b""
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if is_last else b"")
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (is_last and self._left):
                raise RuntimeError("the body of the answer is not as long as its Content-Length")

        self._link.write(self._head + body)
        self._head = b""
        self.has_started = True
        if is_last:
            self._is_over = True
            self._tell()
            self._link.answered(stays_open=self._stays_open)

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
