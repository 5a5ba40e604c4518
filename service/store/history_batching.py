"""Batching of history reads: requests that arrive together read the store in one round trip.

Two round trips instead of five hundred matter where each read has a deadline of milliseconds and the event loop is
busy. Requests that arrive while a read is under way form the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.store.base import History, Store

READ_AT_ONCE = 256
"""Largest number of histories in one round trip. Redis needs well under a millisecond per hundred."""


class HistoryBatcher:
    """Batcher of history reads. Used from one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, asyncio.Future[History]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def history(self, user_id: str) -> History:
        """Return what :meth:`service.store.base.Store.history` does; a user asked for twice at once is read once."""
        answer = self._waiting.get(user_id)
        if answer is None:
            answer = asyncio.get_running_loop().create_future()
            self._waiting[user_id] = answer
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        return await asyncio.shield(answer)  # others may wait for the same user

    async def _read_all(self) -> None:
        try:
            while self._waiting:
                user_ids = list(self._waiting)[:READ_AT_ONCE]
                await self._read({user_id: self._waiting.pop(user_id) for user_id in user_ids})
        finally:
            self._reading = None

    async def _read(self, asked: dict[str, asyncio.Future[History]]) -> None:
        try:
            found: Sequence[History | Exception] = await self._store.histories(list(asked))
        except Exception as failure:  # noqa: BLE001  whatever it is, every caller gets it
            found = [failure] * len(asked)

        for answer, outcome in zip(asked.values(), found, strict=True):
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
                answer.exception()  # marks it as seen: the caller may be gone
            else:
                answer.set_result(outcome)
