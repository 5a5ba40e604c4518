"""Fields of an item, for adding and for editing one."""

from __future__ import annotations

import json

from etegrec_client.types import Item, ItemResponse
from nicegui import ui


class ItemForm:
    """Fields for title, categories and attributes.

    Args:
        item: The item whose content the fields show first; none for a new one.
    """

    def __init__(self, item: ItemResponse | None = None) -> None:
        title = "" if item is None or item["title"] is None else item["title"]
        categories = [] if item is None else item["categories"]
        attributes = {} if item is None else item["attributes"]

        wide = "width: 100%"
        self._title = ui.input("Title", value=title).props('outlined dense maxlength="2000"').style(wide)
        self._categories = ui.textarea("Categories, one a line", value="\n".join(categories))
        self._categories.props("outlined dense autogrow").style(wide)
        shown = json.dumps(attributes, ensure_ascii=False, indent=1) if attributes else ""
        self._attributes = ui.textarea('Attributes, JSON such as {"year": 1998}', value=shown)
        self._attributes.props("outlined dense autogrow").style(wide)
        self._before = attributes

    def content(self) -> Item | None:
        """Return the content as the service takes it; ``None``, after a word to the person, if it cannot be read.

        Attributes that were taken out are ``None``: that is how a change of an item removes them.
        """
        try:
            attributes = json.loads(self._attributes.value) if self._attributes.value.strip() else {}
        except ValueError as broken:
            ui.notify(f"Attributes: not JSON: {broken}", type="warning")
            return None
        if not isinstance(attributes, dict):
            ui.notify('Attributes: give values by name, such as {"year": 1998}', type="warning")
            return None

        removed = dict.fromkeys(self._before.keys() - attributes.keys())
        categories = [line.strip() for line in self._categories.value.splitlines() if line.strip()]
        return Item(title=self._title.value, categories=categories, attributes={**attributes, **removed})
