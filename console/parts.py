"""Parts that pages are built of: headings, sections that load, failures, empty states, numbers with units."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from etegrec_client import EtegrecError
from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from console.api.troubles import Trouble, trouble_of

T = TypeVar("T")

LONGEST_TITLE = 120
"""Characters of a title that lists show; the whole one is on the item's own page."""

LONGEST_FIGURE = 30
"""Characters of a figure that is shown in large print."""


class Text(TextElement):
    """Text in an element of any kind. It is always text, whatever it holds: never read as HTML.

    Args:
        tag: Kind of the element, such as ``h2``, ``p`` or ``td``.
        text: The text.
    """

    def __init__(self, tag: str, text: str) -> None:
        super().__init__(tag=tag, text=text)


def heading(level: int, text: str) -> Text:
    """Add a heading."""
    return Text(f"h{level}", text)


def card_title(text: str) -> Text:
    """Add the title of a card that may stand right below the page's heading."""
    return Text("h2", text).classes("card-title")


def note(text: str) -> Text:
    """Add a paragraph in small print."""
    return Text("p", text).classes("note")


def titled(item_id: str, title: str | None) -> str:
    """Return what to call an item in a list: its title, or its id if it has none."""
    shown = title or item_id
    return shown if len(shown) <= LONGEST_TITLE else f"{shown[:LONGEST_TITLE]}…"


def code_path(codes: Sequence[int]) -> str:
    """Return a semantic ID as it is written everywhere, such as ``3-22-13``."""
    return "-".join(map(str, codes))


def number(value: float, digits: int = 0) -> str:
    """Return a number with thousands separated by thin spaces."""
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def share(value: float) -> str:
    """Return a share of 1 in percent, with as many digits as it needs."""
    percent = value * 100
    if percent == 0:
        return "0 %"
    if 0 < percent < 0.01:
        return "< 0.01 %"
    return f"{percent:.2f} %" if percent < 1 else f"{percent:.1f} %"


def duration(seconds: float) -> str:
    """Return a time span in its largest fitting unit."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def moment(unix_s: int | None) -> str:
    """Return a moment in UTC; a dash if it is not known."""
    if unix_s is None:
        return "–"
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def show_trouble(trouble: Trouble, again: Callable[[], Awaitable[None]] | None = None) -> None:
    """Add a card that says what went wrong and what to do, with a button to try again."""
    with ui.element("div").classes("card trouble").props('role="alert"'):
        card_title(trouble.title)
        Text("p", trouble.detail).classes("said")
        Text("p", trouble.advice)
        if again is not None:
            ui.button("Try again", on_click=again).props("outline no-caps")


def show_empty(title: str, advice: str) -> None:
    """Add a card that says that there is nothing, and what to do about it."""
    with ui.element("div").classes("card empty"):
        card_title(title)
        Text("p", advice)


class Section(Generic[T]):
    """A part of a page that a call to the service fills: it loads, then shows what came, or what went wrong.

    Args:
        load: Asks the service.
        show: Adds the elements of an answer.
        waiting: What is being waited for, in words.
    """

    def __init__(self, load: Callable[[], Awaitable[T]], show: Callable[[T], None], waiting: str) -> None:
        self._load = load
        self._show = show
        self._waiting = waiting
        self._asked = 0
        self._area = ui.element("section").props('aria-live="polite"').classes("section")
        self._show_waiting()

    async def refresh(self) -> None:
        """Ask again without telling screen readers, which would speak every few seconds."""
        self._area.props('aria-live="off"')
        await self.reload()

    async def reload(self) -> None:
        """Ask again. Of several questions under way, only the newest one's answer is shown."""
        self._asked += 1
        mine = self._asked
        self._area.props('aria-busy="true"')

        try:
            answer = await self._load()
        except EtegrecError as failure:
            trouble = trouble_of(failure)
            self._fill(mine, lambda: show_trouble(trouble, self.reload))
        else:
            self._fill(mine, lambda: self._show(answer))

    def start(self) -> None:
        """Ask for the first time, as soon as the page is open in the browser."""
        with self._area:
            ui.timer(0.01, self.reload, once=True)

    def _fill(self, asked: int, show: Callable[[], None]) -> None:
        """Show an answer in place of the one before, unless a newer question is under way or the page is gone."""
        if asked != self._asked or self._area.is_deleted:
            return
        self._area.props(remove="aria-busy")
        self._area.clear()
        with self._area:
            show()

    def _show_waiting(self) -> None:
        with self._area, ui.element("div").classes("waiting").props('role="status"'):
            ui.spinner(size="1.5em")
            Text("span", self._waiting)


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str | Callable[[], Any]]]) -> None:
    """Add a plain table. Cells are text, or functions that add elements to the cell.

    On narrow screens each row becomes a card; cells are then named by their columns.
    """
    with ui.element("table").classes("plain"):
        Text("caption", caption)
        with ui.element("thead"), ui.element("tr"):
            for column in columns:
                Text("th", column).props('scope="col"')
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr"):
                    for column, cell in zip(columns, row, strict=True):
                        if isinstance(cell, str):
                            Text("td", cell).props["data-label"] = column
                            continue
                        with ui.element("td") as td:
                            td.props["data-label"] = column
                            cell()


def fact(label: str, value: str, remark: str = "") -> None:
    """Add a figure with its name, and a remark under it."""
    with ui.element("div").classes("card fact"):
        Text("div", label).classes("label")
        Text("div", value).classes("value" if len(value) <= LONGEST_FIGURE else "value long")
        if remark:
            Text("div", remark).classes("note")


async def confirmed(title: str, text: str, action: str, *, is_harmful: bool = True) -> bool:
    """Ask before something that others will notice; return whether the person agreed.

    Args:
        title: The question.
        text: What will happen.
        action: What the button says that does it.
        is_harmful: Whether something is lost, which colours the button as a warning.
    """
    with ui.dialog() as dialog, ui.card():
        heading(2, title)
        Text("p", text)
        with ui.element("div").classes("row-line"):
            ui.button(action, on_click=lambda: dialog.submit(True)).props("color=negative" if is_harmful else "")
            ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("outline autofocus")
    dialog.props["role"] = "alertdialog"
    dialog.props["aria-label"] = title
    agreed = bool(await dialog)
    dialog.delete()
    return agreed


async def attempt(action: Awaitable[T], done: str) -> T | None:
    """Do something and say that it is done, unless ``done`` is empty.

    If the service refuses, say what it said, and return ``None``.
    """
    try:
        result = await action
    except EtegrecError as failure:
        trouble = trouble_of(failure)
        message = f"{trouble.title}. {trouble.detail} {trouble.advice}"
        ui.notify(message, type="negative", multi_line=True, timeout=0, close_button="Close")
        return None
    if done:
        ui.notify(done, type="positive")
    return result


def item_link(item_id: str, title: str | None) -> None:
    """Add a link to the page of an item."""
    ui.link(titled(item_id, title), item_url(item_id)).classes("title")


def item_url(item_id: str) -> str:
    """Return the address of the page of an item."""
    return f"/item?{urlencode({'id': item_id})}"


def meter(part: float, figure: str, *, is_negative: bool = False) -> None:
    """Add a bar whose length is a part of 1, with its figure."""
    with ui.element("div").classes("meter"):
        with ui.element("div").classes("track").props('aria-hidden="true"'):
            fill = ui.element("div").classes("fill minus" if is_negative else "fill")
            fill.style(f"width: {min(1.0, max(0.0, part)) * 100:.1f}%")
        Text("span", figure).classes("figure")
