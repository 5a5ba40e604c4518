"""Cards that say what something means and what to do about it, with commands to copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nicegui import ui

from console.parts import Text, card_title, note

_MOODS = {"well": "card well", "attention": "card attention", "plain": "card"}


@dataclass(frozen=True)
class Advice:
    """What something means, and what to do."""

    title: str
    action: str
    mood: Literal["well", "attention", "plain"]
    commands: tuple[str, ...] = ()
    """Commands of a shell that do it."""


def show_advice(advice: Advice, remark: str = "") -> None:
    """Add a card with an advice, and a remark in small print."""
    with ui.element("div").classes(_MOODS[advice.mood]):
        card_title(advice.title)
        Text("p", f"What to do: {advice.action}")
        for command in advice.commands:
            show_command(command)
        if remark:
            note(remark)


def show_command(command: str) -> None:
    """Add a command of a shell, with a button that copies it."""
    with ui.element("div").classes("call"):
        Text("code", command)
        button = ui.button(icon="content_copy", on_click=lambda: _copy(command)).props("flat round dense")
        button.props["aria-label"] = "Copy this command"


def _copy(command: str) -> None:
    ui.clipboard.write(command)
    ui.notify("Copied")
