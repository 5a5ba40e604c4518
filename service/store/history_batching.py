"""Reads of user histories that come together go to the live store together.

Five hundred users at once are one round trip instead of five hundred, which matters where each read has a deadline of
milliseconds and the event loop is busy. While one read is under way, those that come meanwhile form the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.store.base import Store

READ_AT_ONCE = 256
"""Histories in one round trip at most: Redis answers it in well under a millisecond each hundred."""


class HistoryBatcher:
    """Used from one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: dict[str, asyncio.Future[list[str]]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def history(self, user_id: str) -> list[str]:
        """Like :meth:`service.store.base.Store.history`; a user asked for twice at once is read once."""
        answer = self._asked.get(user_id)
        if answer is None:
            answer = self._asked[user_id] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        return await asyncio.shield(answer)  # others may wait for the same user

    async def _read_all(self) -> None:
        try:
            while self._asked:
                user_ids = list(self._asked)[:READ_AT_ONCE]
                await self._read({user_id: self._asked.pop(user_id) for user_id in user_ids})
        finally:
            self._reading = None

    async def _read(self, asked: dict[str, asyncio.Future[list[str]]]) -> None:
        try:
            found: Sequence[list[str] | Exception] = await self._store.histories(list(asked))
        except Exception as failure:  # noqa: BLE001  whatever it is, those who asked raise it
            found = [failure] * len(asked)
        for answer, outcome in zip(asked.values(), found, strict=True):
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
                answer.exception()  # whoever asked may have left: then nobody reads it
            else:
                answer.set_result(outcome)
