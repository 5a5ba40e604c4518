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
import time

import structlog

from model_store.bundle.registry import ModelStore
from model_store.errors import ModelStoreError
from service.async_tasks import repeat_until_cancelled
from service.models.failures import LoadFailures, problem_of
from service.models.loaded_model import PARTS, LoadedModel
from service.models.loader import VersionLoader
from service.models.slot import ModelSlot, collect_engines
from service.settings import Settings
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()


class ModelManager(ModelSlot):
    """Owns the model that serves, which the model store names as live."""

    def __init__(self, store: ModelStore, loader: VersionLoader, settings: Settings, telemetry: Telemetry) -> None:
        super().__init__(settings, telemetry)
        self.problem = "the model store was not read yet"
        self._store = store
        self._loader = loader
        self._failures = LoadFailures(settings, lambda result: telemetry.model_loads.labels(result).inc())

    async def watch(self) -> None:
        """Poll the model store every ``reload_s`` seconds, until cancelled."""
        await repeat_until_cancelled(self.poll, self._settings.reload_s, self._note_crash)

    def _note_crash(self) -> None:
        self._telemetry.store_failures.inc()
        log.exception("store_check_crashed")

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
            self._clear_failure(self.current)
        elif not self._failures.must_wait(version):
            await self._try_load(version)

    async def _try_load(self, version: str) -> None:
        started = time.monotonic()
        try:
            tried = await self._loader.try_version(version, lambda: self._wait_until_superseded(version))
            if tried is None:
                log.info("trial_superseded", version=version)
                return
            model = await self._loader.load(version, tried.digest, self._revision)
        except Exception as failure:  # noqa: BLE001  whatever is wrong with a bundle, the old model goes on answering
            self.problem = self._failures.record(version, failure)
        else:
            self._begin(model)
            log.info("model_loaded", version=version, seconds=round(time.monotonic() - started, 3))
            return

        # Only here is the failure gone, whose traceback refers to the engine that was opened.
        collect_engines()

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

    def _revision(self) -> int:
        """Return the revision of the serving catalogue: the next version must have reached it."""
        return self.current.revision if self.current else 0

    def _begin(self, model: LoadedModel) -> None:
        self.swap(model)
        self._clear_failure(model)
        self._telemetry.model_loads.labels("ok").inc()
        refused: dict[str, bool] = {part: part in model.refused_parts for part in PARTS}
        self._telemetry.show_model(model.version, model.engine.name, refused)

    def _clear_failure(self, serving: LoadedModel) -> None:
        self._failures.clear()
        self.problem = problem_of(serving)
