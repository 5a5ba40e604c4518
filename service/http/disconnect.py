"""Giving up work whose client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import ClientGone
from service.http.exchange import WATCH_CLIENT

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
    is_over = False
    has_left = False

    def leave() -> None:
        nonlocal has_left
        if not is_over:
            has_left = True
            task.cancel()

    stop_watching = _watch(request, leave)
    try:
        return await work
    except asyncio.CancelledError:
        # uncancel() tells whether somebody else, such as the server, cancelled this task as well.
        if not has_left or task.uncancel():
            raise
        raise ClientGone from None
    finally:
        is_over = True
        stop_watching()


def _watch(request: Request, on_leave: Callable[[], object]) -> Callable[[], object]:
    """Call a function once the client leaves, until the returned one is called."""
    watch_client = request.scope.get("extensions", {}).get(WATCH_CLIENT)
    if watch_client is not None:
        watch_client(on_leave)
        return lambda: watch_client(None)

    # Any other server than ours says it by the message after the body.
    disconnection: asyncio.Future[Any] | None = None

    def receive() -> None:
        nonlocal disconnection
        disconnection = asyncio.ensure_future(request.receive())
        disconnection.add_done_callback(lambda _: on_leave())

    def stop() -> None:
        timer.cancel()
        if disconnection is not None:
            disconnection.cancel()

    timer = asyncio.get_running_loop().call_later(WATCHED_AFTER_S, receive)
    return stop
