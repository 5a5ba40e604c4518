"""Bodies are read whole and within limits, whether they come with the head or in pieces."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.errors import RequestError
from service.http.body import read_body
from service.http.exchange import TAKE_BODY
from service.settings import Settings
from tests.support.raw_http import HOST, raw_server, read_answer

pytestmark = pytest.mark.anyio

LIMIT = 2048


def post(body: bytes, length: int) -> bytes:
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length
    return head + body


@pytest.mark.parametrize("size", [0, 1, LIMIT, LIMIT + 1, 200_000])
@pytest.mark.parametrize("with_head", [0, 1, 1_000_000], ids=["nothing", "a byte", "all"])
async def test_the_body_is_the_same_however_it_comes(tmp_path: Path, size: int, with_head: int) -> None:
    settings = Settings.load(store=str(tmp_path), max_body_bytes=LIMIT, body_timeout_s=30)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await read_body(request, settings)
            answer = PlainTextResponse(f"{len(body)} {body == b'7' * size}")
        except RequestError as refused:
            answer = PlainTextResponse(refused.slug, refused.status)
        await answer(scope, receive, send)

    body = b"7" * size
    async with raw_server(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(body[:with_head], size))
        await writer.drain()
        if with_head < size:
            await asyncio.sleep(0.02)  # the app waits by now
            writer.write(body[with_head:])
        answer = await read_answer(reader)
        writer.close()
    if size > LIMIT:
        assert (answer.status, answer.body) == (413, b"body-too-large")
    else:
        assert (answer.status, answer.body) == (200, f"{size} True".encode())


async def test_a_body_that_came_whole_is_there_at_once_and_only_once() -> None:
    found: list[bytes | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        take = scope["extensions"][TAKE_BODY]
        found.extend([take(), take()])
        await PlainTextResponse("")(scope, receive, send)

    async with raw_server(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(b"{}", 2))
        await read_answer(reader)
        assert found == [b"{}", None]

        writer.write(post(b"{", 2))  # the other byte is not there when the app looks
        await read_answer(reader)
        assert found[2:] == [None, None]
        writer.close()
