"""The parts of one running service; they start and end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import Trust
from model_store.tracing.interface import Tracing, open_tracing
from service.access.gate import Gate
from service.access.upload_slots import UploadSlots
from service.answers.code_groups import CodeGroups
from service.answers.lookup_pool import LookupPool
from service.answers.recent_users import RecentUsers
from service.answers.shown import ShownTracker
from service.answers.title_search import TitleSearch
from service.answers.trending import TrendTracker
from service.async_tasks import cancel_and_wait
from service.attribution.answer_counts import AnswerCounts
from service.attribution.key_ring import KeyRing
from service.attribution.loaded_codes import LoadedCodes
from service.attribution.recorder import EventRecorder
from service.attribution.signer import Signer
from service.attribution.upkeep import AttributionUpkeep
from service.catalogue.manager import CatalogueManager
from service.catalogue.range_check import RangeCheck
from service.catalogue.updater import CatalogueUpdater
from service.experiments.experiments import Experiments
from service.experiments.upkeep import ExperimentUpkeep
from service.histories.importer import HistoryImporter
from service.models.loader import VersionLoader
from service.models.loading import CoderOpener, EngineOpener, open_coder
from service.models.manager import ModelManager
from service.models.slot import ModelSlot
from service.models.trial import Trial
from service.placements import Placements
from service.previews.audience import Audience
from service.previews.items import ItemPreviewer
from service.previews.placements import PlacementPreviewer
from service.previews.turn import Turn
from service.recommender import Recommender
from service.replication.follower import CatalogueFollower
from service.search.why_not import WhyNotFinder
from service.second_models.canary import Canary
from service.second_models.canary_ends import CanaryEnds
from service.second_models.model_choice import ModelChoice
from service.second_models.second_models import SecondModels
from service.second_models.shadow import Shadow
from service.settings import Settings
from service.store.base import Store
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry


class Service:
    """The parts of one running service."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        opener: EngineOpener,
        coders: CoderOpener = open_coder,
        trial: Trial | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.telemetry = Telemetry(tracing or open_tracing("etegrec-serve", is_on=settings.tracing))
        self.gate = Gate(settings, self.telemetry)
        self.upload_slots = UploadSlots(settings.max_bulk_uploads)
        self.lookups = LookupPool(2, settings.queue_size, settings.deadline_ms / 1000)
        self.is_draining = False

        self.store_client = StoreClient(store, self.telemetry, settings.live_check_s)
        model_store = ModelStore(
            settings.store, trust=Trust.at(settings.trusted_keys_file), namespace=settings.namespace
        )
        model_store.trust.check()

        keys = KeyRing(settings, store.counters)
        signer = self._add_attribution(keys, store)
        self._add_live_model(model_store, opener, coders, trial)
        self._add_documents(store)
        self._add_histories(model_store, store)
        self._add_second_models(model_store, store, signer, opener, coders, trial)
        self._add_recorder(keys)
        self._add_recommender(signer)
        self._add_previews()

    def _add_attribution(self, keys: KeyRing, store: Store) -> Signer:
        """Add what counts answers; return what signs them."""
        counts = AnswerCounts(store.counters, store.subjects)
        self.attribution_upkeep = AttributionUpkeep(keys, counts, store.counters, self.settings.counters_days)
        return Signer(keys, counts, is_implicit=self.settings.implicit_impressions)

    def _add_recorder(self, keys: KeyRing) -> None:
        """Add what records events, and finds the codes of their items in all models."""
        codes = LoadedCodes((self.models, self.second_models.candidate, self.second_models.shadow))
        self.recorder = EventRecorder(self.store_client, keys, self.settings.attribution_ttl_s, self.telemetry, codes)

    def _add_live_model(
        self, model_store: ModelStore, opener: EngineOpener, coders: CoderOpener, trial: Trial | None
    ) -> None:
        """Add the live model, and what keeps its catalogue up to date."""
        settings = self.settings
        self.follower = CatalogueFollower(self.store_client, settings, self.telemetry)
        loader = VersionLoader(model_store, self.follower, settings, opener, coders, trial)
        self.models = ModelManager(model_store, loader, settings, self.telemetry)
        self.updater = CatalogueUpdater(self.models, self.follower, self.store_client, settings, self.telemetry)
        self.catalogue = CatalogueManager(self.updater, self.store_client)
        self.range_check = RangeCheck(self.models, self.updater)
        self.code_groups = CodeGroups()
        self.titles = TitleSearch()

    def _add_documents(self, store: Store) -> None:
        """Add the documents that all replicas share: experiments, placements, canaries that were rolled back."""
        wait_s = self.settings.deadline_ms / 1000
        self.experiments = Experiments(self.store_client, wait_s)
        self.placements = Placements(self.store_client, wait_s, self.experiments)
        self.canary_ends = CanaryEnds(self.store_client, wait_s)
        self.experiment_upkeep = ExperimentUpkeep(self.experiments, store.subjects, self.settings.attribution_ttl_s)

    def _add_histories(self, model_store: ModelStore, store: Store) -> None:
        """Add what knows of users and their events: imported histories, trends, and what was shown."""
        self.importer = HistoryImporter(self.models, model_store, store, self.settings, self.telemetry)
        self.trends = TrendTracker(store, self.settings, self.telemetry)
        self.shown = ShownTracker(self.store_client, self.telemetry)
        self.recent_users = RecentUsers()

    def _add_second_models(
        self,
        model_store: ModelStore,
        store: Store,
        signer: Signer,
        opener: EngineOpener,
        coders: CoderOpener,
        trial: Trial | None,
    ) -> None:
        """Add the models beside the live one, and what gives them requests."""
        self.second_models = SecondModels(
            self.models,
            model_store,
            store,
            self.canary_ends.has_ended,
            self.settings,
            self.telemetry,
            opener,
            coders,
            trial,
        )
        self.canary = Canary(
            self.models,
            self.second_models.candidate,
            self.canary_ends,
            model_store,
            self.store_client,
            signer,
            self.settings,
            self.telemetry,
        )
        self.shadow = Shadow(self.second_models.shadow, self.models, self.settings, self.telemetry)

    def _add_recommender(self, signer: Signer) -> None:
        """Add what answers requests for recommendations, and questions about an answer."""
        range_checks: dict[ModelSlot, RangeCheck] = {self.models: self.range_check}
        for second in (self.second_models.candidate, self.second_models.shadow):
            range_checks[second] = RangeCheck(second, second)
        self.recommender = Recommender(
            self.models,
            ModelChoice(self.models, self.second_models, self.canary, signer, self.telemetry),
            self.shadow,
            self.store_client,
            self.trends,
            self.shown,
            range_checks,
            signer,
            self.recent_users,
            self.settings,
            self.telemetry,
        )
        self.why_not = WhyNotFinder(self.models, self.store_client, self.range_check, self.settings)

    def _add_previews(self) -> None:
        """Add previews, which take turns."""
        audience = Audience(self.store_client, self.recent_users, self.settings)
        turn = Turn()
        self.placement_previews = PlacementPreviewer(self.models, audience, self.placements, self.range_check, turn)
        self.item_previews = ItemPreviewer(self.models, audience, turn, self.settings)

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
            self.shown.watch(),
            self.placements.watch(),
            self.experiments.watch(),
            self.canary_ends.watch(),
            self.canary.watch(),
            self.shadow.watch(),
            *self.second_models.watches(),
            self.experiment_upkeep.watch(),
            self.importer.watch(),
            self.attribution_upkeep.watch(),
            self.gate.watch(),
        )
        watchers = [asyncio.create_task(each) for each in watched]

        try:
            yield
        finally:
            self.begin_drain()
            for watcher in watchers:
                await cancel_and_wait(watcher)

            await self.second_models.close()
            await self.models.close()
            await self.shown.close()
            await self.follower.close()
            await self.lookups.close()
            await self.attribution_upkeep.close()
            await self.store_client.store.close()
            await asyncio.to_thread(self.telemetry.tracing.close)
