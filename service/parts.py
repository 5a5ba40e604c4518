"""The parts of one running service, and how they start and end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from model_store.registry import Store
from service.catalogue_keeper import CatalogueKeeper
from service.catalogue_source import CatalogueSource
from service.code_groups import CodeGroups
from service.link import LiveLink
from service.live.base import LiveStore
from service.lookups import Lookups
from service.model import CoderOpener, EngineOpener, open_coder
from service.recommender import Recommender
from service.reload import ModelKeeper
from service.security import Keys
from service.settings import Settings
from service.tasks import end
from service.telemetry import Telemetry
from service.trending import Trends


class Service:
    """The parts of one running service."""

    def __init__(
        self, settings: Settings, live: LiveStore, opener: EngineOpener, coders: CoderOpener = open_coder
    ) -> None:
        self.settings = settings
        self.keys = Keys.of(settings)
        self.telemetry = Telemetry()
        self.link = LiveLink(live, self.telemetry, settings.live_check_s)
        self.source = CatalogueSource(self.link, settings, self.telemetry)
        self.models = ModelKeeper(Store(settings.store), self.source, settings, self.telemetry, opener, coders)
        self.catalogue = CatalogueKeeper(self.models, self.source, self.link, settings, self.telemetry)
        self.trends = Trends(live, settings, self.telemetry)
        self.recommender = Recommender(self.models, self.link, self.trends, settings, self.telemetry)
        self.code_groups = CodeGroups()
        self.lookups = Lookups(2, settings.queue_size, settings.deadline_ms / 1000)
        self.is_draining = False

    @property
    def unready_because(self) -> str:
        """Why no new requests should be sent here; empty if they should."""
        if self.is_draining:
            return "the service is shutting down"
        return "" if self.models.current else self.models.problem

    def begin_drain(self) -> None:
        """Say from now on that this process is not ready; everything is still answered."""
        self.is_draining = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch store and live store; at the end finish accepted requests and close everything."""
        watched = (self.link.watch(), self.models.watch(), self.catalogue.watch(), self.trends.watch())
        watchers = [asyncio.create_task(each) for each in watched]
        try:
            yield
        finally:
            self.begin_drain()
            for watcher in watchers:
                await end(watcher)
            await self.models.close()
            await self.source.close()
            await self.lookups.close()
            await self.link.store.close()
