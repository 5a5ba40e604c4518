"""Second model: the version of an alias, loaded beside the live one as long as it has the alias.

It is tried and loaded as the live version is, with a catalogue of its own that follows the same changes. What that
takes is built before the model is loaded, and gone when the model is. It has to wait until a live version serves, and
until there is memory for it (:mod:`service.models.memory_budget`). Whatever goes wrong with it leaves the live version
as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import structlog

from model_store.bundle.aliases import Alias, AliasName
from model_store.bundle.registry import ModelStore
from model_store.errors import ModelStoreError
from service.async_tasks import repeat_until_cancelled
from service.models.failures import LoadFailures, problem_of
from service.models.loader import VersionLoader
from service.models.manager import ModelManager
from service.models.memory_budget import MemoryBudget
from service.models.slot import ModelSlot, collect_engines
from service.settings import Settings
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

SecondState = Literal["absent", "waiting", "loading", "serving", "refused", "ended"]
"""``absent``: no version has the alias. ``waiting``: for a live version, or because its version is the live one.
``refused``: it could not be loaded, or takes too much memory. ``ended``: it was rolled back."""


class Upkeep(Protocol):
    """Parts that load a second model and keep its catalogue up to date, from when they are opened until they close."""

    @property
    def loader(self) -> VersionLoader:
        """Loads versions; their catalogues are followed for this model only."""

    @property
    def telemetry(self) -> Telemetry:
        """Takes what the model's batches and catalogue count, so that the metrics tell of the live one only."""

    async def try_step(self) -> None:
        """Read the changes once, if the store answers in time."""

    async def close(self) -> None:
        """Stop following changes, and free what that took."""


class SecondModel(ModelSlot):
    """The model of an alias. Used from one event loop.

    Args:
        name: The alias.
        live: The model that answers everybody else.
        store: The model store, which names the version.
        open_upkeep: Builds what it takes to load a model into this slot, and begins to follow changes for it.
        budget: Memory for all second models.
        has_ended: Tells whether a trial was ended, so that its version must not be loaded again.
        settings: See :class:`~service.settings.Settings`.
        telemetry: Metrics of the service.

    Attributes:
        alias: The alias as it was read last; ``None`` if no version has it.
        state: What became of its version.
    """

    def __init__(
        self,
        name: AliasName,
        live: ModelManager,
        store: ModelStore,
        open_upkeep: Callable[[ModelSlot], Upkeep],
        budget: MemoryBudget,
        has_ended: Callable[[Alias], bool],
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        super().__init__(settings, telemetry)
        self.name = name
        self.alias: Alias | None = None
        self.state: SecondState = "absent"
        self._live = live
        self._store = store
        self._open_upkeep = open_upkeep
        self._upkeep: Upkeep | None = None  # while a model is being loaded, or is loaded
        self._budget = budget
        self._has_ended = has_ended
        self._metrics = telemetry
        self._costs: dict[str, int] = {}  # memory in bytes by version, as their trials found it
        self._failures = LoadFailures(settings, lambda result: telemetry.alias_loads.labels(name, result).inc())

    @property
    def memory_bytes(self) -> int:
        """Memory that this model takes."""
        return self._budget.taken(self.name)

    async def watch(self) -> None:
        """Poll the model store every ``reload_s`` seconds, until cancelled."""
        await repeat_until_cancelled(
            self.poll, self._settings.reload_s, partial(log.exception, "alias_check_crashed", alias=self.name)
        )

    async def poll(self) -> None:
        """Read once which version has the alias, and load it, or let it go."""
        try:
            self.alias = await self._read_alias()
        except ModelStoreError as failure:
            self._metrics.store_failures.inc()
            self.problem = "the aliases of the model store cannot be read; see the service's log"
            log.warning("aliases_not_read", alias=self.name, cause=str(failure), hint=failure.hint)
            return

        alias = self.alias
        if self.current is not None and (alias is None or alias.version != self.current.version):
            await self.let_go()
        if alias is None:
            self._note("absent", "")
        elif self._has_ended(alias):
            await self.end()
        elif self._live.current is None:
            self._note("waiting", "it waits until a live version serves")
        elif alias.version == self._live.current.version:
            await self.let_go()
            self._note("waiting", f"version {alias.version} is live")
        elif self.current is not None:
            self._note("serving", problem_of(self.current))
        elif not self._failures.must_wait(alias.version):
            await self._try_load(alias.version)

    async def try_step(self) -> None:
        """Read the changes of the catalogue once, if the store answers in time and a model is here to have them."""
        if self._upkeep is not None:
            await self._upkeep.try_step()

    async def let_go(self) -> None:
        """Stop using the model: what was accepted is finished, then it is freed."""
        if self.current is None:
            return
        version = self.current.version
        upkeep = self._upkeep
        await self.close()
        await self._close_upkeep(upkeep)
        if self._upkeep is None:  # else another version has begun to load meanwhile, and what is taken is its own
            self._budget.free(self.name)
        self._show()
        log.info("second_model_freed", alias=self.name, version=version)

    async def close_upkeep(self) -> None:
        """Stop following changes; for a service that ends while a model is being loaded, and after a failure."""
        await self._close_upkeep(self._upkeep)

    async def _close_upkeep(self, upkeep: Upkeep | None) -> None:
        """Stop what keeps one model up to date; that of the next one, which may be there by now, goes on."""
        if upkeep is not None:
            await upkeep.close()
            if self._upkeep is upkeep:
                self._upkeep = None

    async def end(self) -> None:
        """Let the model go because its trial was ended."""
        await self.let_go()
        self._note("ended", "it was rolled back")

    async def _read_alias(self) -> Alias | None:
        return (await asyncio.to_thread(self._store.aliases)).get(self.name)

    async def _try_load(self, version: str) -> None:
        """Load a version; unless it serves then, what that took is gone again."""
        self._upkeep = self._open_upkeep(self)
        self._telemetry = self._upkeep.telemetry
        try:
            await self._load(version, self._upkeep.loader)
        finally:
            if self.current is None:
                await self.close_upkeep()

    async def _load(self, version: str, loader: VersionLoader) -> None:
        started = time.monotonic()
        self._note("loading", f"version {version} is being loaded")
        try:
            if version in self._costs:
                self._budget.take(self.name, version, self._costs[version])  # a trial again would tell the same
                self._budget.free(self.name)
            tried = await loader.try_version(version, lambda: self._wait_until_superseded(version))
            if tried is None:
                return
            self._costs[version] = tried.memory_bytes
            self._budget.take(self.name, version, tried.memory_bytes)
            model = await loader.load(version, tried.digest, self._live_revision)
        except Exception as failure:  # noqa: BLE001  whatever is wrong with a bundle, the live model goes on answering
            self._budget.free(self.name)
            self._note("refused", self._failures.record(version, failure))
        else:
            self.swap(model)
            self._failures.clear()
            self._metrics.alias_loads.labels(self.name, "ok").inc()
            self._note("serving", problem_of(model))
            self._show()
            log.info(
                "second_model_loaded",
                alias=self.name,
                version=version,
                seconds=round(time.monotonic() - started, 3),
                memory_mb=self.memory_bytes >> 20,
            )
            return

        # Only here is the failure gone, whose traceback refers to the engine that was opened.
        collect_engines()

    async def _wait_until_superseded(self, version: str) -> None:
        """Return when another version than this one has the alias."""
        while True:
            await asyncio.sleep(self._settings.reload_s)
            try:
                alias = await self._read_alias()
            except ModelStoreError as failure:
                log.warning("aliases_not_read", alias=self.name, cause=str(failure), hint=failure.hint)
            else:
                if alias is None or alias.version != version:
                    return

    def _live_revision(self) -> int:
        live = self._live.current
        return live.revision if live else 0

    def _note(self, state: SecondState, problem: str) -> None:
        self.state = state
        self.problem = problem

    def _show(self) -> None:
        version = self.current.version if self.current else None
        self._metrics.show_alias(self.name, version, self.memory_bytes)
