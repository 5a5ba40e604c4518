"""Client of the store for the request path, which goes on answering while the store is away."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import structlog

from model_store.errors import StoreCorrupt, StoreError
from service.store.base import Store
from service.store.history_batching import HistoryBatcher
from service.telemetry import Telemetry

log = structlog.get_logger()


class StoredHistory(NamedTuple):
    """History of a user; ``is_missing`` if the store could not be asked."""

    item_ids: list[str]
    is_missing: bool


class StoreClient:
    """Wrapper of the store that remembers whether the store answers."""

    def __init__(self, store: Store, telemetry: Telemetry, check_s: float) -> None:
        self.store = store
        self._reads = HistoryBatcher(store)
        self._telemetry = telemetry
        self._check_s = check_s
        self._answers = True
        self._is_behind = False
        telemetry.store_up.set(1)

    @property
    def is_up(self) -> bool:
        """True while the store takes writes, histories can be read and the catalogue follows the changes.

        Answers given at any other time are marked degraded.
        """
        return self._answers and not self._is_behind

    def note_behind(self, *, behind: bool) -> None:
        """Remember whether the catalogue in memory lacks changes that cannot be read now."""
        if behind != self._is_behind:
            log.warning("catalogue_is_behind" if behind else "catalogue_follows_again")
        self._is_behind = behind

    async def watch(self) -> None:
        """Check the store every ``check_s`` seconds, until cancelled."""
        while True:
            try:
                await self.check()
            except Exception:
                log.exception("store_watch_crashed")
            await asyncio.sleep(self._check_s)

    async def check(self) -> None:
        """Ask the store once whether it answers and takes writes."""
        try:
            await self.store.check()
            self._note(up=True)
        except StoreError as failure:
            self._note(up=False, cause=failure)

    async def history(self, user_id: str) -> StoredHistory:
        """Return the stored history, or an empty one marked missing. Never raises because the store is away."""
        try:
            return StoredHistory(await self._reads.history(user_id), is_missing=False)
        except StoreCorrupt:
            log.warning("history_corrupt")
        except StoreError as failure:
            self._note(up=False, cause=failure)

        return StoredHistory([], is_missing=True)

    def _note(self, *, up: bool, cause: StoreError | None = None) -> None:
        if up != self._answers:
            log.warning("store_is_back" if up else "store_is_away", cause=str(cause or ""))
        self._answers = up
        self._telemetry.store_up.set(up)
