"""Ask: build a history, set rules, see the answer move, and see why each item is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

from etegrec_client.types import ItemResponse, ItemsResponse, RecommendResponse
from nicegui import ui

from console.api.service_api import ServiceApi
from console.forms.question import MOST_ITEMS, Question
from console.pages.frame import Backend, page_frame
from console.pages.users import load_items
from console.parts import Section, attempt, heading, item_link, note, show_empty, titled
from console.views.absence import AbsenceSearch
from console.views.answer import show_answer
from console.views.comparison import OTHERS, Compared, Missing, Other, compare, show_comparison

FOUND = 6
"""Items that a search lists for adding."""

SHORTEST_QUERY = 2
"""Characters from which on titles are searched while someone types."""


_NOTHING_BESIDE = ""
_BESIDE: dict[str, str] = {_NOTHING_BESIDE: "nothing", **{str(alias): words for alias, words in OTHERS.items()}}


def show_ask(backend: Backend, user_id: str, item_id: str, beside: str) -> None:
    """Build the page.

    Args:
        backend: What all pages share.
        user_id: User whose stored history is loaded first; empty for none.
        item_id: Item that the history begins with; empty for none.
        beside: Alias of a version whose answer stands beside that of the live one; empty for none.
    """
    purpose = "Ask as a user would: build a history, change it or the rules, and watch how the answer moves."
    with page_frame(backend, "/ask", "Ask", purpose) as api:
        _AskPage(api, beside if beside in _BESIDE else _NOTHING_BESIDE).build(user_id, item_id)


class _AskPage:
    """One visitor's question and its answer.

    Args:
        api: The service.
        beside: Alias of a version to compare with; empty for none.
    """

    def __init__(self, api: ServiceApi, beside: str) -> None:
        self._api = api
        self._beside = beside
        self._question = Question()
        self._before: RecommendResponse | None = None
        self._shown: RecommendResponse | None = None

    def build(self, user_id: str, item_id: str) -> None:
        """Add all parts, and ask for the first time."""
        with ui.element("div").classes("two"):
            with ui.element("div").classes("stack"):
                self._build_history(user_id)
                self._build_rules()
                self._build_beside()
            with ui.element("div"):
                heading(2, "Answer").style("margin-top: 0")
                self._answer = Section(self._ask, self._show, "Asking …")
                self._comparison = Section(self._compare, self._show_comparison, "Asking both versions …")
                self._absence = AbsenceSearch(self._api, self._question)

        async def begin() -> None:
            if user_id:
                await self._load_user(user_id)
            elif item_id:
                self._add_all([item_id], await load_items(self._api, [item_id]))
            self._show_history()
            await self._ask_all()

        ui.timer(0.01, begin, once=True)

    def _build_history(self, user_id: str) -> None:
        with ui.element("div").classes("card"):
            heading(2, "History").style("margin-top: 0")
            with ui.element("div").classes("row-line"):
                user = ui.input("Stored history of user", value=user_id).props('outlined dense maxlength="128"')
                user.style("flex: 1").on("keydown.enter", lambda: self._take_user(user.value.strip()))
                ui.button("Load", on_click=lambda: self._take_user(user.value.strip())).props("outline")

            self._search = ui.input("Add an item: words of its title").props(
                'outlined dense clearable debounce="300" maxlength="200"'
            )
            self._search.style("width: 100%; margin-top: 0.75rem").on_value_change(self._find)
            self._found = ui.element("div").props('aria-live="polite"')
            self._list = (
                ui.element("div")
                .classes("history")
                .props('tabindex="0" role="group" aria-label="Items of the history"')
            )

    def _build_rules(self) -> None:
        question = self._question
        with ui.element("div").classes("card stack"):
            heading(2, "Rules").style("margin-top: 0")
            k = ui.number("Items wanted", value=question.k, min=1, max=50, step=1).props("outlined dense")
            seen = ui.switch("Leave out items of the history", value=question.leave_out_history)
            categories = ui.input("Only these categories, separated by commas").props("outlined dense")
            alike = ui.number("At most so many with the same first code", min=1, max=50, step=1).props(
                "outlined dense clearable"
            )

            async def apply() -> None:
                question.k = int(min(50, max(1, k.value or 10)))
                question.leave_out_history = bool(seen.value)
                question.categories = [each.strip() for each in (categories.value or "").split(",") if each.strip()]
                question.max_per_prefix = int(alike.value) if alike.value else None
                await self._ask_all()

            for control in (k, categories, alike):
                control.props('debounce="500"')
            for changed in (k, seen, categories, alike):
                changed.on_value_change(apply)

    def _build_beside(self) -> None:
        with ui.element("div").classes("card stack"):
            heading(2, "Compare").style("margin-top: 0")
            chosen = ui.select(_BESIDE, value=self._beside, label="Beside the live version").props("outlined dense")

            async def apply() -> None:
                self._beside = chosen.value
                await self._comparison.reload()

            chosen.on_value_change(apply)

    async def _ask_all(self) -> None:
        await asyncio.gather(self._answer.reload(), self._comparison.reload())

    async def _compare(self) -> Compared | Missing | None:
        if not self._beside or not self._question.history:
            return None
        return await compare(self._api, self._question.request(), cast(Other, self._beside))

    def _show_comparison(self, found: Compared | Missing | None) -> None:
        if found is not None:
            show_comparison(found, cast(Other, self._beside))

    async def _ask(self) -> RecommendResponse | None:
        if not self._question.history:
            return None
        return await self._api.looking.recommend(**self._question.request())

    def _show(self, answer: RecommendResponse | None) -> None:
        if answer is None:
            self._before = self._shown = None
            show_empty("Nobody to recommend to yet", "Add items to the history, or load that of a user.")
            return

        self._before, self._shown = self._shown, answer
        self._absence.clear()
        asked = self._question.request(explain=True)
        show_answer(answer, self._before, lambda: self._api.looking.recommend(**asked))

    async def _take_user(self, user_id: str) -> None:
        if not user_id:
            ui.notify("Type a user id", type="warning")
            return
        await self._load_user(user_id)
        self._show_history()
        await self._ask_all()

    async def _load_user(self, user_id: str) -> None:
        user = await attempt(self._api.acting.get_user(user_id), "")
        if user is None:
            return
        if not user["history"]:
            ui.notify(f"Nothing is stored of “{user_id}”", type="warning")
        newest = user["history"][-MOST_ITEMS:]
        self._question.history = []
        self._add_all(newest, await load_items(self._api, list(dict.fromkeys(newest))))

    def _add_all(self, item_ids: list[str], items: Mapping[str, ItemResponse | None]) -> None:
        for item_id in item_ids:
            item = items[item_id]
            self._question.add(item_id, item["title"] if item else None)

    async def _find(self) -> None:
        query = (self._search.value or "").strip()
        found: ItemsResponse | None = None
        if len(query) >= SHORTEST_QUERY:
            found = await attempt(self._api.looking.search_items(query, limit=FOUND), "")

        self._found.clear()
        with self._found:
            for item in found["items"] if found else ():
                with ui.element("div").classes("history-item"):
                    item_link(item["item_id"], item["title"])
                    add = ui.button(icon="add", on_click=lambda item=item: self._add(item["item_id"], item["title"]))
                    add.props("flat round dense")
                    add.props["aria-label"] = f"Add {titled(item['item_id'], item['title'])}"
            if found is not None and not found["items"]:
                note(f"Nothing matches “{query}”.")

    async def _add(self, item_id: str, title: str | None) -> None:
        self._question.add(item_id, title)
        self._show_history()
        await self._ask_all()

    async def _remove(self, place: int) -> None:
        self._question.remove(place)
        self._show_history()
        await self._ask_all()

    def _show_history(self) -> None:
        self._list.clear()
        with self._list:
            history = self._question.history
            note(f"{len(history)} items, newest first" if history else "No item yet. The newest counts most.")
            for place in reversed(range(len(history))):
                item_id, title = history[place]
                with ui.element("div").classes("history-item"):
                    item_link(item_id, title)
                    remove = ui.button(icon="close", on_click=lambda place=place: self._remove(place))
                    remove.props("flat round dense")
                    remove.props["aria-label"] = f"Remove {titled(item_id, title)}"
