"""Threads for lookups: bounded, on time, and no work for clients that left."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.answers.lookup_pool import LookupPool
from service.errors import DeadlineMissed, QueueFull

pytestmark = pytest.mark.anyio


async def test_more_work_than_fits_is_refused_at_once_and_fits_later() -> None:
    gate, lookups = threading.Event(), LookupPool(threads=1, limit=2, deadline_s=30)
    running = [asyncio.create_task(lookups.run(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await lookups.run(gate.wait)
    gate.set()
    assert await asyncio.gather(*running) == [True, True]
    assert await lookups.run(lambda: 7) == 7
    await lookups.close()


async def test_work_that_takes_too_long_is_given_up_and_what_has_not_begun_is_not_done() -> None:
    gate, done, lookups = threading.Event(), [], LookupPool(threads=1, limit=10, deadline_s=0.05)
    slow = asyncio.create_task(lookups.run(gate.wait))
    waiting = asyncio.create_task(lookups.run(lambda: done.append("waiting")))
    for each in (slow, waiting):
        with pytest.raises(DeadlineMissed):
            await each
    gate.set()
    await lookups.close()
    assert not done


async def test_what_work_raises_comes_through() -> None:
    lookups = LookupPool(threads=1, limit=1, deadline_s=30)
    for _ in range(2):  # the place is free again
        with pytest.raises(ZeroDivisionError):
            await lookups.run(lambda: 1 // 0)
    await lookups.close()
