"""Turn of previews: they cost as much as a hundred requests, so each waits for the one before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import TooManyPreviews

MOST_WAITING = 4
"""Previews that may wait."""


class Turn:
    """Lets one preview work at a time. Used from one event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for the turn, and keep it until the block ends.

        Raises:
            TooManyPreviews: As many wait already as may.
        """
        if self._waiting >= MOST_WAITING:
            raise TooManyPreviews(MOST_WAITING)
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._lock.release()
