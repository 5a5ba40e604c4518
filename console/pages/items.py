"""Items: search the catalogue, and add an item."""

from __future__ import annotations

from urllib.parse import urlencode

from etegrec_client.types import ItemsResponse
from nicegui import ui

from console.pages.frame import Backend, page_frame
from console.parts import Section, code_path, heading, item_link, number, show_empty, table

PAGE = 25
"""Items on one page of results."""


def items_url(query: str, offset: int = 0) -> str:
    """Return the address of a page of results."""
    return f"/items?{urlencode({'query': query, 'offset': offset})}"


def show_items(backend: Backend, query: str, offset: int) -> None:
    """Build the page."""
    purpose = "Find items by words of their titles or by id; open one to see where it stands, to edit or to hide it."
    with page_frame(backend, "/items", "Items", purpose) as api:
        with ui.element("div").classes("row-line"):
            field = ui.input("Words of the title, or an id", value=query)
            field.props('outlined dense maxlength="200" autofocus').style("flex: 1 1 14rem")
            field.on("keydown.enter", lambda: ui.navigate.to(items_url(field.value.strip())))
            ui.button("Search", on_click=lambda: ui.navigate.to(items_url(field.value.strip())))
            if backend.settings.can_change:
                ui.button("Add an item", on_click=lambda: ui.navigate.to("/new-item")).props("outline")

        def show(found: ItemsResponse) -> None:
            _show_results(found, query, offset)

        search = api.looking.search_items
        Section(lambda: search(query, limit=PAGE, offset=offset), show, "Searching …").start()


def _show_results(found: ItemsResponse, query: str, offset: int) -> None:
    items = found["items"]
    if not items:
        if query:
            show_empty(
                f"Nothing matches “{query}”", "Try fewer words: an item must hold all of them. Parts of words count."
            )
        else:
            show_empty("The catalogue is empty", "Add an item, or publish a model with items.")
        return

    heading(2, "Most popular items" if not query else "Results")
    rows = [
        (
            lambda each=each: item_link(each["item_id"], each["title"]),
            each["item_id"],
            ", ".join(each["categories"]) or "–",
            number(each["popularity"]),
            code_path(each["codes"]),
            _state(each["hidden"], each["is_new"]),
        )
        for each in items
    ]
    last = offset + len(items)
    caption = f"{number(offset + 1)} to {number(last)} of {number(found['total'])} items"
    table(caption, ("Title", "Id", "Categories", "Interactions", "Semantic ID", "State"), rows)
    with ui.element("nav").classes("row-line").props('aria-label="Pages of results"'):
        if offset:
            ui.link("← Previous", items_url(query, max(0, offset - PAGE)))
        if last < found["total"]:
            ui.link("Next →", items_url(query, last))


def _state(is_hidden: bool, is_new: bool) -> str:
    if is_hidden:
        return "hidden"
    return "new" if is_new else "shown"
