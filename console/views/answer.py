"""View of one answer: its items, how they moved, and why each is there."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from etegrec_client.types import Explanation, RecommendedItem, RecommendResponse, ScoreParts
from nicegui import ui

from console.forms.question import dropped, movement
from console.parts import (
    Section,
    Text,
    code_path,
    heading,
    item_link,
    meter,
    note,
    number,
    share,
    show_empty,
    table,
    titled,
)

Explain = Callable[[], Awaitable[RecommendResponse]]
"""Asks the same question again, with explanations."""

_SERVED_BY = {
    "model": "The model searched for this answer.",
    "cache": "The model searched for this answer when the same was asked a moment ago.",
    "popular": "Popular items, not the model's choice: no item of the history is known.",
}

SHOWN_REASONS = 8
"""Items of the history that an explanation lists, those that contributed most."""


def show_answer(answer: RecommendResponse, before: RecommendResponse | None, explain: Explain) -> None:
    """Add an answer.

    Args:
        answer: The answer.
        before: The one before it, to show what moved.
        explain: Asks the same again, with explanations.
    """
    if not answer["items"]:
        show_empty("No item obeys these rules", "Take a rule away, or allow more categories.")
        return

    note(f"{_SERVED_BY[answer['served_by']]} {answer['took_ms']:.1f} ms, version {answer['model_version']}.")
    if answer["degraded"]:
        Text("p", "The store is away, so stored histories may be missing.").classes("warn")
    if answer["unknown_items"]:
        Text("p", f"Not in the catalogue: {', '.join(answer['unknown_items'])}").classes("warn")

    reasons = _Reasons(explain)
    best = answer["items"][0]["score"]
    rows = [
        (
            str(rank),
            lambda item=item: item_link(item["item_id"], item.get("title")),
            _moved(before, item, rank),
            share(math.exp(item["log_prob"])),
            "best" if item["score"] == best else f"{item['score'] - best:.2f}",
            lambda item=item: _show_path(item, reasons),
        )
        for rank, item in enumerate(answer["items"], start=1)
    ]
    columns = ("Rank", "Item", "Moved", "Probability", "Score, behind the best", "Semantic ID")
    table(
        "Best first. Probability is the search's alone; the rank also counts the cosine of user and item.",
        columns,
        rows,
    )

    gone = dropped(before, answer)
    if gone:
        note("No longer in the answer: " + ", ".join(titled(each["item_id"], each.get("title")) for each in gone))


def _moved(before: RecommendResponse | None, item: RecommendedItem, rank: int) -> str:
    return movement(before, item["item_id"], rank) or "–"


class _Reasons:
    """Explanations of one answer, asked for once, when the first one is wanted.

    Args:
        explain: Asks for them.
    """

    def __init__(self, explain: Explain) -> None:
        self._explain = explain
        self._answer: RecommendResponse | None = None

    async def of(self, item_id: str) -> Explanation | None:
        """Return the explanation of an item; ``None`` if there is none."""
        if self._answer is None:
            self._answer = await self._explain()
        return next((each.get("explanation") for each in self._answer["items"] if each["item_id"] == item_id), None)


def _show_path(item: RecommendedItem, reasons: _Reasons) -> None:
    with ui.element("div"):
        Text("span", code_path(item["codes"])).classes("code")
        button = ui.button("Why?").props("flat dense")
        button.props["aria-label"] = f"Why is {titled(item['item_id'], item.get('title'))} answered?"
        area = ui.element("div")

    def open_reasons() -> None:
        button.set_visibility(False)
        with area:
            section = Section(lambda: reasons.of(item["item_id"]), _show_reasons, "Searching once without each item …")
            section.start()

    button.on_click(open_reasons)


def _show_reasons(explanation: Explanation | None) -> None:
    if explanation is None:
        note("The answer has changed meanwhile: ask again.")
        return

    with ui.element("div").classes("why"):
        parts = explanation.get("parts")
        if parts is not None:
            _show_parts(parts)

        heading(3, "What the history contributed")
        measured = [each for each in explanation["history"] if each.get("contribution") is not None]
        if not measured:
            note("Nothing to compare with: the history is one item, or popular items answered.")
        measured.sort(key=lambda each: -abs(each["contribution"] or 0))
        largest = max((abs(each["contribution"] or 0) for each in measured), default=0) or 1
        for each in measured[:SHOWN_REASONS]:
            contribution = each["contribution"] or 0
            Text("div", titled(each["item_id"], each.get("title"))).classes("title")
            meter(abs(contribution) / largest, f"{contribution:+.2f}", is_negative=contribution < 0)
        note("What the score would lose without the item; negative: it would gain.")

        heading(3, "The way down the code tree")
        for code in explanation["codes"]:
            probability = code.get("log_prob")
            name = code.get("name") or "no name"
            Text("div", f"{code['code']} · {name} · {number(code['items'])} items")
            if probability is not None:
                meter(math.exp(probability), share(math.exp(probability)))
        note("How probable each code is after those before it.")


def _show_parts(parts: ScoreParts) -> None:
    heading(3, "What the score is made of")
    named = (
        ("Probability of its codes", parts["codes"]),
        ("Cosine of user and item", parts["cosine"]),
        ("Neighbours of the newest items", parts["neighbours"]),
        ("Correction by the ranker", parts["ranker"]),
        ("Boost of new items", parts["fresh_boost"]),
        ("Steered prefixes", parts["steer"]),
        ("Boosts of the rules", parts["boosts"]),
    )
    largest = max(abs(value) for _, value in named) or 1

    for name, value in named:
        if value:
            Text("div", name).classes("title")
            meter(abs(value) / largest, f"{value:+.2f}", is_negative=value < 0)
    note("Added up, they are the score. Parts that add nothing are left out.")
