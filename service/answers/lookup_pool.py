"""A small pool of threads for lookups that take tens of milliseconds and need no engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import DeadlineMissed, QueueFull

T = TypeVar("T")


class LookupPool:
    """Runs lookups in its own threads, so that neither the event loop nor the engine's threads wait for them.

    Args:
        threads: Lookups that run at the same time.
        limit: Lookups accepted and not finished, at most.
        deadline_s: Longest wait for one.
    """

    def __init__(self, threads: int, limit: int, deadline_s: float) -> None:
        self._threads = ThreadPoolExecutor(threads, "lookup")
        self._slots = threading.BoundedSemaphore(limit)
        self._limit = limit
        self._deadline_s = deadline_s

    async def run(self, lookup: Callable[[], T]) -> T:
        """Return the result of ``lookup``. One that has not begun when its caller leaves is never run.

        Raises:
            QueueFull: At once, when as many lookups wait as may.
            DeadlineMissed: It took too long.
        """
        if not self._slots.acquire(blocking=False):
            raise QueueFull(self._limit, 1)
        job = self._threads.submit(lookup)
        job.add_done_callback(lambda _: self._slots.release())

        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            raise DeadlineMissed from None

    async def close(self) -> None:
        """Finish the lookups that have begun and drop the others."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
