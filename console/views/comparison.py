"""View of two versions side by side: the same question to the live one and another, and what the other moved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, cast

from etegrec_client import AccessDenied, ModelNotLoaded, NotFound
from etegrec_client.types import RecommendedItem, RecommendRequest, RecommendResponse
from nicegui import ui

from console.advice.card import Advice, show_advice
from console.api.service_api import ServiceApi
from console.forms.question import movement
from console.parts import Text, fact, heading, item_link, note, share, show_empty, table

Other = Literal["candidate", "shadow"]
"""Aliases that can be compared with the live version."""

OTHERS: Mapping[Other, str] = {"candidate": "the candidate", "shadow": "the shadow"}
"""Aliases, in words."""


@dataclass(frozen=True)
class Compared:
    """Answers of two versions to one question."""

    live: RecommendResponse
    other: RecommendResponse


@dataclass(frozen=True)
class Missing:
    """Reason why there is nothing to compare with, and what to do about it."""

    reason: Literal["key", "alias", "not loaded"]
    detail: str


async def compare(api: ServiceApi, request: RecommendRequest, other: Other) -> Compared | Missing:
    """Ask the live version and another one the same."""

    async def ask(model: Literal["live", "candidate", "shadow"]) -> RecommendResponse:
        return await api.acting.recommend(**cast(RecommendRequest, {**request, "model": model}))

    try:
        live, answer = await asyncio.gather(ask("live"), ask(other))
    except AccessDenied as refused:
        return Missing("key", refused.detail)
    except NotFound as refused:
        return Missing("alias", refused.detail)
    except ModelNotLoaded as refused:
        return Missing("not loaded", refused.detail)
    return Compared(live, answer)


def show_comparison(found: Compared | Missing, other: Other) -> None:
    """Add two answers side by side, or why there is only one."""
    heading(2, f"The live version and {OTHERS[other]}")
    if isinstance(found, Missing):
        _show_missing(found, other)
        return
    live, answer = found.live, found.other
    if not live["items"] and not answer["items"]:
        show_empty(
            "No item obeys these rules", "Neither version finds one. Take a rule away, or allow more categories."
        )
        return

    _show_facts(found, other)
    for whose, each in (("live version", live), (other, answer)):
        if each["served_by"] == "popular":
            Text("p", f"The {whose} knows no item of this history: popular items answer.").classes("warn")
    name = other.capitalize()
    columns = ("Rank", "Live version", "Live score", f"By {OTHERS[other]}", name, f"{name} score", "Moved")
    rows = [
        (
            str(rank),
            _item(live_item),
            _score(live_item),
            _place_of(answer, live_item),
            _item(other_item),
            _score(other_item),
            _moved(live, other_item, rank),
        )
        for rank, (live_item, other_item) in enumerate(zip_longest(live["items"], answer["items"]), start=1)
    ]
    table("The same question to both; arrows say how an item moved from the live version's list", columns, rows)
    note("Scores rank the items of one answer. Those of two versions have no common scale: compare ranks.")


def _show_missing(found: Missing, other: Other) -> None:
    if found.reason == "key":
        show_empty(
            "This console may not choose the model",
            "A request that names a model needs a key of scope admin: ETEGREC_CONSOLE_WRITE_KEY.",
        )
    elif found.reason == "alias":
        command = f"etegrec-models alias {other} VERSION --share 0"
        action = f"Choose a version and load it as {OTHERS[other]}; a share of 0 gives it no traffic."
        show_advice(Advice(f"No version is {OTHERS[other]}", action, "plain", ("etegrec-models list", command)))
    else:
        show_empty(f"{OTHERS[other].capitalize()} is not loaded", f"The service says: {found.detail}.")
        ui.link("See the page Models", "/models")


def _show_facts(found: Compared, other: Other) -> None:
    live, answer = ([each["item_id"] for each in both["items"]] for both in (found.live, found.other))
    common = len(set(live) & set(answer))
    most = max(len(live), len(answer))
    stayed = sum(one == another for one, another in zip(live, answer, strict=False))
    with ui.element("div").classes("cards").style("margin-bottom: 0.75rem"):
        fact("Live version", found.live["model_version"], f"{found.live['took_ms']:.1f} ms")
        fact(OTHERS[other].capitalize(), found.other["model_version"], f"{found.other['took_ms']:.1f} ms")
        fact("In both answers", f"{common} of {most}", share(common / most))
        fact("At the same rank", f"{stayed} of {most}", "the first item is the same" if live[:1] == answer[:1] else "")


def _item(item: RecommendedItem | None) -> str | Callable[[], None]:
    return "–" if item is None else lambda: item_link(item["item_id"], item.get("title"))


def _score(item: RecommendedItem | None) -> str:
    return "–" if item is None else f"{item['score']:.2f}"


def _place_of(answer: RecommendResponse, item: RecommendedItem | None) -> str:
    """Return the rank of an item in the other answer."""
    if item is None:
        return "–"
    ids = [each["item_id"] for each in answer["items"]]
    return f"rank {ids.index(item['item_id']) + 1}" if item["item_id"] in ids else "gone"


def _moved(live: RecommendResponse, item: RecommendedItem | None, rank: int) -> str:
    return "–" if item is None else movement(live, item["item_id"], rank) or "same"
