"""Loader of versions: tries one, loads and proves it, and brings its catalogue to the end of the change stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from model_store.bundle.registry import ModelStore
from model_store.errors import BundleRefused, StoreUnavailable
from service.async_tasks import cancel_and_wait
from service.models.loaded_model import LoadedModel
from service.models.loading import CoderOpener, EngineOpener, KnownItemsOnly, as_trained, load_model, open_coder
from service.models.slot import close_engine
from service.models.trial import FileCheck, Trial, Tried
from service.replication.catalogue_source import CatalogueSource
from service.replication.follower import CatalogueFollower
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.settings import Settings


class VersionLoader:
    """Loader of the versions of one model store.

    Args:
        store: The model store.
        follower: Opens catalogues and follows the change stream.
        settings: See :class:`~service.settings.Settings`.
        opener: Turns a bundle into an engine.
        coders: Turns a bundle into the coder that gives new items their codes.
        trial: Tries a version before it is loaded; files are verified in this process if not given.
    """

    def __init__(
        self,
        store: ModelStore,
        follower: CatalogueFollower,
        settings: Settings,
        opener: EngineOpener,
        coders: CoderOpener = open_coder,
        trial: Trial | None = None,
    ) -> None:
        self.trial = trial or FileCheck(store)
        self._store = store
        self._follower = follower
        self._settings = settings
        self._open_engine = opener
        self._open_coder = coders

    async def try_version(self, version: str, superseded: Callable[[], Awaitable[None]]) -> Tried | None:
        """Try a version, and return what was found.

        Args:
            version: Its name.
            superseded: Returns when the version is not wanted any more.

        Returns:
            ``None`` if it is not wanted any more.

        Raises:
            EtegrecError: See :data:`~service.models.trial.Trial`.
        """
        trial = asyncio.ensure_future(self.trial(version))
        newer = asyncio.ensure_future(superseded())
        try:
            await asyncio.wait({trial, newer}, return_when=asyncio.FIRST_COMPLETED)
            return trial.result() if trial.done() else newer.result()
        finally:
            newer.cancel()
            await cancel_and_wait(trial)

    async def load(self, version: str, digest: str, least_revision: Callable[[], int]) -> LoadedModel:
        """Load a version that passed its trial.

        Args:
            version: Its name.
            digest: Digest of the manifest that was tried.
            least_revision: Returns the revision that its catalogue must have reached: an item that was hidden must not
                come back with a swap.

        Raises:
            BundleRefused: It is damaged, or does not answer its goldens.
            StoreUnavailable: The store, which has the changes in between, cannot be asked now.
        """
        items = await asyncio.to_thread(self._read_bundle, version, digest)
        replica = await self._follower.open(items)
        model = await asyncio.to_thread(self._open_and_prove, items, replica)
        try:
            return await self._catch_up(model, least_revision)
        except BaseException:
            await asyncio.to_thread(close_engine, [model.engine])
            raise

    def _read_bundle(self, version: str, digest: str) -> CatalogueSource:
        bundle = self._store.bundle(version)
        if bundle.manifest.digest != digest:
            raise BundleRefused(f"version {version} was exchanged after it was tried", "versions never change")
        return CatalogueSource(bundle, self._open_coder(bundle, self._settings))

    def _open_and_prove(self, items: CatalogueSource, replica: ReplicatedCatalogue) -> LoadedModel:
        # Room for new items is made now, not while somebody waits for one.
        replica = replace(replica, catalogue=replica.catalogue.with_room())
        model = load_model(items.bundle, as_trained(replica.catalogue), self._settings, self._open_engine)
        if isinstance(items.coder, KnownItemsOnly) and items.coder.is_refused:
            model = replace(model, refused_parts=model.refused_parts | {"item_encoder"})
        return model.with_catalogue(replica, self._settings.rule_cache_entries)

    async def _catch_up(self, model: LoadedModel, least_revision: Callable[[], int]) -> LoadedModel:
        while model.revision < least_revision():
            assert model.replica is not None
            replica = await self._follower.follow(model.replica)
            if replica is model.replica:
                raise StoreUnavailable("the new version cannot catch up with the change stream", "it is tried again")
            model = await asyncio.to_thread(model.with_catalogue, replica, self._settings.rule_cache_entries)
        return model
