"""Code tree: the groups that the model made of the catalogue, and how one user's probability flows down them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from etegrec_client import AccessDenied
from etegrec_client.types import CodeAttributionResponse, CodesResponse, NextCode, RecommendResponse
from nicegui import ui

from console.api.service_api import ServiceApi
from console.pages.frame import Backend, page_frame
from console.parts import Section, Text, code_path, heading, item_link, note, number, share, show_empty, table
from console.views.charts import Box, colours_of, shade, treemap
from console.views.code_interest import colours_by_code, is_measured, show_interest, show_interest_table

LISTED = 20
"""Items of a group that are listed, the most popular ones."""

MASS_ITEMS = 100
"""Items that rank best for a user, whose probabilities are added up."""

_COLOURS = {
    "category": "by main category",
    "popularity": "by interactions an item",
    "exposure": "by how often answers show it",
    "clicks": "by clicks for each item shown",
    "drift": "by drift since training",
    "user": "by one user's probability",
}

MEASURED = frozenset({"exposure", "clicks", "drift"})
"""Colours that need what answers led to."""

DAYS = 7
"""Days of answers that are added up."""


@dataclass(frozen=True)
class TreeState:
    """One place in the tree, the best items of a user if one was given, and what answers led to if that is shown.

    Attributes:
        group: The place.
        answer: Best items of the user.
        interest: What answers led to, by first code; ``None`` below the root, and unless it is asked for.
        is_refused: Whether the key may not see what answers led to.
    """

    group: CodesResponse
    answer: RecommendResponse | None
    interest: CodeAttributionResponse | None = None
    is_refused: bool = False

    def colour_of(self, chosen: str) -> str:
        """Return what colours mean: what was chosen, or the main category where that is not known."""
        if chosen not in MEASURED:
            return chosen
        return chosen if self.interest is not None and is_measured(self.interest, chosen) else "category"


def tree_url(prefix: Sequence[int], colour: str, user_id: str) -> str:
    """Return the address of a place in the tree."""
    return f"/codes?{urlencode({'prefix': code_path(prefix), 'colour': colour, 'user': user_id})}"


def show_code_tree(backend: Backend, prefix_text: str, colour: str, user_id: str) -> None:
    """Build the page.

    Args:
        backend: What all pages share.
        prefix_text: Place in the tree, such as ``3-22``; empty for the root.
        colour: What colours mean, a key of the choices.
        user_id: User whose probability is shown; empty for none.
    """
    purpose = (
        "The model sorts the catalogue into groups of groups, by codes that it learned. Each box is a group, as large "
        "as its number of items. Open one to go down to its items."
    )
    colour = colour if colour in _COLOURS else "category"
    with page_frame(backend, "/codes", "Code tree", purpose) as api:
        prefix = [int(code) for code in prefix_text.split("-") if code.isdecimal()]
        _show_controls(prefix, colour, user_id)

        def show(state: TreeState) -> None:
            _show_tree(state, colour, user_id)

        Section(lambda: load_tree(api, prefix, colour, user_id), show, "Reading the tree …").start()


def _show_controls(prefix: Sequence[int], colour: str, user_id: str) -> None:
    def choose(key: str) -> None:
        ui.navigate.to(tree_url(prefix, key, user.value.strip()))

    with ui.element("div").classes("row-line"):
        chosen = ui.select(_COLOURS, value=colour, label="Colours", on_change=lambda event: choose(event.value))
        chosen.props("outlined dense").style("min-width: 14rem")
        user = ui.input("User id, for the user's probability", value=user_id).props('outlined dense maxlength="128"')
        user.style("flex: 1 1 14rem").on("keydown.enter", lambda: choose("user"))
        ui.button("Show this user", on_click=lambda: choose("user")).props("outline")


async def load_tree(api: ServiceApi, prefix: Sequence[int], colour: str, user_id: str) -> TreeState:
    """Return one place in the tree, with the best items of a user if one is given, and what the colour needs."""
    looking = api.looking
    group = await (looking.items_by_codes(prefix, limit=LISTED) if prefix else looking.first_codes(limit=LISTED))
    answer = await looking.recommend(user_id=user_id, k=MASS_ITEMS, exclude_seen=False) if user_id else None
    if colour not in MEASURED or prefix:
        return TreeState(group, answer)
    try:
        interest = await api.acting.get_code_attribution(days=DAYS)
    except AccessDenied:
        return TreeState(group, answer, is_refused=True)
    return TreeState(group, answer, interest)


def mass_below(answer: RecommendResponse, prefix: Sequence[int]) -> dict[int, float]:
    """Return how probable the answered items below each code that follows a prefix are, together."""
    depth = len(prefix)
    mass: dict[int, float] = {}
    for item in answer["items"]:
        if item["codes"][:depth] == list(prefix) and len(item["codes"]) > depth:
            code = item["codes"][depth]
            mass[code] = mass.get(code, 0.0) + math.exp(item["log_prob"])
    return mass


def _show_tree(state: TreeState, colour: str, user_id: str) -> None:
    group = state.group
    _show_breadcrumb(group, colour, user_id)
    heading(2, group["name"] or ("All items" if not group["prefix"] else f"Group {code_path(group['prefix'])}"))
    note(f"{number(group['total'])} visible items, in {number(len(group['next_codes']))} groups at the next level.")
    mass = mass_below(state.answer, group["prefix"]) if state.answer is not None else {}
    _show_user_note(state.answer, mass, user_id)
    if colour in MEASURED:
        show_interest(state.interest, colour, is_refused=state.is_refused)

    if group["next_codes"]:
        _show_boxes(state, colour, user_id, mass)
        if state.interest is not None:
            show_interest_table(state.interest, lambda row: tree_url([row["code"]], colour, user_id))
        _show_groups(group, colour, user_id, mass, has_user=state.answer is not None)
    _show_traits(group)
    heading(2, "Most popular items here")
    if not group["items"]:
        show_empty("No visible item", "All items of this group are hidden.")
        return
    rows = [
        (lambda each=each: item_link(each["item_id"], each.get("title")), code_path(each["codes"]))
        for each in group["items"]
    ]
    table(f"{len(rows)} of {number(group['total'])}", ("Item", "Semantic ID"), rows)


def _show_user_note(answer: RecommendResponse | None, mass: dict[int, float], user_id: str) -> None:
    if answer is None:
        return
    if answer["served_by"] == "popular":
        show_empty(
            f"“{user_id}” has no history that the model knows",
            "Popular items answer such users; what is shown is their share of all interactions.",
        )
    note(
        f"The {MASS_ITEMS} items that rank best for “{user_id}” hold {share(sum(mass.values()))} of the user's "
        "probability below this place; the rest lies on other items. A dash: none of them is in the group."
    )


def _show_breadcrumb(group: CodesResponse, colour: str, user_id: str) -> None:
    with ui.element("nav").classes("row-line").props('aria-label="Place in the tree"').style("margin-top: 1rem"):
        ui.link("All items", tree_url([], colour, user_id))
        for depth in range(len(group["prefix"])):
            Text("span", "›").props('aria-hidden="true"')
            prefix = group["prefix"][: depth + 1]
            ui.link(code_path(prefix), tree_url(prefix, colour, user_id))


def _label(prefix: Sequence[int], each: NextCode) -> str:
    """Return the name of a group; one without is called by its codes and its main category."""
    name = each.get("name")
    if name:
        return name
    path = code_path([*prefix, each["code"]])
    return f"{path}, mostly {each['category']}" if each["category"] else path


def _show_boxes(state: TreeState, chosen: str, user_id: str, mass: dict[int, float]) -> None:
    """Add the treemap; a click on a box opens it."""
    group = state.group
    colour = state.colour_of(chosen)
    nexts = group["next_codes"]
    prefix = group["prefix"]
    by_category = colours_of([each["category"] for each in nexts])
    most = max((each["popularity"] / each["items"] for each in nexts), default=0) or 1
    largest = max(mass.values(), default=0) or 1
    of_code = {} if state.interest is None else colours_by_code(state.interest, chosen)

    def colour_of(each: NextCode) -> str:
        if colour == "popularity":
            return shade(each["popularity"] / each["items"] / most)
        if colour == "user":
            return shade(mass.get(each["code"], 0) / largest)
        if colour in MEASURED:
            return of_code.get(each["code"], shade(0))
        return by_category[each["category"]]

    boxes = [
        Box(
            key=str(each["code"]),
            label=_label(prefix, each),
            size=each["items"],
            colour=colour_of(each),
            detail=f"{_label(prefix, each)}\n{number(each['items'])} items\n{number(each['popularity'])} interactions",
        )
        for each in nexts
    ]

    def open_box(event: Any) -> None:
        code = nexts[event.data_index]["code"] if event.data is None else int(event.data["id"])
        ui.navigate.to(tree_url([*prefix, code], chosen, user_id))

    chart = ui.echart(treemap(boxes, "groups"), on_point_click=open_box).classes("card chart tall")
    chart.props('role="img" aria-label="Groups as boxes; the table below lists them, with links"')
    if colour == "category":
        _show_legend(by_category)


def _show_legend(colours: dict[str | None, str]) -> None:
    with ui.element("div").classes("row-line note"):
        for name, colour in list(colours.items())[1:8]:
            with ui.element("span").classes("row-line").style("gap: 0.3rem"):
                ui.element("span").style(f"width: 0.8rem; height: 0.8rem; border-radius: 3px; background: {colour}")
                Text("span", str(name))
        Text("span", "grey: other")


def _show_groups(group: CodesResponse, colour: str, user_id: str, mass: dict[int, float], *, has_user: bool) -> None:
    prefix = group["prefix"]
    ordered = sorted(group["next_codes"], key=lambda each: (-mass.get(each["code"], 0), -each["items"]))
    columns = ["Group", "Name", "Items", "Interactions", "Main category"]
    rows = []
    for each in ordered:
        row: list[Any] = [
            lambda each=each: ui.link(
                code_path([*prefix, each["code"]]), tree_url([*prefix, each["code"]], colour, user_id)
            ),
            each.get("name") or "–",
            number(each["items"]),
            number(each["popularity"]),
            each["category"] or "–",
        ]
        rows.append([*row, share(mass[each["code"]]) if each["code"] in mass else "–"] if has_user else row)
    if has_user:
        columns.append("User's probability")
    with ui.expansion(f"The {len(rows)} groups as a table", value=len(rows) <= 12 or has_user):
        table("Groups at the next level", columns, rows)


def _show_traits(group: CodesResponse) -> None:
    if not group["common"]:
        return
    heading(2, "What these items have in common")
    rows = [
        (
            each["field"],
            each["value"],
            share(each["share"]),
            share(each["catalogue_share"]),
            f"{each['lift']:.1f} times",
        )
        for each in group["common"]
    ]
    caption = f"Measured on {number(group['measured_items'])} items"
    table(caption, ("What", "Value", "Here", "In the catalogue", "More often"), rows)
