"""Slot of one loaded model: requests lease it, and another one is swapped in without a pause."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.engines.base import Engine
from service.errors import NotReady
from service.models.loaded_model import LoadedModel
from service.scheduling.batcher import Batcher
from service.settings import Settings
from service.telemetry.telemetry import Telemetry


@dataclass(eq=False)
class Serving:
    """A loaded model with its batcher, and the number of requests that lease it."""

    model: LoadedModel
    batcher: Batcher
    leases: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)  # set once retired and leased by nobody


class ModelSlot:
    """A place for one model. Used from one event loop.

    Args:
        settings: See :class:`~service.settings.Settings`.
        telemetry: Metrics of the model's batches and catalogue.

    Attributes:
        problem: Reason why the model that should be here does not serve, for people; empty while it does.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self.problem = ""
        self._settings = settings
        self._telemetry = telemetry
        self._current: Serving | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> LoadedModel | None:
        """The model that serves now."""
        return self._current.model if self._current else None

    @property
    def queued(self) -> int:
        """Number of requests that wait for a batch of this model."""
        return self._current.batcher.queued if self._current else 0

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
        self._telemetry.show_items(new.catalogue.is_hidden, new.catalogue.trained)
        return True

    def swap(self, model: LoadedModel) -> None:
        """Let a model serve from now on; the one before finishes its requests and is freed in the background."""
        batcher = Batcher(model.engine, self._settings, self._telemetry)
        batcher.start()
        old = self._current
        self._current = Serving(model, batcher)
        self._telemetry.show_items(model.catalogue.is_hidden, model.catalogue.trained)
        if old is not None:
            self._retire(old)

    async def close(self) -> None:
        """Finish what was accepted and free all models."""
        current = self._current
        self._current = None
        if current is not None:
            self._retire(current)
        del current
        await asyncio.gather(*self._background)

    def _retire(self, serving: Serving) -> None:
        """Drain and free a model that is not the current one any more, in the background."""
        if not serving.leases:
            serving.unused.set()
        task = asyncio.ensure_future(_drain_and_free([serving]))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _drain_and_free(retired: list[Serving]) -> None:
    serving = retired.pop()
    await serving.unused.wait()
    await serving.batcher.close()
    await asyncio.to_thread(close_engine, [serving.model.engine])
    del serving
    collect_engines()


def close_engine(engines: list[Engine]) -> None:
    """Close an engine and drop it: the thread keeps its arguments for a moment after the call, which must free it."""
    engines.pop().close()


def collect_engines() -> None:
    """Free the engines that nobody uses: they are parts of reference cycles, and automatic collections are rare."""
    gc.collect()
