"""The frame of every page: navigation, theme, what the console may do, and the API calls behind the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from nicegui import ui

from console.advice.card import show_command
from console.api.sampler import Sampler
from console.api.service_api import ServiceApi
from console.parts import Text, heading, note
from console.settings import Settings

STATIC = Path(__file__).parents[1] / "static"

STATIC_URL = "/static"

NAVIGATION = (
    ("/", "Overview"),
    ("/ask", "Ask"),
    ("/codes", "Code tree"),
    ("/items", "Items"),
    ("/placements", "Placements"),
    ("/experiments", "Experiments"),
    ("/models", "Models"),
    ("/users", "Users"),
)
"""Pages in the order in which they are shown."""

THEME_COOKIE = "etegrec_console_theme"

_THEMES: dict[str, bool] = {"light": False, "dark": True}

_SET_THEME = """
(() => {
  const next = document.body.classList.contains('body--dark') ? 'light' : 'dark';
  document.cookie = `%s=${next}; path=/; max-age=31536000; samesite=strict`;
  Quasar.Dark.set(next === 'dark');
})()
"""


_SHOW_CURRENT_TAB = "document.querySelector('.tab.current')?.scrollIntoView({inline: 'center', block: 'nearest'})"
"""Script for narrow screens, on which the navigation scrolls."""


@dataclass(frozen=True)
class Backend:
    """What all pages share: settings, connections to the service, and readings of its metrics."""

    settings: Settings
    transport: httpx.AsyncBaseTransport
    sampler: Sampler


@contextmanager
def page_frame(backend: Backend, path: str, title: str, purpose: str) -> Iterator[ServiceApi]:
    """Build a page around what is added inside; yields the access to the service that the page should use.

    Args:
        backend: What all pages share.
        path: Path of the page, as in :data:`NAVIGATION`.
        title: Its heading.
        purpose: What it is for, in a sentence.
    """
    api = ServiceApi(backend.settings, backend.transport)
    ui.page_title(f"{title} · ETEGRec console")
    ui.add_head_html(f'<link rel="stylesheet" href="{STATIC_URL}/console.css">')
    ui.dark_mode(_chosen_theme())

    _show_header(backend.settings, path)
    ui.run_javascript(_SHOW_CURRENT_TAB)
    page = ui.element("div").classes("page")
    ui.skip_link(target=page)
    with page:
        heading(1, title)
        Text("p", purpose).classes("purpose")
        yield api
        _show_calls(api)


def _show_header(settings: Settings, path: str) -> None:
    with ui.header().classes("bar"):
        Text("span", "ETEGRec").classes("brand")
        with ui.element("nav").props('aria-label="Pages"'):
            for target, name in NAVIGATION:
                link = ui.link(name, target).classes("tab")
                if target == path:
                    link.classes("current").props('aria-current="page"')
        with ui.element("div").classes("bar-end"):
            rights = "changes allowed" if settings.can_change else "read-only"
            Text("span", rights).classes("chip")
            button = ui.button(icon="contrast", on_click=lambda: ui.run_javascript(_SET_THEME % THEME_COOKIE))
            button.props('flat round dense aria-label="Switch between light and dark"').classes("theme")


def _show_calls(api: ServiceApi) -> None:
    """Add the list of API calls that the page made, as curl commands to copy."""
    with ui.expansion("API calls behind this page", icon="terminal").classes("calls"):
        note("The same, from a shell. $KEY stands for your API key, if the service needs one.")
        area = ui.element("div")

    def refresh() -> None:
        if area.is_deleted:
            return
        area.clear()
        with area:
            for call in api.calls:
                show_command(call)

    api.on_call = refresh


def _chosen_theme() -> bool | None:
    """Return whether the browser wants dark pages; ``None`` leaves it to the system."""
    request = ui.context.client.request
    return _THEMES.get(request.cookies.get(THEME_COOKIE, "")) if request is not None else None
