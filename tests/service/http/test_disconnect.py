"""Work goes on while its client waits, and is given up when the client leaves."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from service.errors import ClientGone
from service.http.disconnect import run_until_client_leaves

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
