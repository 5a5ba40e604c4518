"""Importer of a version's histories: its training data's users are known from when it is first served.

One replica imports, the others wait; the store remembers how far it has come, so that another one goes on after a
crash. A store that lost its content is filled once more.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from model_store.bundle.histories import HISTORIES, count_users, iterate_histories
from model_store.bundle.registry import ModelStore
from model_store.errors import EtegrecError
from model_store.events.history_entry import UserInteractions
from service.histories.chunks import Chunk, import_chunks
from service.models.manager import ModelManager
from service.settings import Settings
from service.store.base import ImportProgress, Store
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

LOGGED_EVERY_S = 10.0
"""Seconds between two log lines about progress."""

RETRY_S = 60.0
"""Seconds after which a failed import is tried again."""


@dataclass
class _Import:
    """An import under way."""

    version: str
    total: int  # users in the file
    done: int  # of them, from the first one on
    users: int = 0  # whose history changed
    interactions: int = 0  # that came
    started: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)

    def add(self, chunk: Chunk) -> None:
        self.done += chunk.users
        self.users += chunk.imported.users
        self.interactions += chunk.imported.interactions

    def report(self, event: str) -> None:
        log.info(
            event,
            version=self.version,
            done=self.done,
            of_users=self.total,
            written_users=self.users,
            written_interactions=self.interactions,
            seconds=round(time.monotonic() - self.started, 1),
        )
        self.logged = time.monotonic()


class HistoryImporter:
    """Importer of the histories of whichever version serves. Used from one event loop.

    Args:
        models: The model that serves.
        model_store: Where its bundle is.
        store: Where histories go.
        settings: ``import_histories`` turns it off; ``reload_s`` is how often it looks for something to do.
        telemetry: Metrics.

    Attributes:
        retry_s: Seconds after which a failed import is tried again.
    """

    def __init__(
        self, models: ModelManager, model_store: ModelStore, store: Store, settings: Settings, telemetry: Telemetry
    ) -> None:
        self.retry_s = RETRY_S
        self._models = models
        self._model_store = model_store
        self._store = store
        self._settings = settings
        self._telemetry = telemetry

    async def watch(self) -> None:
        """Import what is not imported yet, until cancelled."""
        while self._settings.import_histories:
            pause_s = self._settings.reload_s
            try:
                await self.step()
            except EtegrecError as failure:
                pause_s = self.retry_s
                log.warning("history_import_stopped", cause=str(failure), hint=failure.hint, retry_s=pause_s)
            except Exception:
                pause_s = self.retry_s
                log.exception("history_import_crashed")
            await asyncio.sleep(pause_s)

    async def step(self) -> None:
        """Import the histories of the version that serves now, unless that is done or another replica does it.

        Raises:
            StoreError: The store is away, full or nearly full.
            ModelStoreError: The histories cannot be read.
        """
        model = self._models.current
        if model is None:
            return
        if HISTORIES not in model.manifest.files:
            self._telemetry.history_import_progress.set(1)
            return

        if await self._is_complete(model.version):
            return
        async with self._store.importing() as is_mine:
            if is_mine and not await self._is_complete(model.version):
                await self._import(model.version)

    async def _is_complete(self, version: str) -> bool:
        """Ask whether the histories of a version are imported."""
        progress = await self._store.import_progress(version)
        if progress.is_complete:
            self._telemetry.history_import_progress.set(1)
        return progress.is_complete

    async def _import(self, version: str) -> None:
        progress = await self._store.import_progress(version)
        data = await asyncio.to_thread(lambda: self._model_store.bundle(version).read(HISTORIES))
        under_way = _Import(version, count_users(data), progress.users)
        under_way.report("history_import_started")
        self._show_progress(under_way)

        histories = itertools.islice(iterate_histories(data), progress.users, None)
        if await self._import_all(under_way, histories):
            await self._store.save_import_progress(version, ImportProgress(under_way.done, is_complete=True))
            self._telemetry.history_import_progress.set(1)
            under_way.report("history_import_finished")

    async def _import_all(self, under_way: _Import, histories: Iterator[UserInteractions]) -> bool:
        """Import chunk by chunk; return ``False`` if another version has taken over meanwhile."""
        async with aclosing(import_chunks(self._store, histories)) as chunks:
            async for chunk in chunks:
                under_way.add(chunk)
                self._count(chunk)
                self._show_progress(under_way)
                await self._store.save_import_progress(
                    under_way.version, ImportProgress(under_way.done, is_complete=False)
                )

                model = self._models.current
                if model is None or model.version != under_way.version:
                    under_way.report("history_import_superseded")
                    return False
                if time.monotonic() - under_way.logged >= LOGGED_EVERY_S:
                    under_way.report("history_import_progress")
        return True

    def _count(self, chunk: Chunk) -> None:
        written = chunk.imported.users
        self._telemetry.history_import_users.labels("written").inc(written)
        self._telemetry.history_import_users.labels("unchanged").inc(chunk.users - written)

    def _show_progress(self, under_way: _Import) -> None:
        share = under_way.done / max(under_way.total, 1)
        self._telemetry.history_import_progress.set(min(share, 0.999))  # 1 once the store knows that all are done
