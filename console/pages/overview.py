"""Overview: is the service well, what is live, and what happens now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etegrec_client import Overloaded
from nicegui import ui

from console.advice.service_state import Finding, findings
from console.api.metrics import Reading
from console.api.sampler import Sampler
from console.api.service_api import ServiceApi
from console.pages.frame import Backend, page_frame
from console.parts import (
    Section,
    Text,
    card_title,
    duration,
    fact,
    heading,
    note,
    number,
    share,
    show_empty,
    show_trouble,
    table,
)
from console.views.charts import line_chart
from console.views.models import show_version

_SOURCES = {
    "model": "searched by the model",
    "cache": "the model's, kept from an equal request",
    "popular": "popular items: the user or the items of the history are not known",
}

_REASONS = {
    "no_history": "the user has no history",
    "unknown_items": "the catalogue lacks the history's items",
    "budget": "the request's time budget was too short",
    "empty_rule": "the filter left nothing",
    "store_away": "the store did not answer",
}


@dataclass(frozen=True)
class State:
    """What the service says of itself."""

    health: Mapping[str, Any]
    model: Mapping[str, Any] | None  # None: no model answers


def show_overview(backend: Backend) -> None:
    """Build the page."""
    purpose = "Is the recommender well, what does it serve, and what needs a person?"
    with page_frame(backend, "/", "Overview", purpose) as api:
        sampler = backend.sampler
        state = Section(lambda: _ask(api), lambda each: _show_state(each, sampler), "Asking the service how it is …")
        state.start()
        heading(2, "Traffic")
        traffic = Section(lambda: _newest(sampler), lambda each: _show_traffic(each, sampler), "Reading the metrics …")
        traffic.start()
        charts = _TrafficCharts(sampler)
        heading(2, "What answered")
        sources = Section(lambda: _newest(sampler), _show_sources, "Reading the metrics …")
        sources.start()

        async def refresh() -> None:
            await traffic.refresh()
            await sources.refresh()
            charts.update()

        ui.timer(backend.settings.sample_s, refresh)
        ui.timer(3 * backend.settings.sample_s, state.refresh)


async def _ask(api: ServiceApi) -> State:
    try:
        health = await api.looking.health_ready()
    except Overloaded as unready:
        return State({"status": "not ready", "problem": unready.detail}, None)
    return State(health, await api.looking.get_model())


async def _newest(sampler: Sampler) -> Reading | None:
    if sampler.newest is None and sampler.trouble is None:
        await sampler.read()
    return sampler.newest


def _show_state(state: State, sampler: Sampler) -> None:
    recent = sampler.samples[-1].rates if sampler.samples else None
    if state.model is None:
        _show_findings(
            [Finding(f"Not ready: {state.health['problem']}", "Publish and promote a model: make demo does it.")]
        )
        return

    _show_findings(findings(state.health, sampler.newest, recent))
    heading(2, "Live model")
    show_version(state.model)
    ui.link("All about versions: Models", "/models")


def _show_findings(found: list[Finding]) -> None:
    if not found:
        with ui.element("div").classes("card well"):
            card_title("All is well")
            note("The service is ready, its store answers and takes writes, and nothing waits too long.")
        return
    with ui.element("div").classes("stack"):
        for finding in found:
            with ui.element("div").classes("card attention"):
                card_title(finding.title)
                Text("p", f"What to do: {finding.advice}")


def _show_traffic(reading: Reading | None, sampler: Sampler) -> None:
    if reading is None:
        if sampler.trouble is not None:
            show_trouble(sampler.trouble)
        return

    rates = sampler.samples[-1].rates
    per_s = f"{rates.requests_per_s:.1f} /s" if rates and rates.seconds else "–"
    events_per_s = f"{rates.events_per_s:.1f} /s" if rates and rates.seconds else "–"
    with ui.element("div").classes("cards"):
        fact("Recommendations", per_s, f"{number(reading.requests)} since the service started")
        fact(
            "Latency, median",
            _milliseconds(rates.median_ms if rates else None),
            "of the requests just now, at the service",
        )
        fact("Latency, 95 %", _milliseconds(rates.p95_ms if rates else None), "95 of 100 requests are faster")
        fact("Events", events_per_s, f"{number(reading.events)} since the service started")
        fact("Wait for training", number(reading.waiting_events), _age(reading))


def _age(reading: Reading) -> str:
    return f"events; the oldest for {duration(reading.waiting_s)}" if reading.waiting_events else "events"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


class _TrafficCharts:
    """Charts of the last minutes, drawn once and then only moved on.

    Args:
        sampler: The readings that they show.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        with ui.element("div").classes("halves").style("margin-top: 0.75rem"):
            self._asked = _chart("Requests and events over the last minutes; the newest figures are in the cards above")
            self._latency = _chart("Latency over the last minutes; the newest figures are in the cards above")
        self.update()

    def update(self) -> None:
        """Draw the newest readings."""
        samples = list(self._sampler.samples)
        times = [each.at.strftime("%H:%M:%S") for each in samples]
        rates = [each.rates for each in samples]

        asked = [None if each is None else round(each.requests_per_s, 2) for each in rates]
        events = [None if each is None else round(each.events_per_s, 2) for each in rates]
        median = [None if each is None else _rounded(each.median_ms) for each in rates]
        p95 = [None if each is None else _rounded(each.p95_ms) for each in rates]
        _draw(self._asked, line_chart(times, {"recommendations a second": asked, "events a second": events}))
        _draw(self._latency, line_chart(times, {"median latency, ms": median, "95 % latency, ms": p95}))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _chart(description: str) -> ui.echart:
    chart = ui.echart({}, renderer="svg").classes("card chart axes").props('role="img"')
    chart.props["aria-label"] = description
    return chart


def _draw(chart: ui.echart, options: dict[str, Any]) -> None:
    chart.options.clear()
    chart.options.update(options)
    chart.update()


def _show_sources(reading: Reading | None) -> None:
    if reading is None:
        note("Known again when the service answers.")
        return
    total = sum(reading.answers.values())
    if not total:
        show_empty("Nobody has asked for recommendations yet", "Try one on the page Ask, or send POST /recommend.")
        return

    rows = [
        (name, number(count), share(count / total), _SOURCES.get(name, ""))
        for name, count in sorted(reading.answers.items(), key=lambda each: -each[1])
    ]
    table("Answers since the service started", ("Source", "Answers", "Share", "Meaning"), rows)
    reasons = [(_REASONS.get(name, name), number(count)) for name, count in reading.popular.items() if count]
    if reasons:
        heading(3, "Why popular items answered")
        table("Answers of popular items by reason", ("Reason", "Answers"), reasons)
    refusals = [(name, number(count)) for name, count in reading.refusals.items() if count]
    if refusals:
        heading(3, "Refused requests")
        table("By kind of problem; docs/API.md says what to do about each", ("Problem", "Requests"), refusals)
