"""View of previews: what rules, or a new item, would change in answers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from etegrec_client.types import CodeExposure, ItemExposure, ItemPreviewResponse, PlacementPreviewResponse
from nicegui import ui

from console.parts import Text, code_path, fact, heading, item_link, note, number, share, show_empty, table, titled
from console.views.charts import paired_bars

FIRST = 10
"""Ranks that users see without asking for more."""

UNREAD = "Nothing can be read of it, neither words nor categories nor attributes: its codes are a guess."
"""What is said of a new item that says nothing."""

CHARTED = 12
"""Groups that the chart shows, those that change most."""


def show_placement_preview(found: PlacementPreviewResponse) -> None:
    """Add what rules would change: how much, by group, and which items."""
    histories = found["histories"]
    if not histories:
        show_empty("There is nobody to try it on", "Let users ask for recommendations first, then try again.")
        return

    before = found["before"]
    after = found["after"]
    with ui.element("div").classes("cards"):
        fact("Answers that change", share(found["changed"] / histories), f"{found['changed']} of {histories} answers")
        fact(
            "Different items",
            number(after["different_items"]),
            f"in all answers together; {number(before['different_items'])} so far",
        )
        fact(
            "Short answers",
            number(after["short"]),
            f"with fewer than {after['k']} items; {number(before['short'])} so far",
        )
    _show_sample(histories, found["users"])
    _show_warnings(found)
    if not found["changed"]:
        note("Nothing would change for them. If a boost should be seen, give it more nats.")
        return
    _show_groups(found)
    _show_items("Items that gain", "In more answers than so far", found["gained"])
    _show_items("Items that lose", "In fewer answers than so far", found["lost"])


def _show_sample(histories: int, users: int) -> None:
    others = histories - users
    parts = [
        f"{users} of users who asked last" if users else "",
        f"{others} test histories of the model" if others else "",
    ]
    note(f"Answered for {histories} histories: {' and '.join(filter(None, parts))}. Nothing is counted or stored.")


def _show_warnings(found: PlacementPreviewResponse) -> None:
    if found["ignored_rules"]:
        rules = ", ".join(found["ignored_rules"])
        Text("p", f"Left out here, since it is not known who asks or what is viewed: {rules}.").classes("warn")
    if found["after"]["short"] > found["before"]["short"]:
        Text("p", "More answers would be short: the rules leave too few items to some users.").classes("warn")


def _show_groups(found: PlacementPreviewResponse) -> None:
    heading(3, "Exposure by group")
    groups = sorted(found["codes"], key=lambda each: -abs(each["after"] - each["before"]))[:CHARTED]
    names = [_group_name(each) for each in groups]
    options = paired_bars(
        names,
        {"so far": [each["before"] for each in groups], "with these rules": [each["after"] for each in groups]},
        "places in answers",
    )
    chart = ui.echart(options, renderer="svg").classes("card chart axes").props('role="img"')
    chart.style(f"height: {6 + 2.6 * len(groups):.1f}rem")
    chart.props["aria-label"] = "Places in answers by group, so far and with these rules; the table below says the same"
    rows = [
        (name, number(each["before"]), number(each["after"]), _change(each))
        for name, each in zip(names, groups, strict=True)
    ]
    table(
        "Places in answers by first code, those that change most first",
        ("Group", "So far", "With these rules", "Change"),
        rows,
    )


def _group_name(group: CodeExposure) -> str:
    """Return the code with its name, or else with an item that people know the group by."""
    example = group["example"]
    return f"{group['code']} · {group['name'] or 'like ' + titled(example['item_id'], example.get('title'))}"


def _change(group: CodeExposure) -> str:
    change = group["after"] - group["before"]
    return f"{change:+d}" if change else "–"


def _show_items(title: str, caption: str, items: Sequence[ItemExposure]) -> None:
    if not items:
        return
    heading(3, title).style("margin-top: 1rem")
    rows = [
        (
            lambda each=each: item_link(each["item_id"], each.get("title")),
            code_path(each["codes"]),
            number(each["before"]),
            number(each["after"]),
        )
        for each in items
    ]
    table(caption, ("Item", "Semantic ID", "So far", "With these rules"), rows)


def show_item_preview(found: ItemPreviewResponse, answered: int) -> None:
    """Add where a new item would stand: its codes, who would see it, and what it would displace.

    Args:
        found: The preview.
        answered: Items of each answer.
    """
    histories = found["histories"]
    ranks = found["ranks"]
    with ui.element("div").classes("cards"):
        fact("Semantic ID", code_path(found["codes"]), "if it came now")
        if histories:
            first = sum(rank <= FIRST for rank in ranks)
            fact(f"In the first {FIRST}", share(first / histories), f"for {first} of {histories} users")
            fact(f"In the first {answered}", share(len(ranks) / histories), f"for {len(ranks)} of {histories} users")
        if ranks:
            fact("Rank", f"{statistics.median(ranks):g}", f"median of these users; best {ranks[0]}, last {ranks[-1]}")
    if histories:
        _show_sample(histories, found["users"])

    names = [name for name in found["names"] if name]
    if names:
        note(f"It would stand among: {' › '.join(names)}.")
    if histories and not ranks:
        Text(
            "p", "None of them would see it. A boost of its categories raises it; say more of it if little is given."
        ).classes("warn")
    if found["nearest"]:
        _show_nearest(found)
    else:
        Text("p", UNREAD).classes("warn")
    if found["displaced"]:
        heading(3, "What it would displace").style("margin-top: 1rem")
        rows = [
            (lambda each=each: item_link(each["item_id"], each.get("title")), number(each["answers"]))
            for each in found["displaced"]
        ]
        table("Items that leave answers for it", ("Item", "Answers"), rows)


def _show_nearest(found: ItemPreviewResponse) -> None:
    heading(3, "Most like it").style("margin-top: 1rem")
    rows = [
        (lambda each=each: item_link(each["item_id"], each["title"]), code_path(each["codes"]))
        for each in found["nearest"]
    ]
    table("Nearest items of the catalogue", ("Item", "Semantic ID"), rows)
