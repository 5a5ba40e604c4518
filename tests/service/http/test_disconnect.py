"""Work goes on while its client waits, and is given up when the client leaves."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from service.errors import ClientGone
from service.http.disconnect import run_until_client_leaves
from service.http.exchange import WATCH_CLIENT
from tests.support.raw_http import HOST, raw_server, read_answer
from tests.support.service_harness import until

pytestmark = pytest.mark.anyio


def request_of(has_left: asyncio.Event) -> Request:
    async def receive() -> Message:
        await has_left.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    has_left = asyncio.Event()
    was_cancelled = False

    async def work() -> None:
        nonlocal was_cancelled
        has_left.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            was_cancelled = True
            raise

    with pytest.raises(ClientGone):
        await run_until_client_leaves(request_of(has_left), work())
    assert was_cancelled
    await asyncio.sleep(0)  # the task goes on: nothing is left of the cancellation


async def test_work_ends_as_usual_while_the_client_waits() -> None:
    async def work() -> str:
        await asyncio.sleep(0.02)  # longer than a request that is not watched
        return "answer"

    assert await run_until_client_leaves(request_of(asyncio.Event()), work()) == "answer"


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    running = asyncio.create_task(run_until_client_leaves(request_of(asyncio.Event()), asyncio.sleep(60)))
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_client_of_the_real_server_that_leaves_ends_the_work_and_one_that_stays_gets_its_answer() -> None:
    began: list[str] = []
    ended: list[str] = []

    async def work(path: str) -> str:
        began.append(path)
        try:
            await asyncio.sleep(0.05 if path == "/short" else 60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "answer"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            answer = await run_until_client_leaves(request, work(scope["path"]))
        except ClientGone:
            ended.append("gone")
            return
        await PlainTextResponse(answer)(scope, receive, send)

    async with raw_server(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(2):
            writer.write(b"GET /short HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await read_answer(reader)).body == b"answer"
        writer.write(b"GET /long HTTP/1.1\r\n" + HOST + b"\r\n")
        await until(lambda: "/long" in began)
        assert not ended
        writer.close()
        await until(lambda: ended == ["cancelled", "gone"])


async def test_a_client_that_left_before_the_work_began_ends_it() -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        while (await receive())["type"] != "http.disconnect":
            pass
        try:
            await run_until_client_leaves(request, asyncio.sleep(60))
        except ClientGone:
            ended.append("gone")

    async with raw_server(app) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        await writer.drain()
        writer.close()
        await until(lambda: ended == ["gone"])


async def test_an_answered_request_is_freed_at_once_and_not_by_the_next_collection_of_garbage() -> None:
    """Collections are rare in a server, and while one runs no thread runs Python."""
    exchanges: list[weakref.ref[object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchanges.append(weakref.ref(scope["extensions"][WATCH_CLIENT].__self__))
        answer = await run_until_client_leaves(Request(scope, receive), asyncio.sleep(0, "answer"))
        await PlainTextResponse(answer)(scope, receive, send)

    gc.disable()
    try:
        async with raw_server(app) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for _ in range(3):
                writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
                assert (await read_answer(reader)).body == b"answer"
            await until(lambda: not server.state.tasks)
            assert [each() for each in exchanges] == [None, None, None]
            writer.close()
    finally:
        gc.enable()
