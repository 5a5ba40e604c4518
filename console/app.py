"""The application: pages, static files, the guard, and the sampler that runs beside them."""

from __future__ import annotations

import asyncio

import httpx
from nicegui import app, ui

from console.api.sampler import Sampler
from console.api.service_api import ServiceApi
from console.guard import HEALTH, Guard
from console.pages.ask import show_ask
from console.pages.code_tree import show_code_tree
from console.pages.experiment import show_experiment
from console.pages.experiments import show_experiments
from console.pages.frame import STATIC, STATIC_URL, Backend
from console.pages.item import show_item
from console.pages.items import show_items
from console.pages.models import show_models_page
from console.pages.new_item import show_new_item
from console.pages.overview import show_overview
from console.pages.placement import show_placement
from console.pages.placements import show_placements
from console.pages.users import show_users
from console.settings import Settings

CONNECTIONS = 32
"""Connections to the service at most, for all pages together."""

RECONNECT_S = 30.0
"""Seconds that a page whose connection broke is kept as it was, for a laptop or a phone that comes back."""


def run_console(settings: Settings) -> None:
    """Serve the console until it is stopped."""
    transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=CONNECTIONS))
    backend = Backend(settings, transport, Sampler(ServiceApi(settings, transport), settings.sample_s))
    add_pages(backend)
    app.add_middleware(Guard, settings=settings)
    tasks: list[asyncio.Task[None]] = []

    async def start() -> None:
        tasks.append(asyncio.create_task(backend.sampler.run()))

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await backend.transport.aclose()

    app.on_startup(start)
    app.on_shutdown(stop)
    # Sections say themselves that they wait; the library's bar on top has no name for screen readers.
    app.config.quasar_config["loadingBar"]["skipHijack"] = True
    ui.run(
        host=settings.host,
        port=settings.port,
        title="ETEGRec console",
        favicon=STATIC / "favicon.svg",
        dark=None,
        language="en-US",
        reconnect_timeout=RECONNECT_S,
        tailwind=False,
        reload=False,
        show=False,
        show_welcome_message=False,
    )


def add_pages(backend: Backend) -> None:
    """Add the pages. Their parameters come from the address, so that every view has one that can be sent to others."""
    app.add_static_files(STATIC_URL, STATIC)

    @app.get(HEALTH)
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @ui.page("/")
    def overview() -> None:
        show_overview(backend)

    @ui.page("/ask")
    def ask(user: str = "", item: str = "", beside: str = "") -> None:
        show_ask(backend, user, item, beside)

    @ui.page("/codes")
    def code_tree(prefix: str = "", colour: str = "category", user: str = "") -> None:
        show_code_tree(backend, prefix, colour, user)

    _add_item_pages(backend)
    _add_rules_pages(backend)

    @ui.page("/models")
    def models() -> None:
        show_models_page(backend)

    @ui.page("/users")
    def users(id: str = "") -> None:  # noqa: A002  the name in the address
        show_users(backend, id)


def _add_item_pages(backend: Backend) -> None:
    @ui.page("/items")
    def items(query: str = "", offset: int = 0) -> None:
        show_items(backend, query, max(0, offset))

    @ui.page("/item")
    def item(id: str = "") -> None:  # noqa: A002  the name in the address
        show_item(backend, id)

    @ui.page("/new-item")
    def new_item() -> None:
        show_new_item(backend)


def _add_rules_pages(backend: Backend) -> None:
    @ui.page("/placements")
    def placements() -> None:
        show_placements(backend)

    @ui.page("/placement")
    def placement(name: str = "") -> None:
        show_placement(backend, name)

    @ui.page("/experiments")
    def experiments() -> None:
        show_experiments(backend)

    @ui.page("/experiment")
    def experiment(name: str = "") -> None:
        show_experiment(backend, name)
