"""Updater of the answering model's catalogue: follows the change stream and swaps the newer catalogue in."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import structlog

from model_store.errors import StoreError, StoreUnavailable
from service.async_tasks import Expected, repeat_until_cancelled
from service.errors import NotReady
from service.models.loaded_model import LoadedModel
from service.models.slot import ModelSlot
from service.replication.follower import CatalogueFollower
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.settings import Settings
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry

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
        await repeat_until_cancelled(
            self.step,
            self._settings.catalogue_poll_s,
            on_crash=partial(log.exception, "catalogue_step_crashed"),
            expected=Expected(StoreError, self._note_outage),
        )

    def _note_outage(self, failure: StoreError, is_first: bool) -> None:
        self._store_client.note_behind(behind=True)
        if is_first:
            log.warning("changes_unavailable", cause=str(failure), hint=failure.hint)

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
