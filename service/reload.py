"""Which model answers: polls the store, loads a newly promoted version in the background, swaps it in atomically.

A version that fails to load changes nothing: the old one goes on, and the failure shows in the log, the metrics and
``GET /health/ready``. The failed version is tried again, ever less often, in case the store was at fault.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from model_store.bundle import Bundle
from model_store.catalogue import Catalogue
from model_store.errors import EtegrecError, StoreError
from model_store.registry import Store
from service.batcher import Batcher
from service.errors import NotReady
from service.link import LiveLink
from service.model import EngineOpener, LoadedModel, load_model
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


class ModelKeeper:
    """Owns the model that answers. Used from one event loop."""

    def __init__(
        self, store: Store, link: LiveLink, settings: Settings, telemetry: Telemetry, opener: EngineOpener
    ) -> None:
        self._store = store
        self._link = link
        self._settings = settings
        self._telemetry = telemetry
        self._opener = opener
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
        except StoreError as failure:
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
            return
        self._swap(model)
        log.info("model_loaded", version=version, seconds=round(time.monotonic() - started, 3))

    async def _load(self, version: str) -> LoadedModel:
        bundle, catalogue = await asyncio.to_thread(self._read, version)
        return await asyncio.to_thread(load_model, bundle, catalogue, self._settings, self._opener)

    def _read(self, version: str) -> tuple[Bundle, Catalogue]:
        bundle = self._store.bundle(version)
        return bundle, bundle.catalogue()

    def _swap(self, model: LoadedModel) -> None:
        batcher = Batcher(model.engine, model.catalogue, self._settings, self._telemetry)
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
