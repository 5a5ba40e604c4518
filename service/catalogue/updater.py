"""Updater of the answering model's catalogue: follows the change stream and swaps the newer catalogue in."""

from __future__ import annotations

import asyncio
import time

import structlog

from model_store.errors import StoreError, StoreUnavailable
from service.errors import NotReady
from service.models.loaded_model import LoadedModel
from service.models.slot import ModelSlot
from service.replication.follower import CatalogueFollower
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.settings import Settings
from service.store.client import StoreClient
from service.telemetry import Telemetry

log = structlog.get_logger()


class CatalogueUpdater:
    """Updater of the catalogue of whichever model is in a slot. Used from one event loop."""

    def __init__(
        self,
        models: ModelSlot,
        follower: CatalogueFollower,
        store_client: StoreClient,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._models = models
        self._follower = follower
        self._store_client = store_client
        self._settings = settings
        self._telemetry = telemetry
        self._stepping = asyncio.Lock()

    def current(self) -> tuple[LoadedModel, ReplicatedCatalogue]:
        """Return the answering model and its catalogue.

        Raises:
            NotReady: No model is loaded.
        """
        model = self._models.current
        if model is None or model.replica is None:
            raise NotReady(self._models.problem)
        return model, model.replica

    async def watch(self) -> None:
        """Follow the stream, until cancelled."""
        is_failing = False
        while True:
            has_moved = False
            try:
                has_moved = await self.step()
                is_failing = False
            except StoreError as failure:
                self._store_client.note_behind(behind=True)
                if not is_failing:  # once per outage, not ten times a second
                    log.warning("changes_unavailable", cause=str(failure), hint=failure.hint)
                is_failing = True
            except Exception:
                log.exception("catalogue_step_crashed")

            await asyncio.sleep(0 if has_moved else self._settings.catalogue_poll_s)

    async def step(self) -> bool:
        """Read the stream once, compute the catalogue aside and swap it in; return whether there was anything new.

        Raises:
            StoreError: The store cannot be asked now.
        """
        async with self._stepping:
            model = self._models.current
            if model is None or model.replica is None:
                return False

            replica = await self._follower.follow(model.replica)
            if replica is model.replica:
                return False

            newer = await asyncio.to_thread(model.with_catalogue, replica, self._settings.rule_cache_entries)
            if self._models.swap_catalogue(model, newer):
                self._telemetry.catalogue_revision.set(newer.revision)
            return True

    async def try_step(self) -> None:
        """Take a step if the store answers within a request's deadline: nobody waits for a store that hangs."""
        if not self._store_client.is_up:
            return
        try:
            async with asyncio.timeout(self._settings.deadline_ms / 1000):
                await self.step()
        except (StoreError, TimeoutError) as failure:
            log.info("changes_unavailable", cause=str(failure))

    async def catch_up(self, revision: int) -> LoadedModel:
        """Wait until the answering model contains a revision that is stored already, and return it.

        Raises:
            StoreUnavailable: The catalogue has made no progress for ``catalogue_wait_s``.
            NotReady: No model is loaded.
        """
        reached = -1
        give_up_at = 0.0
        while True:
            model, _ = self.current()
            if model.revision >= revision:
                return model

            if model.revision > reached:
                reached = model.revision
                give_up_at = time.monotonic() + self._settings.catalogue_wait_s
            elif time.monotonic() > give_up_at:
                raise StoreUnavailable("the change is stored, but was not applied in time", "it will be, or repeat it")

            if not await self.step() and self._models.current is model:
                await asyncio.sleep(self._settings.catalogue_poll_s)
