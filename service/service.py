"""The parts of one running service; they start and end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import Trust
from service.access.gate import Gate
from service.access.upload_slots import UploadSlots
from service.answers.code_groups import CodeGroups
from service.answers.lookup_pool import LookupPool
from service.answers.trending import TrendTracker
from service.async_tasks import cancel_and_wait
from service.catalogue.manager import CatalogueManager
from service.catalogue.range_check import RangeCheck
from service.catalogue.updater import CatalogueUpdater
from service.histories.importer import HistoryImporter
from service.models.loading import CoderOpener, EngineOpener, open_coder
from service.models.manager import ModelManager
from service.models.trial import Trial
from service.recommender import Recommender
from service.replication.follower import CatalogueFollower
from service.settings import Settings
from service.store.base import Store
from service.store.client import StoreClient
from service.telemetry import Telemetry


class Service:
    """The parts of one running service."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        opener: EngineOpener,
        coders: CoderOpener = open_coder,
        trial: Trial | None = None,
    ) -> None:
        self.settings = settings
        self.telemetry = Telemetry()
        self.gate = Gate(settings, self.telemetry)
        self.upload_slots = UploadSlots(settings.max_bulk_uploads)
        self.is_draining = False

        self.store_client = StoreClient(store, self.telemetry, settings.live_check_s)
        self.follower = CatalogueFollower(self.store_client, settings, self.telemetry)
        model_store = ModelStore(settings.store, trust=Trust.at(settings.trusted_keys_file))
        model_store.trust.check()
        self.models = ModelManager(model_store, self.follower, settings, self.telemetry, opener, coders, trial)
        self.updater = CatalogueUpdater(self.models, self.follower, self.store_client, settings, self.telemetry)
        self.catalogue = CatalogueManager(self.updater, self.store_client)

        self.importer = HistoryImporter(self.models, model_store, store, settings, self.telemetry)
        self.trends = TrendTracker(store, settings, self.telemetry)
        range_check = RangeCheck(self.models, self.updater)
        self.recommender = Recommender(
            self.models, self.store_client, self.trends, range_check, settings, self.telemetry
        )
        self.code_groups = CodeGroups()
        self.lookups = LookupPool(2, settings.queue_size, settings.deadline_ms / 1000)

    @property
    def unready_reason(self) -> str:
        """Reason why no new requests should be sent here; empty if they should."""
        if self.is_draining:
            return "the service is shutting down"
        return "" if self.models.current else self.models.problem

    @property
    def problem(self) -> str:
        """Everything that an operator should look at although requests are answered; empty if all is well."""
        return "; ".join(each for each in (self.models.problem, self.gate.problem) if each)

    def begin_drain(self) -> None:
        """Report this process as not ready from now on; everything is still answered."""
        self.is_draining = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the model store and the store; at the end finish accepted requests and close everything."""
        watched = (
            self.store_client.watch(),
            self.models.watch(),
            self.updater.watch(),
            self.trends.watch(),
            self.importer.watch(),
            self.gate.watch(),
        )
        watchers = [asyncio.create_task(each) for each in watched]

        try:
            yield
        finally:
            self.begin_drain()
            for watcher in watchers:
                await cancel_and_wait(watcher)

            await self.models.close()
            await self.follower.close()
            await self.lookups.close()
            await self.store_client.store.close()
