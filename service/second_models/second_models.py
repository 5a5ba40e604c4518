"""Second models of this replica, candidate and shadow: while one is loaded, its catalogue is kept up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from model_store.bundle.aliases import CANDIDATE, SHADOW, Alias, AliasName
from model_store.bundle.registry import ModelStore
from service.async_tasks import cancel_and_wait
from service.catalogue.updater import CatalogueUpdater
from service.errors import ModelNotLoaded, NoSuchModel
from service.models.loader import VersionLoader
from service.models.loading import CoderOpener, EngineOpener
from service.models.manager import ModelManager
from service.models.memory_budget import MemoryBudget
from service.models.slot import ModelSlot
from service.models.trial import Trial
from service.replication.follower import CatalogueFollower
from service.second_models.second_model import SecondModel
from service.settings import Settings
from service.store.base import Store
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry


class SecondModels:
    """The models of all aliases.

    Each follows the catalogue changes by itself, and counts apart: neither metrics nor the health of this replica tell
    of them as if they were the live model. While no version has an alias, nothing is done for it but to look for one.

    Args:
        live: The model that answers everybody else.
        model_store: Names the versions.
        store: Has the catalogue changes.
        has_ended: Tells whether a canary was rolled back.
        settings: See :class:`~service.settings.Settings`.
        telemetry: Metrics of the service.
        opener: Turns a bundle into an engine.
        coders: Turns a bundle into the coder that gives new items their codes.
        trial: Tries a version before it is loaded.
    """

    def __init__(
        self,
        live: ModelManager,
        model_store: ModelStore,
        store: Store,
        has_ended: Callable[[Alias], bool],
        settings: Settings,
        telemetry: Telemetry,
        opener: EngineOpener,
        coders: CoderOpener,
        trial: Trial | None,
    ) -> None:
        budget = MemoryBudget(settings.second_models_mb)

        def second_model(name: AliasName, settings: Settings, has_ended: Callable[[Alias], bool]) -> SecondModel:
            def open_upkeep(slot: ModelSlot) -> _Upkeep:
                own_telemetry = Telemetry(telemetry.tracing)
                client = StoreClient(store, own_telemetry, settings.live_check_s)
                follower = CatalogueFollower(client, settings, own_telemetry)
                loader = VersionLoader(model_store, follower, settings, opener, coders, trial)
                updater = CatalogueUpdater(slot, follower, client, settings, own_telemetry)
                return _Upkeep(loader, follower, updater, own_telemetry)

            return SecondModel(name, live, model_store, open_upkeep, budget, has_ended, settings, telemetry)

        self.candidate = second_model(CANDIDATE, settings, has_ended)
        # One core: the shadow is in nobody's way, and takes its time.
        frugal = settings.model_copy(update={"threads": 1, "searches": 1})
        self.shadow = second_model(SHADOW, frugal, lambda _: False)

    def find(self, name: AliasName) -> SecondModel:
        """Return the model of an alias, which is loaded.

        Raises:
            NoSuchModel: No version has the alias.
            ModelNotLoaded: One has it, but is not loaded on this replica.
        """
        model = self.candidate if name == CANDIDATE else self.shadow
        if model.alias is None:
            raise NoSuchModel(name)
        if model.current is None:
            raise ModelNotLoaded(name, model.state, model.problem)
        return model

    def watches(self) -> list[Coroutine[None, None, None]]:
        """Return what must run as long as the service does."""
        return [model.watch() for model in (self.candidate, self.shadow)]

    async def close(self) -> None:
        """Finish what was accepted and free all models."""
        for model in (self.candidate, self.shadow):
            await model.let_go()
            await model.close_upkeep()


class _Upkeep:
    """Upkeep of one second model; it follows changes from now on."""

    def __init__(
        self, loader: VersionLoader, follower: CatalogueFollower, updater: CatalogueUpdater, telemetry: Telemetry
    ) -> None:
        self.loader = loader
        self.telemetry = telemetry
        self._follower = follower
        self._updater = updater
        self._updating = asyncio.create_task(updater.watch())

    async def try_step(self) -> None:
        """Read the changes once, if the store answers in time."""
        await self._updater.try_step()

    async def close(self) -> None:
        """Stop following changes, and free what that took."""
        await cancel_and_wait(self._updating)
        await self._follower.close()
