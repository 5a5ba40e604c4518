"""Experiments: which ones run, are planned or have ended, and where they are used."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlencode

from etegrec_client.types import ExperimentResponse, PlacementResponse
from nicegui import ui

from console.api.service_api import ServiceApi
from console.pages.frame import Backend, page_frame
from console.parts import LONGEST_TITLE, Section, heading, moment, note, share, show_empty, table

_ORDER = {"running": "Running", "planned": "Planned", "ended": "Ended"}


@dataclass(frozen=True)
class ExperimentsState:
    """All experiments, and the placements that may name them."""

    experiments: list[ExperimentResponse]
    placements: list[PlacementResponse]


def experiment_url(name: str) -> str:
    """Return the address of the page of an experiment; an empty name makes a new one."""
    return f"/experiment?{urlencode({'name': name})}"


def placements_of(placements: list[PlacementResponse], experiment: str) -> list[str]:
    """Return the names of the placements that name an experiment."""
    return [each["name"] for each in placements if each["rules"].get("experiment") == experiment]


def show_experiments(backend: Backend) -> None:
    """Build the page."""
    purpose = (
        "An experiment gives users different rules by chance, and counts what they do: whether an idea helps is seen "
        "here before everybody gets it."
    )
    with page_frame(backend, "/experiments", "Experiments", purpose) as api:
        if backend.settings.can_change:
            ui.button("New experiment", on_click=lambda: ui.navigate.to(experiment_url("")))
        else:
            note("Read-only: to make or end experiments, start the console with ETEGREC_CONSOLE_WRITE_KEY.")
        Section(lambda: _load(api), _show, "Reading the experiments …").start()


async def _load(api: ServiceApi) -> ExperimentsState:
    experiments, placements = await asyncio.gather(api.looking.list_experiments(), api.looking.list_placements())
    return ExperimentsState(experiments["experiments"], placements["placements"])


def _show(state: ExperimentsState) -> None:
    if not state.experiments:
        show_empty(
            "There is no experiment yet",
            "Make one with two variants, name it in a placement, and look at its report after some days.",
        )
        return
    for status, title in _ORDER.items():
        found = [each for each in state.experiments if each["status"] == status]
        if not found:
            continue
        heading(2, title)
        rows = [
            (
                lambda each=each: ui.link(each["name"], experiment_url(each["name"])),
                each["experiment"].get("description", "")[:LONGEST_TITLE] or "–",
                ", ".join(f"{one['name']} {share(one['share'])}" for one in each["experiment"]["variants"]),
                each["experiment"].get("goal", "purchase"),
                moment(each["experiment"].get("starts")),
                moment(each["experiment"].get("ends")),
                ", ".join(placements_of(state.placements, each["name"])) or "none",
            )
            for each in found
        ]
        columns = ("Name", "What is tried", "Variants", "Goal", "Starts", "Ends", "Placements")
        table(f"{len(found)} in all", columns, rows)
