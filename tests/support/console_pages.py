"""Console in a simulated browser: the real pages, on the real service in the same process, without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from nicegui import ui
from nicegui.testing import User, user_simulation
from nicegui.testing.user_interaction import UserInteraction

from console.api.sampler import Sampler
from console.api.service_api import ServiceApi
from console.app import add_pages
from console.pages.frame import Backend
from console.settings import Settings
from service.app import create_app
from service.service import Service
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import fast_settings, running, until

PATIENCE = 600
"""Looks at a page, a tenth of a second apart, until it must show something."""


@asynccontextmanager
async def console_of(
    store: Path, *, service: dict[str, Any] | None = None, **given: Any
) -> AsyncIterator[tuple[User, httpx.AsyncClient, Service]]:
    """Start the service on a model store and the console before it.

    Args:
        store: The model store.
        service: Settings of the service.
        given: Settings of the console.

    Yields:
        The simulated visitor, a client of the service, and the service.
    """
    has_model = any(store.iterdir())
    app = create_app(fast_settings(store, catalogue_poll_s=0.01, **(service or {})), coders=hash_coder)
    async with running(app) as client:
        if has_model:
            await until(lambda: app.state.service.models.current is not None)
        async with visiting(httpx.ASGITransport(app=app), **given) as user:
            yield user, client, app.state.service


@asynccontextmanager
async def visiting(transport: httpx.AsyncBaseTransport, **given: Any) -> AsyncIterator[User]:
    """Start the console on a transport to some service; yield the simulated visitor."""
    settings = Settings.load(service="http://t", **given)
    async with user_simulation() as user:
        add_pages(Backend(settings, transport, Sampler(ServiceApi(settings, transport), settings.sample_s)))
        yield user


def click(user: User, text: str) -> None:
    """Click the newest button with exactly this text, a dialog's before the page's; fail if there is none."""
    assert user.client is not None
    buttons = [each for each in user.client.elements.values() if isinstance(each, ui.button) and each.text == text]
    assert buttons, f"the page has no button {text!r}"
    UserInteraction(user, {buttons[-1]}, None).click()
