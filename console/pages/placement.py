"""One placement: its rules, what a change of them would do to answers, saving and deleting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from etegrec_client.types import Placement, PlacementPreviewResponse, PlacementResponse
from nicegui import ui

from console.api.service_api import ServiceApi
from console.forms.rules_draft import DraftError, Moment, RulesDraft
from console.forms.rules_form import RulesForm, moment_field
from console.pages.frame import Backend, page_frame
from console.pages.placements import placement_url
from console.parts import Section, Text, attempt, confirmed, heading, note, show_empty
from console.views.preview import show_placement_preview

TRIED = 50
"""Histories on which a preview tries the rules."""


@dataclass(frozen=True)
class PlacementState:
    """A placement as it is stored, and the experiments that it could name."""

    placement: PlacementResponse | None  # None: a new one
    experiments: list[str]


def show_placement(backend: Backend, name: str) -> None:
    """Build the page; an empty name makes a new placement."""
    purpose = "Change the rules, try them on users who asked of late, and save what you like."
    title = f"Placement {name}" if name else "New placement"
    with page_frame(backend, "/placements", title, purpose) as api:
        if not name and not backend.settings.can_change:
            show_empty(
                "Nothing to see here", "Read-only: a console with ETEGREC_CONSOLE_WRITE_KEY can make placements."
            )
            return
        section = Section(
            lambda: _load(api, name),
            lambda state: _PlacementPage(backend, api, state).build(),
            "Reading …",
        )
        section.start()


async def _load(api: ServiceApi, name: str) -> PlacementState:
    experiments = await api.looking.list_experiments()
    placement = await api.looking.get_placement(name) if name else None
    return PlacementState(placement, [each["name"] for each in experiments["experiments"]])


class _PlacementPage:
    """The form of one placement and its preview.

    Args:
        backend: What all pages share.
        api: The service.
        state: What is stored.
    """

    def __init__(self, backend: Backend, api: ServiceApi, state: PlacementState) -> None:
        stored = state.placement
        rules = dict(stored["rules"]) if stored else {}
        self._api = api
        self._stored = stored
        self._can_change = backend.settings.can_change
        self._experiments = state.experiments
        self.name = stored["name"] if stored else ""
        self.description = stored["description"] if stored else ""
        self.experiment = rules.pop("experiment", None)
        self._draft = RulesDraft.of(rules)
        self.at = Moment()
        self._tried: Placement | None = None

    def build(self) -> None:
        """Add the form, the actions and the place of the preview."""
        with ui.element("div").classes("fields").style("margin-top: 0.5rem"):
            if self._stored is None:
                field = ui.input("Name, such as home or cart").props('outlined dense maxlength="64"')
                field.bind_value(self, "name")
            choices = {None: "none", **{each: each for each in {*self._experiments, self.experiment} - {None}}}
            ui.select(choices, label="Experiment").props("outlined dense").bind_value(self, "experiment")
            ui.input("What it is for").props('outlined dense maxlength="1000"').classes("wide").bind_value(
                self, "description"
            )
        heading(2, "Rules")
        RulesForm(self._draft)

        heading(2, "Try it before you save")
        note(
            f"Answers up to {TRIED} recent histories under the rules as they hold now and under those above. "
            "To try boosts that begin later, give the moment."
        )
        with ui.element("div").classes("row-line"):
            moment_field("Boosts as at, UTC").bind_value(self.at, "text")
            ui.button("Try these rules", on_click=self._try)
        self._preview = ui.element("div").style("margin: 1rem 0")
        self._add_actions()

    def _add_actions(self) -> None:
        with ui.element("div").classes("row-line actions"):
            if not self._can_change:
                note("Read-only: to save, start the console with ETEGREC_CONSOLE_WRITE_KEY.")
                return
            ui.button("Save", on_click=self._save)
            if self._stored is not None:
                Text("span", f"revision {self._stored['revision']}").classes("note")
                ui.button("Delete", on_click=self._delete).props("outline color=negative")

    async def _try(self) -> None:
        rules = self._read()
        if rules is None:
            return
        self._preview.clear()
        with self._preview:
            section = Section(lambda: self._ask_preview(rules), show_placement_preview, "Answering both ways …")
        await section.reload()

    async def _ask_preview(self, rules: Placement) -> PlacementPreviewResponse:
        replaces = self._stored["name"] if self._stored else None
        at = self.at.value("Boosts as at")
        found = await self._api.previewing.preview_placement(rules, replaces=replaces, histories=TRIED, at=at)
        self._tried = rules
        return found

    async def _save(self) -> None:
        rules = self._read()
        if rules is None:
            return
        name = self.name.strip()
        if not name:
            ui.notify("Give the placement a name, such as home", type="warning")
            return
        if self._tried != rules and not await confirmed(
            f"Save “{name}” without a try?",
            "These rules were not tried since their last change. Requests to it get them within a second.",
            "Save",
            is_harmful=False,
        ):
            return
        revision = self._stored["revision"] if self._stored else 0
        put = self._api.acting.put_placement(name, rules, revision=revision)
        if await attempt(put, f"Saved: “{name}” holds from now on") is not None:
            ui.navigate.to(placement_url(name))

    async def _delete(self) -> None:
        stored = self._stored
        assert stored is not None
        agreed = await confirmed(
            f"Delete “{stored['name']}”?",
            "Requests that name it are refused from then on: first take it out of the shop.",
            "Delete placement",
        )
        delete = self._api.acting.delete_placement
        if agreed and await attempt(delete(stored["name"], revision=stored["revision"]), "Deleted") is not None:
            ui.navigate.to("/placements")

    def _read(self) -> Placement | None:
        """Return what the form says; ``None``, after a word to the person, if it cannot be read."""
        try:
            self.at.value("Boosts as at")
            rules: dict[str, Any] = self._draft.document()
        except DraftError as wrong:
            ui.notify(str(wrong), type="warning")
            return None
        if self.description.strip():
            rules["description"] = self.description.strip()
        if self.experiment is not None:
            rules["experiment"] = self.experiment
        return cast(Placement, json.loads(json.dumps(rules)))  # a copy that later typing does not reach
