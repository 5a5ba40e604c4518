"""Request heads that are too large or never end, on real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.http.protocol import BoundedHttp

pytestmark = pytest.mark.anyio

HEAD = b"GET / HTTP/1.1\r\nHost: t\r\n"


class Hasty(BoundedHttp):
    max_head_bytes = 1000
    head_timeout_s = 0.05


class Patient(Hasty):
    head_timeout_s = 3600.0


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.2)  # longer than a hasty head may take
    await PlainTextResponse("answered")(scope, receive, send)


@pytest.fixture
async def ports() -> AsyncIterator[dict[type[BoundedHttp], int]]:
    config = uvicorn.Config(_app, log_config=None, lifespan="off")
    config.load()
    loop = asyncio.get_running_loop()
    servers = {
        protocol: await loop.create_server(partial(protocol, config, ServerState(), {}), "127.0.0.1", 0)
        for protocol in (Hasty, Patient)
    }
    yield {protocol: server.sockets[0].getsockname()[1] for protocol, server in servers.items()}
    for server in servers.values():
        server.close()
        await server.wait_closed()


async def exchange(port: int, *pieces: bytes) -> bytes:
    """Send the pieces, then read until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_head_that_is_too_large_is_refused_before_its_end(ports: dict[type[BoundedHttp], int]) -> None:
    for head in (HEAD + b"X: " + b"a" * 2000, b"GET /" + b"a" * 2000, HEAD + b"X: a\r\n" * 400):
        answer = await exchange(ports[Patient], head)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"too large" in answer


async def test_heads_are_counted_one_by_one_and_bodies_not_at_all(ports: dict[type[BoundedHttp], int]) -> None:
    first = HEAD + b"X: " + b"a" * 800 + b"\r\nContent-Length: 5000\r\n\r\n"
    last = HEAD + b"X: " + b"b" * 800 + b"\r\nConnection: close\r\n\r\n"
    answer = await exchange(ports[Patient], first, b"c" * 5000, last)
    assert answer.count(b"answered") == 2


async def test_a_head_that_never_ends_is_given_up(ports: dict[type[BoundedHttp], int]) -> None:
    assert await exchange(ports[Hasty]) == b""
    assert await exchange(ports[Hasty], HEAD) == b""


async def test_a_slow_head_behind_a_request_waits_for_its_answer(ports: dict[type[BoundedHttp], int]) -> None:
    answer = await exchange(ports[Hasty], HEAD + b"\r\n" + HEAD)
    assert answer.count(b"answered") == 1
