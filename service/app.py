"""Puts the parts together: one ASGI app with everything that lives as long as it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI

from model_store.errors import ConfigError
from model_store.registry import Store
from service.envelope import Envelope
from service.link import LiveLink
from service.live import open_live_store
from service.live.base import LiveStore
from service.model import EngineOpener, open_engine
from service.openapi import describe
from service.recommender import Recommender
from service.reload import ModelKeeper
from service.routes import add_routes
from service.security import Keys
from service.settings import Settings
from service.telemetry import Telemetry


class Service:
    """The parts of one running service."""

    def __init__(self, settings: Settings, live: LiveStore, opener: EngineOpener) -> None:
        self.settings = settings
        self.keys = Keys.of(settings)
        self.telemetry = Telemetry()
        self.link = LiveLink(live, self.telemetry, settings.live_check_s)
        self.models = ModelKeeper(Store(settings.store), self.link, settings, self.telemetry, opener)
        self.recommender = Recommender(self.models, self.link, settings, self.telemetry)
        self.is_draining = False

    @property
    def unready_because(self) -> str:
        """Why no new requests should be sent here; empty if they should."""
        if self.is_draining:
            return "the service is shutting down"
        return "" if self.models.current else self.models.problem

    def begin_drain(self) -> None:
        """Say from now on that this process is not ready; everything is still answered."""
        self.is_draining = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch store and live store; at the end finish accepted requests and close everything."""
        watchers = [asyncio.create_task(self.link.watch()), asyncio.create_task(self.models.watch())]
        try:
            yield
        finally:
            self.begin_drain()
            for watcher in watchers:
                watcher.cancel()
                with suppress(asyncio.CancelledError):
                    await watcher
            await self.models.close()
            await self.link.store.close()


def create_app(settings: Settings, *, live: LiveStore | None = None, opener: EngineOpener = open_engine) -> FastAPI:
    """Build the app. Nothing is contacted before its lifespan starts.

    Args:
        settings: See :class:`Settings`.
        live: The live store; the app closes it. Default: what the settings name.
        opener: How a bundle becomes an engine.

    Raises:
        ConfigError: Settings contradict each other.
        StoreBusy: Another process has the embedded live store open.
    """
    service = Service(settings, live or _open_live(settings), opener)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="etegrec", lifespan=lifespan, redirect_slashes=False, redoc_url=None)
    app.state.service = service
    add_routes(app, service)
    describe(app, settings)
    app.add_middleware(Envelope, telemetry=service.telemetry, is_draining=lambda: service.is_draining)
    return app


def _open_live(settings: Settings) -> LiveStore:
    url = settings.redis_url.get_secret_value() if settings.redis_url else None
    if url is None and not settings.events_folder and "://" in settings.store:
        raise ConfigError(
            "the embedded live store needs a local folder, but the store is a URL",
            "set ETEGREC_REDIS_URL, or ETEGREC_EVENTS_FOLDER to a local folder",
        )
    return open_live_store(url, Path(settings.events_path), history_cap=settings.history_cap)
