"""One item: what is known of it, where it stands in the code tree, what is like it; editing and hiding it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import urlencode

from etegrec_client.types import CodesResponse, ItemResponse, SimilarResponse
from nicegui import ui

from console.api.service_api import ServiceApi
from console.forms.item_form import ItemForm
from console.pages.frame import Backend, page_frame
from console.parts import (
    Section,
    Text,
    attempt,
    code_path,
    confirmed,
    fact,
    heading,
    item_link,
    note,
    number,
    show_empty,
    table,
    titled,
)

LIKE_IT = 8
"""Similar items that are listed."""


@dataclass(frozen=True)
class ItemState:
    """What the service knows of an item."""

    item: ItemResponse
    similar: SimilarResponse
    groups: list[CodesResponse]  # of the prefixes of its semantic ID, the shortest first


def show_item(backend: Backend, item_id: str) -> None:
    """Build the page."""
    purpose = "What the recommender knows of one item."
    with page_frame(backend, "/items", f"Item {titled(item_id, None)}".strip(), purpose) as api:
        if not item_id:
            show_empty("No item chosen", "Search for one on the page Items.")
            return

        section = Section(
            lambda: load_item(api, item_id), lambda state: _show(state, backend, api, section), "Reading …"
        )
        section.start()


async def load_item(api: ServiceApi, item_id: str) -> ItemState:
    """Return what the service knows of an item."""
    item = await api.looking.get_item(item_id)
    codes = item["codes"]
    prefixes = [codes[: depth + 1] for depth in range(len(codes) - 1)]
    similar = await api.looking.similar_items(item_id, k=LIKE_IT)
    groups = await asyncio.gather(*(api.looking.items_by_codes(prefix, limit=1) for prefix in prefixes))
    return ItemState(item, similar, groups)


def _show(state: ItemState, backend: Backend, api: ServiceApi, section: Section[ItemState]) -> None:
    item = state.item
    Text("p", item["title"] or "This item has no title.").classes("title").style("font-size: 1.25rem; font-weight: 600")
    with ui.element("div").classes("cards"):
        fact(
            "State",
            "hidden" if item["hidden"] else "shown",
            "new since the model was trained" if item["is_new"] else "",
        )
        fact("Categories", ", ".join(item["categories"]) or "–")
        fact("Semantic ID", code_path(item["codes"]))
    _show_actions(state, backend, api, section)

    if item["attributes"]:
        heading(2, "Attributes")
        rows = [
            (name, value if isinstance(value, str) else json.dumps(value)) for name, value in item["attributes"].items()
        ]
        table("As the shop sent them", ("Name", "Value"), [(name, value[:1000]) for name, value in rows])

    heading(2, "Its place in the code tree")
    places = [
        (
            lambda group=group: ui.link(code_path(group["prefix"]), codes_url(group["prefix"])),
            group["name"] or "–",
            number(group["total"]),
        )
        for group in state.groups
    ]
    table("Prefixes of its semantic ID, from the root", ("Prefix", "Name", "Items"), places)

    heading(2, "Items like it")
    if not state.similar["items"]:
        show_empty("Nothing is like it", "Nothing can be read of it, or the catalogue has no other visible item.")
        return
    similar = [
        (
            lambda each=each: item_link(each["item_id"], each.get("title")),
            "–" if each.get("similarity") is None else f"{each['similarity']:.3f}",
            str(each["shared_codes"]),
        )
        for each in state.similar["items"]
    ]
    table("Nearest by cosine of their vectors", ("Item", "Cosine", "Codes in common"), similar)


def codes_url(prefix: list[int]) -> str:
    """Return the address of a place in the code tree."""
    return f"/codes?{urlencode({'prefix': code_path(prefix)})}"


def _show_actions(state: ItemState, backend: Backend, api: ServiceApi, section: Section[ItemState]) -> None:
    item = state.item
    with ui.element("div").classes("row-line").style("margin-top: 0.75rem"):
        ui.link("Ask with this item as history", f"/ask?{urlencode({'item': item['item_id']})}")
        if not backend.settings.can_change:
            note("Read-only: to edit or hide items, start the console with ETEGREC_CONSOLE_WRITE_KEY.")
            return
        ui.button("Edit", on_click=lambda: _edit(api, item, section)).props("outline")
        if item["hidden"]:
            ui.button("Bring back", on_click=lambda: _bring_back(api, item, section))
        else:
            ui.button("Hide", on_click=lambda: _hide(api, item, section)).props("outline color=negative")


async def _edit(api: ServiceApi, item: ItemResponse, section: Section[ItemState]) -> None:
    with ui.dialog() as dialog, ui.card():
        dialog.props["aria-label"] = "Edit the item"
        heading(2, "Edit the item")
        note("Its semantic ID stays as it is, and so does its place in answers; a new training may change both.")
        form = ItemForm(item)
        with ui.element("div").classes("row-line"):
            ui.button("Save", on_click=lambda: dialog.submit(True))
            ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("outline")

    while await dialog:
        content = form.content()
        if content is None:
            continue
        patch = api.acting.patch_item(
            item["item_id"],
            title=content["title"],
            categories=content["categories"],
            attributes=content["attributes"],
        )
        saved = await attempt(patch, "Saved")
        if saved is not None:
            await section.reload()
            break
    dialog.delete()


async def _hide(api: ServiceApi, item: ItemResponse, section: Section[ItemState]) -> None:
    agreed = await confirmed(
        f"Hide “{titled(item['item_id'], item['title'])}”?",
        "No answer that is computed from now on contains it. It keeps its content and can be brought back.",
        "Hide",
    )
    if agreed and await attempt(api.acting.delete_item(item["item_id"]), "The item is hidden") is not None:
        await section.reload()


async def _bring_back(api: ServiceApi, item: ItemResponse, section: Section[ItemState]) -> None:
    back = api.acting.patch_item(item["item_id"], hidden=False)
    if await attempt(back, "The item is back and can be recommended") is not None:
        await section.reload()
