"""View of the models: the live version, those tried beside it with their figures, and what was rolled back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etegrec_client.types import (
    AliasReport,
    CanaryEndReport,
    CanaryFigures,
    CanaryReport,
    ComparisonReport,
    HealthReport,
    ModelsResponse,
    ShadowReport,
)
from nicegui import ui

from console.advice.card import Advice, show_advice
from console.advice.models import (
    CANDIDATE_SHARE,
    LIST,
    SHADOW_SHARE,
    candidate_advice,
    live_advice,
    set_alias,
    shadow_advice,
)
from console.advice.report_words import FIGURES, VERDICTS, difference_words, figure_words, mean_words
from console.parts import fact, heading, moment, note, number, share, table
from console.views.charts import Interval, interval_chart

_STATES = {
    "waiting": "waits",
    "loading": "is being loaded",
    "serving": "loaded",
    "refused": "not loaded",
    "ended": "rolled back",
}

_HOLDS = {True: "no worse", False: "worse", None: "too few requests so far"}


def show_version(model: Mapping[str, Any]) -> None:
    """Add the facts of the live version.

    Args:
        model: The answer of ``GET /model``: its manifest, its engine, and the number of items.
    """
    metrics = model.get("metrics", {}).get("fused", {})
    with ui.element("div").classes("cards"):
        fact("Version", str(model["version"]), f"published {str(model['created_at'])[:16].replace('T', ' ')} UTC")
        fact("Items", number(model["items"]), "in the catalogue, hidden ones included")
        parent = model.get("parent")
        fact("Engine", str(model["engine"]), f"trained on from {parent}" if parent else "trained from nothing")
        if "ndcg@10" in metrics:
            fact("NDCG@10", f"{metrics['ndcg@10']:.4f}", "on the newest interaction of each user, held out")
            fact("Recall@10", share(metrics["recall@10"]), "of users find their next item in ten answers")


def show_metrics(metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Add the metrics of a version, a row for each way to answer that its training measured."""
    names = sorted({name for values in metrics.values() for name in values})
    if not names:
        note("Its publisher measured nothing.")
        return
    rows = [
        (group.replace("_", " "), *(f"{values[name]:.4f}" if name in values else "–" for name in names))
        for group, values in metrics.items()
    ]
    table("Measured on users of the training data; “fused” is what the service answers", ("Model", *names), rows)


def show_models(models: ModelsResponse) -> None:
    """Add what is tried beside the live version, how it goes, and what was rolled back."""
    advice = live_advice(models)
    if advice is not None:
        show_advice(advice)

    if models["candidate"] is None and models["shadow"] is None:
        _show_nothing_tried()
    if models["candidate"] is not None:
        _show_candidate(models, models["candidate"])
    if models["shadow"] is not None:
        _show_shadow(models, models["shadow"])
    _show_ends(models["rolled_back"])


def _show_nothing_tried() -> None:
    heading(2, "Tried beside the live version")
    show_advice(
        Advice(
            "No version is tried",
            "Nothing; or try one before it is promoted. A shadow searches a share of the requests again and answers "
            "nobody. A candidate answers a share of the users, and is taken back by itself if it does worse.",
            "plain",
            (LIST, set_alias("shadow", "VERSION", SHADOW_SHARE), set_alias("candidate", "VERSION", CANDIDATE_SHARE)),
        )
    )


def _show_candidate(models: ModelsResponse, alias: AliasReport) -> None:
    heading(2, "Candidate")
    _show_alias("candidate", alias, "of the users and sessions, the same ones at every visit")
    advice = candidate_advice(models)
    if advice is not None:
        show_advice(advice)
    if models["canary"] is not None:
        _show_canary(models["canary"])


def _show_shadow(models: ModelsResponse, alias: AliasReport) -> None:
    heading(2, "Shadow")
    _show_alias("shadow", alias, "of the requests are searched again, when there is time")
    advice = shadow_advice(models)
    if advice is not None:
        show_advice(advice)
    found = models["comparison"]
    if found is not None and found["shadow"]["answers"] + found["shadow"]["errors"] + found["dropped"]:
        _show_comparison(found)


def _show_alias(name: str, alias: AliasReport, of_whom: str) -> None:
    problem = alias["problem"] if alias["state"] == "serving" else ""  # else the advice below names it
    if alias["state"] == "serving":
        ui.link("Compare its answers with the live version's", f"/ask?beside={name}")
    with ui.element("div").classes("cards").style("margin: 0.5rem 0 0.75rem"):
        fact("Version", alias["version"], f"since {alias['since'][:16].replace('T', ' ')} UTC")
        fact("State on this replica", _STATES.get(alias["state"], alias["state"]), problem)
        fact("Share", share(alias["share"]), of_whom)
        fact(
            "Memory", f"{number(alias['memory_mb'])} MB" if alias["memory_mb"] else "–", "that loading it took at most"
        )


def _show_canary(canary: CanaryReport) -> None:
    everywhere = canary["all_replicas"]
    if everywhere is not None:
        _show_figures("All replicas, since the trial began; without requests of experiments", everywhere)
    _show_figures("This replica, since it loaded the candidate", canary["here"])
    note(
        "Errors and empty answers may exceed the live version's by one percentage point, and the slowest 1 % of "
        "answers may take twice as long. Answers from the cache do not count. Verdicts hold however often you look."
    )
    if canary["clicks"] is None:
        note("Clicks are compared as soon as the store was asked, some seconds after the trial began.")
    else:
        _show_clicks(canary["clicks"])


def _show_figures(caption: str, figures: CanaryFigures) -> None:
    live, candidate = figures["live"], figures["candidate"]
    rows = [
        ("answers", number(live["answers"]), number(candidate["answers"]), "–"),
        *(
            (
                FIGURES[each["figure"]],
                figure_words(each["control"], each["figure"]),
                figure_words(each["value"], each["figure"]),
                _HOLDS[each["holds"]],
            )
            for each in figures["guardrails"]
        ),
    ]
    table(caption, ("Figure", "Live version", "Candidate", "Verdict"), rows)


def _show_clicks(clicks: ComparisonReport) -> None:
    difference = clicks["difference"]
    if difference is not None:
        ends = (100 * difference["low"], 100 * difference["difference"], 100 * difference["high"])
        chart = ui.echart(
            interval_chart([Interval("candidate", *ends)], "difference, percentage points"), renderer="svg"
        )
        chart.classes("card chart axes").props('role="img"').style("height: 8.5rem")
        chart.props["aria-label"] = "Difference in clicks with its interval; the table below says the same"
    row = (
        mean_words(clicks["control_mean"], clicks["outcome"]),
        mean_words(clicks["mean"], clicks["outcome"]),
        difference_words(clicks),
        VERDICTS[clicks["verdict"]],
    )
    columns = ("Live version", "Candidate", "Difference, with its 95 % interval", "Verdict")
    table("Users and sessions who clicked; an interval shows from 100 in each on, ten of whom did", columns, [row])


def _show_comparison(found: ShadowReport) -> None:
    live, shadow = found["live"], found["shadow"]
    with ui.element("div").classes("cards").style("margin: 0.75rem 0"):
        overlap, shift = found["overlap"], found["score_shift"]
        fact("Overlap", "–" if overlap is None else share(overlap), "of an answer's items, the shadow finds as well")
        fact("Score shift", "–" if shift is None else f"{shift:+.3f}", "mean of the shadow's scores less the live ones")
        fact("Searched again", number(shadow["answers"] + shadow["errors"]), "requests on this replica")
        fact("Dropped", number(found["dropped"]), "sampled, but other requests came first")
    rows = [
        ("answers", number(live["answers"]), number(shadow["answers"])),
        ("empty answers", _empty(live), _empty(shadow)),
        ("failed", _failed(live), _failed(shadow)),
        (
            FIGURES["latency_p99_ms"],
            figure_words(live["latency_p99_ms"], "latency_p99_ms"),
            figure_words(shadow["latency_p99_ms"], "latency_p99_ms"),
        ),
    ]
    table("The same requests by both", ("Figure", "Live version", "Shadow"), rows)
    note("Latencies do not compare: the shadow searches one request at a time, with one core, and nobody waits for it.")


def _empty(health: HealthReport) -> str:
    return _part(health["empty_answers"], health["answers"])


def _failed(health: HealthReport) -> str:
    return _part(health["errors"], health["answers"] + health["errors"])


def _part(count: int, whole: int) -> str:
    """Return a number of requests with its share of those that it is a part of."""
    return f"{number(count)} ({share(count / whole)})" if whole else number(count)


def _show_ends(ends: Sequence[CanaryEndReport]) -> None:
    heading(2, "Rolled back")
    if not ends:
        note("No canary was rolled back by itself. What a person rolled back is in etegrec-models list.")
        return
    rows = [
        (
            end["version"],
            moment(end["at"]),
            share(end["share"]),
            FIGURES.get(end["figure"], end["figure"]),
            end["reason"],
        )
        for end in ends
    ]
    columns = ("Version", "When", "Share", "What was worse", "Reason")
    table("Canaries that the service took back by itself, newest first; retraining leaves them out", columns, rows)
