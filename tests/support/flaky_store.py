"""Embedded store that tests can take away."""

from __future__ import annotations

from collections.abc import Sequence

from model_store.errors import StoreUnavailable
from model_store.events.event import Event
from model_store.events.event_queue import EventBacklog
from service.store.base import History, Recorded
from service.store.embedded_changes import EmbeddedChanges
from service.store.embedded_store import EmbeddedStore


class FlakyStore(EmbeddedStore):
    """An embedded store that can be as far away as Redis: then every call of a running service fails."""

    is_away = False

    def _reach(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")

    @property
    def catalogue(self) -> EmbeddedChanges:
        self._reach()
        return super().catalogue

    async def ping(self) -> None:
        self._reach()
        await super().ping()

    async def check(self) -> None:
        self._reach()
        await super().check()

    async def history(self, user_id: str) -> History:
        self._reach()
        return await super().history(user_id)

    async def record(self, events: Sequence[Event]) -> Recorded:
        self._reach()
        return await super().record(events)

    async def backlog(self) -> EventBacklog:
        self._reach()
        return await super().backlog()

    async def counts(self, half_life_s: int) -> dict[str, float]:
        self._reach()
        return await super().counts(half_life_s)
