"""The ASGI app: the parts of a service, its endpoints, and the middleware around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from model_store.errors import ConfigError
from model_store.replication.redis_address import TlsFiles
from model_store.replication.redis_keys import prefix_of
from model_store.tracing.interface import Tracing
from service.answers.trending import half_lives_s_of
from service.http.docs_page import add_docs_page
from service.http.middleware import RequestMiddleware
from service.http.openapi import describe
from service.http.routes import ENDPOINTS, add_routes, direct_routes
from service.models.loading import CoderOpener, EngineOpener, open_coder, open_engine
from service.models.trial import ProcessTrial
from service.service import Service
from service.settings import Settings
from service.store import READ_TIMEOUT_MS, open_store
from service.store.base import Store


def create_app(
    settings: Settings,
    *,
    store: Store | None = None,
    opener: EngineOpener = open_engine,
    coders: CoderOpener = open_coder,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Build the app. Nothing is contacted before its lifespan starts.

    Args:
        settings: See :class:`Settings`.
        store: The store, which the app closes. Default: the one that the settings name.
        opener: Turns a bundle into an engine.
        coders: Turns a bundle into the coder that gives new items their codes.
        tracing: Keeps spans; the app closes it. Default: as the settings say.

    Raises:
        ConfigError: Settings contradict each other.
        LockHeld: Another process has the embedded store open.
    """
    is_usual = opener is open_engine and coders is open_coder  # the other process cannot be given any others
    trial = ProcessTrial(settings) if settings.load_trial and is_usual else None
    service = Service(settings, store or open_store_of(settings), opener, coders, trial, tracing)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="etegrec", lifespan=lifespan, redirect_slashes=False, docs_url=None, redoc_url=None)
    app.state.service = service

    add_docs_page(app)
    add_routes(app, service)
    describe(app, ENDPOINTS, settings)
    app.add_middleware(
        RequestMiddleware,
        telemetry=service.telemetry,
        is_draining=lambda: service.is_draining,
        direct=direct_routes(service),
    )
    return app


def open_store_of(settings: Settings, timeout_ms: float = READ_TIMEOUT_MS) -> Store:
    """Open the store that the settings name.

    Args:
        settings: See :class:`Settings`.
        timeout_ms: Longest wait for a Redis socket, for reads of histories.

    Raises:
        ConfigError: Settings contradict each other.
        LockHeld: Another process has the embedded store open.
    """
    url = settings.redis_url.get_secret_value() if settings.redis_url else None
    if url is None and not settings.events_folder and "://" in settings.store:
        raise ConfigError(
            "the embedded store needs a local folder, but the model store is a URL",
            "set ETEGREC_REDIS_URL, or ETEGREC_EVENTS_FOLDER to a local folder",
        )

    half_lives_s = tuple(dict.fromkeys(half_lives_s_of(settings)))
    return open_store(
        url,
        Path(settings.events_path),
        prefix=prefix_of(settings.namespace),
        tls=TlsFiles(settings.redis_ca_file, settings.redis_cert_file, settings.redis_key_file),
        history_cap=settings.history_cap,
        half_lives_s=half_lives_s,
        user_ttl_s=settings.user_ttl_days * 86_400,
        max_undrained_events=settings.max_undrained_events,
        timeout_ms=timeout_ms,
    )
