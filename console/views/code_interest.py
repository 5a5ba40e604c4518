"""View of what answers led to by group of the code tree: shown, clicked, and drift since training."""

from __future__ import annotations

from collections.abc import Callable

from etegrec_client.types import CodeAttributionResponse, CodeAttributionRow
from nicegui import ui

from console.parts import note, number, share, show_empty, table
from console.views.charts import shade, two_way_shade

FEWEST_SHOWN = 100
"""Items shown of a group below which its click-through has no colour: one click more or less would change it."""

_MEANINGS = {
    "exposure": "The deeper the blue of a group, the larger its share of the items that answers showed.",
    "clicks": "The deeper the blue of a group, the more clicks it got for each item shown. Grey: fewer than "
    f"{FEWEST_SHOWN} items of it were shown.",
    "drift": "Blue groups have a larger share of recent events than of the training data, brown ones a smaller one; "
    "the deeper the colour, the more that adds to the population stability index.",
}


def is_measured(found: CodeAttributionResponse, colour: str) -> bool:
    """Tell whether there is anything to colour by.

    Args:
        found: What answers led to.
        colour: ``exposure``, ``clicks`` or ``drift``.
    """
    return found["stability"] is not None if colour == "drift" else found["shown"] > 0


def colours_by_code(found: CodeAttributionResponse, colour: str) -> dict[int, str]:
    """Return the colour of each first code; those without a figure are left out.

    Args:
        found: What answers led to.
        colour: ``exposure``, ``clicks`` or ``drift``; others colour nothing.
    """
    figures = {row["code"]: figure for row in found["codes"] if (figure := _figure(row, colour)) is not None}
    largest = max(map(abs, figures.values()), default=0.0) or 1.0
    scale = two_way_shade if colour == "drift" else shade
    return {code: scale(figure / largest) for code, figure in figures.items()}


def _figure(row: CodeAttributionRow, colour: str) -> float | None:
    if colour == "exposure":
        return row["shown_share"]
    if colour == "clicks":
        return row["click_through"] if row["shown"] >= FEWEST_SHOWN else None
    return row["drift"] if colour == "drift" else None


def show_interest(found: CodeAttributionResponse | None, colour: str, *, is_refused: bool) -> None:
    """Add what the colours mean, or why there are none.

    Args:
        found: What answers led to; ``None`` if it was not asked for, or refused.
        colour: ``exposure``, ``clicks`` or ``drift``.
        is_refused: Whether the key may not see it.
    """
    if is_refused:
        show_empty(
            "This console may not see what answers led to",
            "It needs a key of scope admin: ETEGREC_CONSOLE_WRITE_KEY. Boxes have the colours of their main category.",
        )
    elif found is None:
        show_empty(
            "Answers are counted by the first code only",
            "Below it, boxes have the colours of their main category; “All items” above leads back to the figures.",
        )
    elif is_measured(found, colour):
        note(_MEANINGS[colour])
        _show_sums(found, colour)
    elif colour == "drift":
        show_empty(
            "Too few recent events to see drift",
            f"There are {number(found['recent_events'])}, each counting half after every half-life; 100 are needed. "
            "Boxes have the colours of their main category.",
        )
    else:
        show_empty(
            f"This version's answers showed nothing in the last {found['days']} days",
            "Answers are counted within half a minute. If the shop reports what it shows by impression events, they "
            "need the attribution of the answer. Boxes have the colours of their main category.",
        )


def _show_sums(found: CodeAttributionResponse, colour: str) -> None:
    if colour == "drift":
        note(
            f"Population stability index {found['stability'] or 0:.3f}, of {number(found['recent_events'])} recent "
            "events; below 0.1 it is usually nothing. Retraining's own drift has limits of chance."
        )
        return
    through = f", {share(found['clicks'] / found['shown'])} of them" if found["clicks"] else ""
    note(
        f"In the last {found['days']} days, answers of version {found['model_version']} showed "
        f"{number(found['shown'])} items and got {number(found['clicks'])} clicks{through}."
    )
    if found["unplaced_clicks"]:
        note(
            f"{number(found['unplaced_clicks'])} more clicks are in no group: they were recorded by etegrec-ingest, or "
            "by a replica that had another version."
        )


def show_interest_table(found: CodeAttributionResponse, address: Callable[[CodeAttributionRow], str]) -> None:
    """Add the figures of all first codes, those that were shown most first.

    Args:
        found: What answers led to.
        address: Returns the address of a group.
    """
    ordered = sorted(found["codes"], key=lambda row: (-row["shown"], -row["trained_share"], row["code"]))
    rows = [
        (
            lambda row=row: ui.link(str(row["code"]), address(row)),
            row["name"] or "–",
            number(row["shown"]),
            number(row["clicks"]),
            _share(row["click_through"]),
            _share(row["shown_share"]),
            share(row["trained_share"]),
            _share(row["recent_share"]),
            "–" if row["drift"] is None else f"{row['drift']:+.4f}",
        )
        for row in ordered
    ]
    columns = (
        *("Group", "Name", "Shown", "Clicks", "Clicks by item shown"),
        *("Of all shown", "Of the data", "Of recent events", "Drift"),
    )
    with ui.expansion("What answers led to, as a table", value=len(rows) <= 12):
        table("By first code", columns, rows)


def _share(value: float | None) -> str:
    return "–" if value is None else share(value)
