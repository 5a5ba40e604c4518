"""Helpers for asynchronous tasks: run several together, cancel one for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_or_cancel(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order; the first failure cancels the rest."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def gather_all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order. All come to their end, then the first failure is raised."""
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it is over, and ignore what it raises.

    To cancel once is not enough: ``asyncio.wait_for`` of Python 3.11, which the Redis client uses, loses a cancellation
    that comes at the very moment when its result is ready.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)

    if not task.cancelled():
        task.exception()  # else asyncio would report that nobody looked at it
