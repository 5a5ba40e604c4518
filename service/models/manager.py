"""The manager of loaded models: it polls the model store and swaps in newly promoted versions without a pause.

The life of a version:

    poll ──> try ──> load ──> prove ──> catch up ──> swap ──> (serves) ──> drain ──> free
     ^        │        │        │          │
     └────────┴────────┴────────┴──────────┘  any failure: the version that serves goes on; tried later

    poll      the model store names another version as live than the one that serves
    try       every file is verified, and a process of its own does all that follows, with limits of time and memory;
              it is given up when yet another version becomes live
    load      its bundle is read, its catalogue (newest snapshot, else the bundle's) and its engine are opened
    prove     the engine replays the goldens; other answers refuse the version
    catch up  its catalogue applies the changes that the serving one has already
    swap      new requests lease the new version, in one assignment
    drain     requests that lease the old version finish on it
    free      the old batcher and engine are closed, and garbage is collected

A failed load shows in the log, the metrics and ``GET /health/ready``. It is tried again ever less often, in case the
model store was at fault.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog

from model_store.bundle.registry import ModelStore
from model_store.errors import BundleRefused, ModelStoreError, StoreUnavailable
from service.async_tasks import cancel_and_wait
from service.engines.base import Engine
from service.errors import NotReady
from service.models.failures import LoadFailures, problem_of
from service.models.loaded_model import PARTS, LoadedModel
from service.models.loading import CoderOpener, EngineOpener, KnownItemsOnly, as_trained, load_model, open_coder
from service.models.trial import FileCheck, Trial
from service.replication.catalogue_source import CatalogueSource
from service.replication.follower import CatalogueFollower
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.scheduling.batcher import Batcher
from service.settings import Settings
from service.telemetry import Telemetry

log = structlog.get_logger()


@dataclass(eq=False)
class Serving:
    """A loaded model with its batcher, and the number of requests that lease it."""

    model: LoadedModel
    batcher: Batcher
    leases: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)  # set once retired and leased by nobody


class ModelManager:
    """Owns the model that serves. Used from one event loop."""

    def __init__(
        self,
        store: ModelStore,
        follower: CatalogueFollower,
        settings: Settings,
        telemetry: Telemetry,
        opener: EngineOpener,
        coders: CoderOpener = open_coder,
        trial: Trial | None = None,
    ) -> None:
        self._store = store
        self._follower = follower
        self._settings = settings
        self._telemetry = telemetry
        self._open_engine = opener
        self._open_coder = coders
        self._trial = trial or FileCheck(store)

        self._current: Serving | None = None
        self._failures = LoadFailures(settings, telemetry)
        self._background: set[asyncio.Task[None]] = set()

        self.problem = "the model store was not read yet"
        """Reason why the newest model does not serve, for people; empty while it does."""

    @property
    def current(self) -> LoadedModel | None:
        """The model that serves now."""
        return self._current.model if self._current else None

    @contextmanager
    def lease(self) -> Iterator[Serving]:
        """Hold the current model while answering one request: a swap waits for it before it frees the old one.

        Raises:
            NotReady: No model has been loaded.
        """
        serving = self._current
        if serving is None:
            raise NotReady(self.problem)

        serving.leases += 1
        try:
            yield serving
        finally:
            serving.leases -= 1
            if not serving.leases and serving is not self._current:
                serving.unused.set()

    def swap_catalogue(self, old: LoadedModel, new: LoadedModel) -> bool:
        """Put the same version with a newer catalogue in place of ``old``.

        Requests that hold the old one finish on it; engine and batcher stay.

        Returns:
            ``False`` if ``old`` no longer serves; then nothing changes.
        """
        if self._current is None or self._current.model is not old:
            return False

        self._current.model = new
        return True

    async def watch(self) -> None:
        """Poll the model store every ``reload_s`` seconds, until cancelled."""
        while True:
            try:
                await self.poll()
            except Exception:
                self._telemetry.store_failures.inc()
                log.exception("store_check_crashed")
            await asyncio.sleep(self._settings.reload_s)

    async def poll(self) -> None:
        """Ask the model store once which version is live, and load it if it is another one."""
        try:
            version = await asyncio.to_thread(self._store.live)
        except ModelStoreError as failure:
            self._telemetry.store_failures.inc()
            self.problem = "the model store cannot be read; see the service's log"
            log.warning("store_check_failed", cause=str(failure), hint=failure.hint)
            return

        if version is None:
            self.problem = "no model is live any more; the last one answers" if self.current else "no model is live yet"
        elif self.current and self.current.version == version:
            self._clear_failure()
        elif not self._failures.must_wait(version):
            await self._try_load(version)

    async def close(self) -> None:
        """Finish what was accepted and free all models."""
        current = self._current
        self._current = None
        if current is not None:
            self._retire(current)
        await asyncio.gather(*self._background)

    async def _try_load(self, version: str) -> None:
        started = time.monotonic()
        try:
            digest = await self._try(version)
            if digest is None:
                log.info("trial_superseded", version=version)
                return
            model = await self._load(version, digest)
        except Exception as failure:  # noqa: BLE001  whatever is wrong with a bundle, the old model goes on answering
            self.problem = self._failures.record(version, failure)
        else:
            self._swap(model)
            log.info("model_loaded", version=version, seconds=round(time.monotonic() - started, 3))
            return

        # Only here is the failure gone, whose traceback refers to the engine that was opened.
        _collect_engines()

    async def _try(self, version: str) -> str | None:
        """Try a version; return the digest of its manifest, ``None`` if another version became live meanwhile."""
        trial = asyncio.ensure_future(self._trial(version))
        newer = asyncio.ensure_future(self._wait_until_superseded(version))
        try:
            await asyncio.wait({trial, newer}, return_when=asyncio.FIRST_COMPLETED)
            return trial.result() if trial.done() else newer.result()
        finally:
            newer.cancel()
            await cancel_and_wait(trial)

    async def _wait_until_superseded(self, version: str) -> None:
        """Return when another version than this one is live."""
        while True:
            await asyncio.sleep(self._settings.reload_s)
            try:
                if await asyncio.to_thread(self._store.live) != version:
                    return
            except ModelStoreError as failure:
                self._telemetry.store_failures.inc()
                log.warning("store_check_failed", cause=str(failure), hint=failure.hint)

    async def _load(self, version: str, digest: str) -> LoadedModel:
        items = await asyncio.to_thread(self._read_bundle, version, digest)
        replica = await self._follower.open(items)
        model = await asyncio.to_thread(self._open_and_prove, items, replica)
        try:
            return await self._catch_up(model)
        except BaseException:
            await asyncio.to_thread(_close, [model.engine])
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

    async def _catch_up(self, model: LoadedModel) -> LoadedModel:
        """Apply the changes that the serving model has: an item that was hidden must not come back with the swap.

        Raises:
            StoreUnavailable: The store, which has the changes in between, cannot be asked now.
        """
        while self.current is not None and model.revision < self.current.revision:
            assert model.replica is not None
            replica = await self._follower.follow(model.replica)
            if replica is model.replica:
                raise StoreUnavailable("the new version cannot catch up with the change stream", "it is tried again")
            model = await asyncio.to_thread(model.with_catalogue, replica, self._settings.rule_cache_entries)
        return model

    def _swap(self, model: LoadedModel) -> None:
        batcher = Batcher(model.engine, self._settings, self._telemetry)
        batcher.start()
        old = self._current
        self._current = Serving(model, batcher)

        self._clear_failure()
        self._telemetry.model_loads.labels("ok").inc()
        refused: dict[str, bool] = {part: part in model.refused_parts for part in PARTS}
        self._telemetry.show_model(model.version, model.engine.name, refused)
        if old is not None:
            self._retire(old)

    def _retire(self, serving: Serving) -> None:
        """Drain and free a model that is not the current one any more, in the background."""
        if not serving.leases:
            serving.unused.set()
        task = asyncio.ensure_future(self._drain_and_free(serving))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _drain_and_free(self, serving: Serving) -> None:
        await serving.unused.wait()
        await serving.batcher.close()
        await asyncio.to_thread(_close, [serving.model.engine])
        del serving
        _collect_engines()

    def _clear_failure(self) -> None:
        self._failures.clear()
        self.problem = problem_of(self.current) if self.current else ""


def _close(engines: list[Engine]) -> None:
    """Close an engine and drop it: the thread keeps its arguments for a moment after the call, which must free it."""
    engines.pop().close()


def _collect_engines() -> None:
    """Free the engines that nobody uses: they are parts of reference cycles, and automatic collections are rare."""
    gc.collect()
