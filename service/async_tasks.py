"""Several pieces of asynchronous work at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def all_of(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the rest."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it is over; what it raises is its own business.

    Once is not enough: ``asyncio.wait_for`` of Python 3.11, which the Redis client uses, forgets a cancellation that
    comes at the very moment at which what it waits for is done.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    if not task.cancelled():
        task.exception()  # else it would be reported as never looked at
