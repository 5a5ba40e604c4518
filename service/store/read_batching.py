"""Batching of reads: requests that arrive together read the store in one round trip.

Two round trips instead of five hundred matter where each read has a deadline of milliseconds and the event loop is
busy. Requests that arrive while a read is under way form the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from model_store.errors import StoreError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

READ_AT_ONCE = 256
"""Largest number of users in one round trip. Redis needs well under a millisecond per hundred."""


class ReadBatcher(Generic[K, V]):
    """Batcher of reads of one kind, such as histories. Used from one event loop.

    Args:
        read_all: Reads values by their keys, in the given order, with errors in the place of some.
    """

    def __init__(self, read_all: Callable[[Sequence[K]], Awaitable[Sequence[V | StoreError]]]) -> None:
        self._read_many = read_all
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def read(self, key: K) -> V:
        """Return the value of a key, or raise its error; a key asked for twice at once is read once."""
        answer = self._waiting.get(key)
        if answer is None:
            answer = asyncio.get_running_loop().create_future()
            self._waiting[key] = answer
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        return await asyncio.shield(answer)  # others may wait for the same key

    async def _read_all(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:READ_AT_ONCE]
                await self._read({key: self._waiting.pop(key) for key in keys})
        finally:
            self._reading = None

    async def _read(self, asked: dict[K, asyncio.Future[V]]) -> None:
        try:
            found: Sequence[V | Exception] = await self._read_many(list(asked))
        except Exception as failure:  # noqa: BLE001  whatever it is, every caller gets it
            found = [failure] * len(asked)

        for answer, outcome in zip(asked.values(), found, strict=True):
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
                answer.exception()  # marks it as seen: the caller may be gone
            else:
                answer.set_result(outcome)
