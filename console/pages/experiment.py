"""One experiment: its report, ending and deleting it; or the form of a new one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import cast

from etegrec_client.types import Experiment, ExperimentReportResponse, ExperimentResponse
from nicegui import ui

from console.api.service_api import ServiceApi
from console.forms.experiment_draft import ExperimentDraft, VariantDraft
from console.forms.rules_draft import DraftError
from console.forms.rules_form import Rows, RulesForm, moment_field
from console.forms.rules_words import words_of
from console.pages.experiments import experiment_url, placements_of
from console.pages.frame import Backend, page_frame
from console.pages.placements import placement_url
from console.parts import Section, Text, attempt, confirmed, fact, heading, moment, note, share, show_empty
from console.views.report import show_report

_DENSE = "outlined dense"
_MODELS = {"": "the one that everybody gets", "live": "the live version", "candidate": "the candidate"}


@dataclass(frozen=True)
class ExperimentState:
    """An experiment with its report, and the placements that name it."""

    stored: ExperimentResponse
    report: ExperimentReportResponse
    placements: list[str]


def show_experiment(backend: Backend, name: str) -> None:
    """Build the page; an empty name makes a new experiment."""
    if not name:
        _show_new(backend)
        return
    purpose = "What each variant led to, whether they differ, and what to do about it."
    with page_frame(backend, "/experiments", f"Experiment {name}", purpose) as api:
        section = Section(
            lambda: _load(api, name), lambda state: _show(state, backend, api, section), "Adding up what users did …"
        )
        section.start()


async def _load(api: ServiceApi, name: str) -> ExperimentState:
    stored, report, placements = await asyncio.gather(
        api.looking.get_experiment(name), api.acting.get_experiment_report(name), api.looking.list_placements()
    )
    return ExperimentState(stored, report, placements_of(placements["placements"], name))


def _show(state: ExperimentState, backend: Backend, api: ServiceApi, section: Section[ExperimentState]) -> None:
    experiment = state.stored["experiment"]
    if experiment.get("description"):
        Text("p", experiment["description"]).classes("title")
    with ui.element("div").classes("cards"):
        fact("State", state.stored["status"], f"goal: {experiment.get('goal', 'purchase')}")
        fact("Starts", moment(experiment.get("starts")))
        fact("Ends", moment(experiment.get("ends")), "" if experiment.get("ends") else "when somebody ends it")
    with ui.element("div").classes("row-line").style("margin: 0.75rem 0"):
        for name in state.placements:
            ui.link(f"Placement {name}", placement_url(name))
        if backend.settings.can_change:
            if state.stored["status"] == "running":
                ui.button("End it now", on_click=lambda: _end(api, state, section)).props("outline")
            ui.button("Delete", on_click=lambda: _delete(api, state)).props("outline color=negative")

    show_report(state.report, state.placements)
    heading(2, "Rules of the variants")
    for variant in experiment["variants"]:
        rules = variant.get("rules") or {}
        model = f"answered by {_MODELS[variant['model']]}; " if variant.get("model") else ""
        Text("p", f"{variant['name']} ({share(variant['share'])}): {model}{words_of(rules, time.time())}")


async def _end(api: ServiceApi, state: ExperimentState, section: Section[ExperimentState]) -> None:
    name = state.stored["name"]
    agreed = await confirmed(
        f"End “{name}” now?",
        "Everybody gets the placement's own rules from then on. The report stays; it cannot be begun again.",
        "End it",
    )
    ended = cast(Experiment, {**state.stored["experiment"], "ends": int(time.time())})
    put = api.acting.put_experiment
    if agreed and await attempt(put(name, ended, revision=state.stored["revision"]), "It has ended") is not None:
        await section.reload()


async def _delete(api: ServiceApi, state: ExperimentState) -> None:
    name = state.stored["name"]
    runs = state.stored["status"] == "running"
    agreed = await confirmed(
        f"Delete “{name}”?",
        ("It runs. " if runs else "") + "All its figures are lost for good.",
        "Delete experiment",
    )
    delete = api.acting.delete_experiment
    if agreed and await attempt(delete(name, revision=state.stored["revision"], force=runs), "Deleted") is not None:
        ui.navigate.to("/experiments")


def _show_new(backend: Backend) -> None:
    purpose = (
        "Two ways to answer or more. The first is the control, usually the rules as they are; once it has begun, "
        "variants, shares and goal cannot change."
    )
    with page_frame(backend, "/experiments", "New experiment", purpose) as api:
        if not backend.settings.can_change:
            show_empty(
                "Nothing to see here", "Read-only: a console with ETEGREC_CONSOLE_WRITE_KEY can make experiments."
            )
            return
        _add_form(api, ExperimentDraft())


def _add_form(api: ServiceApi, draft: ExperimentDraft) -> None:
    with ui.element("div").classes("fields"):
        ui.input("Name, such as fresh-start").props(f'{_DENSE} maxlength="64"').bind_value(draft, "name")
        goal = ui.input("Goal: type of events, such as purchase").props(f'{_DENSE} maxlength="32"')
        goal.bind_value(draft, "goal")
        moment_field("Starts, UTC; empty: at once").bind_value(draft.starts, "text")
        moment_field("Ends, UTC; empty: when you end it").bind_value(draft.ends, "text")
        about = ui.input("What is tried, and why").props(f'{_DENSE} maxlength="1000"').classes("wide")
        about.bind_value(draft, "description")

    heading(2, "Variants")
    note("Rules of a variant hold in place of the placement's; what it does not say stays. Shares add up to 100 %.")
    note(
        "To compare models, give one variant the candidate: the others get the live version then. Have it loaded "
        "without a canary by etegrec-models alias candidate VERSION --share 0."
    )
    Rows(draft.variants, lambda: VariantDraft(percent=0), _add_variant, "a variant", "Variant")

    with ui.expansion("Only for a part of the users").props("dense").style("margin-top: 1rem"):
        note("Nobody is in two experiments of one layer at a time. Without a layer, everybody takes part.")
        with ui.element("div").classes("fields"):
            ui.input("Layer, such as home").props(f'{_DENSE} maxlength="64"').bind_value(draft, "layer")
            ui.number("From percent", min=0, max=100).props(_DENSE).bind_value(draft, "layer_from")
            ui.number("To percent", min=0, max=100).props(_DENSE).bind_value(draft, "layer_to")
    with ui.element("div").classes("row-line actions"):
        ui.button("Store the experiment", on_click=lambda: _store(api, draft))
        note("Then name it in a placement: only requests to that placement take part.")


def _add_variant(variant: VariantDraft) -> None:
    ui.input("Name").props(f'{_DENSE} maxlength="64"').bind_value(variant, "name")
    ui.number("Share, percent", min=0, max=100).props(_DENSE).bind_value(variant, "percent")
    ui.select(_MODELS, label="Model").props(_DENSE).bind_value(variant, "model")
    with ui.expansion("Rules").props("dense").classes("wide"):
        RulesForm(variant.rules)


async def _store(api: ServiceApi, draft: ExperimentDraft) -> None:
    try:
        document = cast(Experiment, draft.document())
    except DraftError as wrong:
        ui.notify(str(wrong), type="warning")
        return
    name = draft.name.strip()
    if not name:
        ui.notify("Give the experiment a name, such as fresh-start", type="warning")
        return
    if await attempt(api.acting.put_experiment(name, document, revision=0), f"“{name}” is stored") is not None:
        ui.navigate.to(experiment_url(name))
