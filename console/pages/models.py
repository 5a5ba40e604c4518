"""Models: which version answers, which ones are tried beside it, how they do, and the commands that change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etegrec_client import AccessDenied, Overloaded
from etegrec_client.types import AttributionDay, AttributionResponse, AttributionRow
from nicegui import ui

from console.advice.card import show_command
from console.advice.models import LIST, promote, rollback
from console.api.service_api import ServiceApi
from console.pages.frame import Backend, page_frame
from console.parts import Section, heading, note, number, share, show_empty, table
from console.views.charts import line_chart
from console.views.models import show_metrics, show_models, show_version

DAYS = 7
"""Days of answers whose clicks are shown."""

DRAWN = 3
"""Versions that the chart draws: those with the most answers."""


@dataclass(frozen=True)
class Unready:
    """Reason for which no model answers."""

    detail: str


def show_models_page(backend: Backend) -> None:
    """Build the page."""
    purpose = (
        "Which version answers, which ones are tried beside it, and how they do. The service only reads the model "
        "store: what is live is changed by the commands that this page names."
    )
    with page_frame(backend, "/models", "Models", purpose) as api:
        ui.button("Refresh", on_click=lambda: refresh()).props("outline")
        live = Section(lambda: _load_live(api), _show_live, "Asking which version answers …")
        trials = Section(api.acting.get_models, show_models, "Asking which versions are tried …")
        clicks = Section(lambda: _load_clicks(api), _show_clicks, "Adding up clicks …")

        async def refresh() -> None:
            for section in (live, trials, clicks):
                await section.reload()

        for section in (live, trials, clicks):
            section.start()
        _show_commands()


async def _load_live(api: ServiceApi) -> Mapping[str, Any] | Unready:
    try:
        return await api.looking.get_model()
    except Overloaded as unready:
        return Unready(unready.detail)


def _show_live(model: Mapping[str, Any] | Unready) -> None:
    heading(2, "Live version")
    if isinstance(model, Unready):
        show_empty(f"No version answers: {model.detail}", "Publish a model and promote it: make demo does both.")
        return
    show_version(model)
    data = model["data"]
    counts = ", ".join(f"{number(count)} {name.replace('_', ' ')}" for name, count in data["counts"].items())
    note(f"Trained on {data['name']}: {counts}." if counts else f"Trained on {data['name']}.")
    with ui.expansion("All its metrics").props("dense"):
        show_metrics(model["metrics"])


async def _load_clicks(api: ServiceApi) -> AttributionResponse | None:
    """Return what answers led to; ``None`` if the key may not see it."""
    try:
        return await api.acting.get_attribution(days=DAYS)
    except AccessDenied:
        return None


def _show_clicks(found: AttributionResponse | None) -> None:
    heading(2, "Clicks by version")
    if found is None:
        note("Needs a key of scope admin as well: ETEGREC_CONSOLE_WRITE_KEY.")
        return
    versions = _versions(found["days"])
    if not versions:
        show_empty(
            f"No answer was counted in the last {DAYS} days",
            "Answers are counted once the service gives recommendations; clicks once the shop sends events with the "
            "attribution of the answer.",
        )
        return
    columns = ("Version", "Answers", "Items shown", "Clicks", "Clicks by item shown", "Other events")
    rows = [_row(name, days) for name, days in versions.items()]
    table(f"What answers of the last {DAYS} days led to, most answers first", columns, rows)
    note("Versions answered on other days and other people, so this is no comparison: a canary's figures are one.")
    _show_days(found["days"], list(versions)[:DRAWN])


def _versions(days: Sequence[AttributionDay]) -> dict[str, list[AttributionRow]]:
    """Return the days of each version by its name, that with the most answers first."""
    found: dict[str, list[AttributionRow]] = {}
    for day in days:
        for row in day["versions"]:
            found.setdefault(row["name"], []).append(row)
    return dict(sorted(found.items(), key=lambda each: -sum(row["answers"] for row in each[1])))


def _row(name: str, days: Sequence[AttributionRow]) -> tuple[str, ...]:
    answers, shown, clicks = (sum(day[field] for day in days) for field in ("answers", "impressions", "clicks"))
    events: dict[str, int] = {}
    for day in days:
        for kind, count in day["events"].items():
            events[kind] = events.get(kind, 0) + count
    others = ", ".join(f"{kind} {number(count)}" for kind, count in events.items() if kind != "click")
    through = share(clicks / shown) if shown else "–"
    return name, number(answers), number(shown), number(clicks), through, others or "–"


def _show_days(days: Sequence[AttributionDay], names: Sequence[str]) -> None:
    """Add the click-through of some versions by day, as a chart and as a table."""
    by_day = [{row["name"]: row for row in day["versions"]} for day in days]
    lines = {f"{name}, %": [_percent(rows.get(name)) for rows in by_day] for name in names}
    chart = ui.echart(line_chart([day["day"] for day in days], lines, with_points=True), renderer="svg")
    chart.classes("card chart axes").props('role="img"')
    chart.props["aria-label"] = "Clicks of each 100 items shown, by day and version; the table below says the same"
    rows = [
        (day["day"], name, number(found[name]["answers"]), number(found[name]["clicks"]), _through(found[name]))
        for day, found in zip(days, by_day, strict=True)
        for name in names
        if name in found
    ]
    table("By day of the answer, UTC", ("Day", "Version", "Answers", "Clicks", "Clicks by item shown"), rows)


def _percent(row: AttributionRow | None) -> float | None:
    return None if row is None or row["click_through"] is None else round(100 * row["click_through"], 3)


def _through(row: AttributionRow) -> str:
    return "–" if row["click_through"] is None else share(row["click_through"])


def _show_commands() -> None:
    heading(2, "Change what is live")
    note(
        "Run these where the model store is, with the ETEGREC_STORE and ETEGREC_NAMESPACE of the service, and put the "
        "name of a version for VERSION. The service follows by itself within seconds."
    )
    for command in (LIST, "etegrec-models show VERSION", promote("VERSION"), rollback()):
        show_command(command)
