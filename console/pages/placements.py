"""Placements: the sets of rules that pages of the shop name, and when they change."""

from __future__ import annotations

import time
from urllib.parse import urlencode

from etegrec_client.types import PlacementsResponse
from nicegui import ui

from console.forms.rules_words import changes_ahead, words_of
from console.pages.frame import Backend, page_frame
from console.parts import LONGEST_TITLE, Section, heading, moment, note, show_empty, table

AHEAD = 10
"""Coming changes that are listed."""


def placement_url(name: str) -> str:
    """Return the address of the page of a placement; an empty name makes a new one."""
    return f"/placement?{urlencode({'name': name})}"


def show_placements(backend: Backend) -> None:
    """Build the page."""
    purpose = (
        "A placement is a spot of the shop with its rules: how many items, which, what is raised or pinned. "
        "The shop names it with each request, so a change here holds there within a second."
    )
    with page_frame(backend, "/placements", "Placements", purpose) as api:
        if backend.settings.can_change:
            ui.button("New placement", on_click=lambda: ui.navigate.to(placement_url("")))
        else:
            note("Read-only: to change placements, start the console with ETEGREC_CONSOLE_WRITE_KEY.")
        Section(api.looking.list_placements, _show, "Reading the placements …").start()


def _show(found: PlacementsResponse) -> None:
    placements = found["placements"]
    if not placements:
        show_empty(
            "There is no placement yet",
            "Make one for each spot of the shop that shows recommendations, such as home or cart. "
            "Until a request names one, only its own rules hold.",
        )
        return

    now = time.time()
    rows = [
        (
            lambda each=each: ui.link(each["name"], placement_url(each["name"])),
            each["description"][:LONGEST_TITLE] or "–",
            words_of(each["rules"], now),
            each["rules"].get("experiment") or "–",
        )
        for each in placements
    ]
    heading(2, "All placements")
    table("By name", ("Name", "What it is for", "Rules", "Experiment"), rows)

    heading(2, "What changes by itself")
    ahead = changes_ahead([(each["name"], each["rules"]) for each in placements], now)
    if not ahead:
        note("No boost begins or ends from now on. Boosts with times show here.")
        return
    changes = [
        (
            moment(each.at),
            lambda each=each: ui.link(each.placement, placement_url(each.placement)),
            each.what[:LONGEST_TITLE],
        )
        for each in ahead[:AHEAD]
    ]
    table(f"The next {len(changes)} of {len(ahead)} begins and ends of boosts", ("When", "Placement", "What"), changes)
