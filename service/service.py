"""The parts of one running service, and how they start and end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from model_store.bundle.registry import ModelStore
from service.answers.code_groups import CodeGroups
from service.answers.lookup_pool import LookupPool
from service.answers.trending import TrendTracker
from service.api_keys import Keys
from service.async_tasks import end
from service.catalogue.manager import CatalogueManager
from service.models.loading import CoderOpener, EngineOpener, open_coder
from service.models.manager import ModelManager
from service.recommender import Recommender
from service.replication.follower import CatalogueFollower
from service.settings import Settings
from service.store.base import Store
from service.store.client import StoreClient
from service.telemetry import Telemetry


class Service:
    """The parts of one running service."""

    def __init__(
        self, settings: Settings, store: Store, opener: EngineOpener, coders: CoderOpener = open_coder
    ) -> None:
        self.settings = settings
        self.keys = Keys.of(settings)
        self.telemetry = Telemetry()
        self.store_client = StoreClient(store, self.telemetry, settings.live_check_s)
        self.follower = CatalogueFollower(self.store_client, settings, self.telemetry)
        self.models = ModelManager(ModelStore(settings.store), self.follower, settings, self.telemetry, opener, coders)
        self.catalogue = CatalogueManager(self.models, self.follower, self.store_client, settings, self.telemetry)
        self.trends = TrendTracker(store, settings, self.telemetry)
        self.recommender = Recommender(self.models, self.store_client, self.trends, settings, self.telemetry)
        self.code_groups = CodeGroups()
        self.lookups = LookupPool(2, settings.queue_size, settings.deadline_ms / 1000)
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
        watched = (self.store_client.watch(), self.models.watch(), self.catalogue.watch(), self.trends.watch())
        watchers = [asyncio.create_task(each) for each in watched]
        try:
            yield
        finally:
            self.begin_drain()
            for watcher in watchers:
                await end(watcher)
            await self.models.close()
            await self.follower.close()
            await self.lookups.close()
            await self.store_client.store.close()
