"""New item: its content, who would see it, and adding it."""

from __future__ import annotations

from etegrec_client.types import Item
from nicegui import ui

from console.api.service_api import ServiceApi
from console.forms.item_form import ItemForm
from console.pages.frame import Backend, page_frame
from console.parts import Section, attempt, heading, item_url, note
from console.views.preview import show_item_preview

TRIED = 50
"""Histories on which a preview tries the item."""

ANSWERED = 50
"""Items of each answer, so that one shows which comes far behind."""


def show_new_item(backend: Backend) -> None:
    """Build the page."""
    purpose = "Describe an item, see who would be shown it and what it would displace, and add it."
    with page_frame(backend, "/items", "New item", purpose) as api:
        _NewItemPage(api, can_change=backend.settings.can_change).build()


class _NewItemPage:
    """The form of a new item and its preview.

    Args:
        api: The service.
        can_change: Whether it can be added.
    """

    def __init__(self, api: ServiceApi, *, can_change: bool) -> None:
        self._api = api
        self._can_change = can_change

    def build(self) -> None:
        """Add the form on one side, the preview on the other."""
        with ui.element("div").classes("two"):
            with ui.element("div").classes("card stack"):
                heading(2, "Content").style("margin-top: 0")
                if self._can_change:
                    self._id = ui.input("Id, as your shop names the item").props('outlined dense maxlength="128"')
                self._form = ItemForm()
                with ui.element("div").classes("row-line"):
                    ui.button("See its audience", on_click=self._preview)
                    if self._can_change:
                        ui.button("Add the item", on_click=self._add).props("outline")
                if not self._can_change:
                    note("Read-only: to add items, start the console with ETEGREC_CONSOLE_WRITE_KEY.")
            with ui.element("div"):
                heading(2, "Audience").style("margin-top: 0")
                self._audience = ui.element("div")
                with self._audience:
                    note(
                        f"The item is placed without being stored, and up to {TRIED} recent histories are answered "
                        "without it and with it."
                    )

    async def _preview(self) -> None:
        content = self._content()
        if content is None:
            return
        self._audience.clear()
        with self._audience:
            section = Section(
                lambda: self._api.previewing.preview_item(content, k=ANSWERED, histories=TRIED),
                lambda found: show_item_preview(found, ANSWERED),
                "Placing it, and answering with and without it …",
            )
        await section.reload()

    async def _add(self) -> None:
        content = self._content()
        item_id = self._id.value.strip()
        if content is None:
            return
        if not item_id:
            ui.notify("Give the item an id", type="warning")
        elif await self._put(item_id, content):
            ui.navigate.to(item_url(item_id))

    def _content(self) -> Item | None:
        """Return the content; ``None``, after a word to the person, if there is none or it cannot be read."""
        content = self._form.content()
        if content is not None and not any(content.values()):
            ui.notify("Give a title, categories or attributes", type="warning")
            return None
        return content

    async def _put(self, item_id: str, content: Item) -> bool:
        """Add an item; return whether it was. One that exists is not replaced."""
        found = await attempt(self._api.looking.search_items(item_id, limit=1), "")
        if found is None:
            return False
        if any(each["item_id"] == item_id for each in found["items"]):
            ui.notify(f"There is an item “{item_id}” already: open it to edit it", type="warning")
            return False
        put = self._api.acting.put_item(item_id, **content)
        return await attempt(put, "The item is added and can be recommended") is not None
