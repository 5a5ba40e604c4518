"""Which model answers: polls the store, loads a newly promoted version in the background, swaps it in atomically.

A version that fails to load changes nothing: the old one goes on, and the failure shows in the log, the metrics and
``GET /health/ready``. The failed version is tried again, ever less often, in case the store was at fault.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog

from model_store.bundle.registry import ModelStore
from model_store.errors import EtegrecError, ModelStoreError, StoreUnavailable
from service.errors import NotReady
from service.models.loaded_model import CoderOpener, EngineOpener, LoadedModel, as_trained, load_model, open_coder
from service.replication.catalogue_source import CatalogueSource
from service.replication.follower import CatalogueFollower
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.scheduling.batcher import Batcher
from service.settings import Settings
from service.telemetry import Telemetry

log = structlog.get_logger()

RETRY_AT_MOST_S = 300.0


@dataclass(eq=False)
class Serving:
    """A loaded model with its batcher, and how many requests hold it."""

    model: LoadedModel
    batcher: Batcher
    leases: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class _Failure:
    version: str
    attempts: int
    retry_at: float  # time.monotonic(), seconds


class ModelManager:
    """Owns the model that answers. Used from one event loop."""

    def __init__(
        self,
        store: ModelStore,
        follower: CatalogueFollower,
        settings: Settings,
        telemetry: Telemetry,
        opener: EngineOpener,
        coders: CoderOpener = open_coder,
    ) -> None:
        self._store = store
        self._follower = follower
        self._settings = settings
        self._telemetry = telemetry
        self._opener = opener
        self._coders = coders
        self._current: Serving | None = None
        self._failure: _Failure | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.problem = "the model store was not read yet"
        """Why the newest model does not answer, for people; empty while it does."""

    @property
    def current(self) -> LoadedModel | None:
        """The model that answers now."""
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

    def move(self, old: LoadedModel, new: LoadedModel) -> bool:
        """Put the same version with a newer catalogue in place of ``old``; ``False`` if that does not answer any more.

        Requests that hold the old one finish on it; engine and batcher stay.
        """
        if self._current is None or self._current.model is not old:
            return False
        self._current.model = new
        return True

    async def watch(self) -> None:
        """Poll the store every ``reload_s`` seconds, until cancelled."""
        while True:
            try:
                await self.poll()
            except Exception:
                self._telemetry.store_failures.inc()
                log.exception("store_check_crashed")
            await asyncio.sleep(self._settings.reload_s)

    async def poll(self) -> None:
        """Ask the store once which version is live, and load it if it is another one."""
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
            self.problem, self._failure = "", None
        elif not self._waits_to_retry(version):
            await self._try_load(version)

    async def close(self) -> None:
        """Finish what was accepted and free all models."""
        current, self._current = self._current, None
        if current is not None:
            self._retire(current)
        await asyncio.gather(*self._background)

    def _waits_to_retry(self, version: str) -> bool:
        failure = self._failure
        return failure is not None and failure.version == version and time.monotonic() < failure.retry_at

    async def _try_load(self, version: str) -> None:
        started = time.monotonic()
        try:
            model = await self._load(version)
        except Exception as failure:  # noqa: BLE001  whatever is wrong with a bundle, the old model goes on answering
            self._note_failure(version, failure)
        else:
            self._swap(model)
            log.info("model_loaded", version=version, seconds=round(time.monotonic() - started, 3))
            return
        _free_engines()  # now that the failure, which knows of the engine that was opened, is gone

    async def _load(self, version: str) -> LoadedModel:
        items = await asyncio.to_thread(self._read, version)
        replica = await self._follower.open(items)
        model = await asyncio.to_thread(self._opened, items, replica)
        try:
            return await self._caught_up(model)
        except BaseException:
            await asyncio.to_thread(model.engine.close)
            raise

    def _read(self, version: str) -> CatalogueSource:
        bundle = self._store.bundle(version)
        return CatalogueSource(bundle, self._coders(bundle, self._settings))

    def _opened(self, items: CatalogueSource, replica: ReplicatedCatalogue) -> LoadedModel:
        replica = replace(
            replica, catalogue=replica.catalogue.with_room()
        )  # now, not while somebody waits for a new item
        model = load_model(items.bundle, as_trained(replica.catalogue), self._settings, self._opener)
        return model.moved(replica, self._settings.rule_cache_entries)

    async def _caught_up(self, model: LoadedModel) -> LoadedModel:
        """Move a model on to where the current one is: an item that was hidden must not come back with the swap.

        Raises:
            StoreUnavailable: The live store, which has the changes in between, cannot be asked now.
        """
        while self.current is not None and model.revision < self.current.revision:
            assert model.replica is not None
            replica = await self._follower.follow(model.replica)
            if replica is model.replica:
                raise StoreUnavailable("the new version cannot catch up with the change stream", "it is tried again")
            model = await asyncio.to_thread(model.moved, replica, self._settings.rule_cache_entries)
        return model

    def _swap(self, model: LoadedModel) -> None:
        batcher = Batcher(model.engine, self._settings, self._telemetry)
        batcher.start()
        old, self._current = self._current, Serving(model, batcher)
        self.problem, self._failure = "", None
        self._telemetry.model_loads.labels("ok").inc()
        self._telemetry.show_model(model.version, model.engine.name)
        if old is not None:
            self._retire(old)

    def _retire(self, serving: Serving) -> None:
        if not serving.leases:
            serving.unused.set()
        self._run(self._free(serving))

    async def _free(self, serving: Serving) -> None:
        await serving.unused.wait()
        await serving.batcher.close()
        await asyncio.to_thread(serving.model.engine.close)
        del serving
        _free_engines()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _note_failure(self, version: str, failure: Exception) -> None:
        before = self._failure.attempts if self._failure and self._failure.version == version else 0
        wait_s = min(self._settings.reload_s * 2**before, RETRY_AT_MOST_S)
        self._failure = _Failure(version, before + 1, time.monotonic() + wait_s)
        self._telemetry.model_loads.labels("failed").inc()
        self.problem = f"version {version} could not be loaded; see the service's log"
        hint = failure.hint if isinstance(failure, EtegrecError) else ""
        log.error("model_load_failed", version=version, cause=str(failure), hint=hint, exc_info=failure)


def _free_engines() -> None:
    """Free those that nobody uses any more: they are parts of cycles, and collections by themselves are made seldom."""
    gc.collect()
