"""Giving up work whose client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import ClientGone

T = TypeVar("T")

WATCHED_AFTER_S = 0.005
"""Time after which the client of a running request is watched. Most refusals are sooner and save the watching."""


async def run_until_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run the work, but cancel it when the client closes its connection. The body must have been read.

    Raises:
        ClientGone: The client closed the connection.
    """
    task = asyncio.current_task()
    assert task is not None
    disconnection: asyncio.Future[Any] | None = None
    is_over = False

    def watch() -> None:
        nonlocal disconnection
        # After the body, the next message is the disconnection.
        disconnection = asyncio.ensure_future(request.receive())
        disconnection.add_done_callback(lambda _: is_over or task.cancel())

    timer = asyncio.get_running_loop().call_later(WATCHED_AFTER_S, watch)
    try:
        return await work
    except asyncio.CancelledError:
        # uncancel() tells whether somebody else, such as the server, cancelled this task as well.
        if disconnection is None or not disconnection.done() or task.uncancel():
            raise
        raise ClientGone from None
    finally:
        is_over = True
        timer.cancel()
        if disconnection is not None:
            disconnection.cancel()
