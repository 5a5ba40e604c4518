"""View of an absence: search an item that is missing in an answer, and see why it is missing."""

from __future__ import annotations

import math

from etegrec_client.types import CodeStanding, WhyNotRequest, WhyNotResponse
from nicegui import ui

from console.api.service_api import ServiceApi
from console.forms.question import Question
from console.parts import Section, Text, attempt, heading, meter, note, share, table, titled

FOUND = 5
"""Items that a search lists."""

_VERDICTS = {
    "hidden": "It is hidden: no answer contains it. Bring it back on its own page.",
    "filtered": "The rule {field} leaves it out.",
    "denied": "The rule {field} names it.",
    "disliked": "The user disliked or hid it: no answer to this user contains it.",
    "seen": "The user had it already, and the rules leave such items out.",
    "same_prefix": "Its score would do, but as many items with its first code as allowed are in the answer already.",
    "outscored": "The last item of the answer scores higher.",
    "not_searched": "Its score would do, but the search had left its path. Ask for more items: that searches wider.",
    "popular": "Popular items answered, since no item of the history is known: there is no search to explain.",
}


class AbsenceSearch:
    """Field for an item, and why it is not in the answer.

    Args:
        api: The service.
        question: The question that was answered.
    """

    def __init__(self, api: ServiceApi, question: Question) -> None:
        self._api = api
        self._question = question
        heading(2, "Why not this item?")
        note("Search for an item that you miss in the answer.")
        self._field = ui.input("Words of its title, or its id").props('outlined dense clearable maxlength="200"')
        self._field.style("width: 100%").on("keydown.enter", self._search)
        ui.button("Search", on_click=self._search).props("outline").style("margin-top: 0.5rem")
        self._area = ui.element("div").props('aria-live="polite"')

    def clear(self) -> None:
        """Take away what was said of an answer before this one."""
        self._area.clear()

    async def _search(self) -> None:
        query = (self._field.value or "").strip()
        if not query:
            ui.notify("Type words of a title, or an id", type="warning")
            return
        found = await attempt(self._api.looking.search_items(query, limit=FOUND), "")
        self._area.clear()
        with self._area:
            for item in found["items"] if found else ():
                name = titled(item["item_id"], item["title"])
                ui.button(name, on_click=lambda item=item: self._explain(item["item_id"])).props("flat align=left")
            if found is not None and not found["items"]:
                note(f"Nothing matches “{query}”.")

    def _explain(self, item_id: str) -> None:
        request = self._question.why_not(item_id)
        self._area.clear()
        with self._area:
            Section(lambda: self._ask(request), show_absence, "Searching along its path …").start()

    async def _ask(self, request: WhyNotRequest) -> WhyNotResponse:
        return await self._api.looking.why_not(**request)


def show_absence(found: WhyNotResponse) -> None:
    """Add why an item is not in the answer."""
    with ui.element("div").classes("card"):
        heading(3, titled(found["item_id"], found.get("title"))).classes("title")
        Text("p", verdict_of(found))
        if found["score"] is not None and found["last"] is not None:
            _show_scores(found)
        if found["levels"]:
            heading(3, "Its way down the code tree")
            rows = [
                (
                    f"{level['code']} · {level['name'] or 'no name'}",
                    lambda level=level: _show_probability(level["log_prob"]),
                    "yes" if level["survived"] else "no",
                    lambda level=level: _show_sibling(level),
                )
                for level in found["levels"]
            ]
            caption = "Each code, how probable it is after those before it, and the strongest other code there"
            table(caption, ("Code", "Probability", "Still in the search", "Strongest other"), rows)


def verdict_of(found: WhyNotResponse) -> str:
    """Return in a sentence why the item is not in the answer."""
    if found["verdict"] == "answered":
        return f"It is in the answer, at rank {found['rank']}."
    sentence = _VERDICTS[found["verdict"]].format(field=found["closed_by"])
    lost = next((place for place, level in enumerate(found["levels"], start=1) if not level["survived"]), None)
    if lost is None or found["verdict"] not in ("outscored", "not_searched"):
        return sentence
    return f"{sentence} The search left its path at code {lost} of {len(found['levels'])}."


def _show_scores(found: WhyNotResponse) -> None:
    last = found["last"]
    if last is None or found["score"] is None or found["log_prob"] is None:
        return

    by_search = last["log_prob"] - found["log_prob"]
    by_likeness = (last["score"] - last["log_prob"]) - (found["score"] - found["log_prob"])
    name = titled(last["item_id"], last.get("title"))
    table(
        f"Against the last item of the answer, “{name}”. Positive: what it lacks, in nats of score.",
        ("Part", "It lacks"),
        [
            ("search: how probable its codes are", f"{by_search:+.2f}"),
            ("likeness: cosine of user and item, repeats and neighbours", f"{by_likeness:+.2f}"),
            ("together", f"{by_search + by_likeness:+.2f}"),
        ],
    )


def _show_probability(log_prob: float | None) -> None:
    if log_prob is not None:
        meter(math.exp(log_prob), share(math.exp(log_prob)))


def _show_sibling(level: CodeStanding) -> None:
    sibling = level["sibling"]
    if sibling is None:
        Text("span", "no other is open")
        return
    probability = "" if sibling["log_prob"] is None else f", {share(math.exp(sibling['log_prob']))}"
    example = titled(sibling["example"]["item_id"], sibling["example"].get("title"))
    Text("span", f"{sibling['code']} · {sibling['name'] or 'no name'}{probability}, such as {example}").classes("title")
