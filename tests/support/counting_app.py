"""An app without our service for tests of connections, which counts the requests that it answers at one time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

BIG = b"x" * 20_000_000


class CountingApp:
    """Answers with what was asked, late, large or in pieces, as the path says.

    Attributes:
        running: Requests that are answered now.
        most_running: The most that were, at one time.
    """

    def __init__(self) -> None:
        self.running = 0
        self.most_running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            request = Request(scope, receive)
            await (await _answer(request))(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            self.running -= 1


async def _answer(request: Request) -> PlainTextResponse | StreamingResponse:
    path = request.url.path
    if path == "/body":
        return PlainTextResponse(f"{len(await request.body())} bytes")
    if path == "/headers":
        names = [f"{name}={value}" for name, value in request.headers.items()]
        return PlainTextResponse(f"{await request.body()!r} {names}")
    if path == "/slow":
        await asyncio.sleep(0.2)
    if path == "/big":
        return PlainTextResponse(BIG)
    if path == "/pieces":
        return StreamingResponse(_pieces())
    return PlainTextResponse(f"answered {path}")


async def _pieces() -> AsyncIterator[bytes]:
    for piece in (b"one", b"", b"three"):
        yield piece
