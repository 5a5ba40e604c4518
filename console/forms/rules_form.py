"""Fields of rules, for placements and for variants of experiments. They write into a draft as people type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from nicegui import ui

from console.forms.rules_draft import BoostDraft, Condition, PinDraft, RangeDraft, RulesDraft, SteerDraft
from console.parts import Text, heading, note

T = TypeVar("T")

_DENSE = "outlined dense"

_SEEN = {
    "unset": "as requests or the service say",
    "true": "what the service is set to, usually purchases",
    "types": "these types of events",
    "false": "nothing",
}

_CHANCE = {"unset": "none", "slots": "a number of them", "share": "a part of them"}

_TYPES = ("view", "click", "cart", "purchase", "rating")

_CONDITIONS: dict[Condition, str] = {
    "categories": "items of categories",
    "items": "these items",
    "range": "items by a number",
    "prefix": "a group of the code tree",
}


class RulesForm:
    """Fields of one draft.

    Args:
        draft: What the fields show first, and write into.
    """

    def __init__(self, draft: RulesDraft) -> None:
        self._draft = draft
        self._add_basics()
        self._add_filter()
        self._add_order()
        self._add_exploration()

    def _add_basics(self) -> None:
        draft = self._draft
        with _group("How many, and what not again"):
            _number("Items wanted", 1, 1000).bind_value(draft, "k")
            _number("Most of one group (one code)", 1, 1000).bind_value(draft, "first_code")
            _number("Most of one sub-group (two codes)", 1, 1000).bind_value(draft, "two_codes")
            seen = ui.select(_SEEN, label="Leave out what users had").props(_DENSE).bind_value(draft, "seen")
            types = ui.select(list(_TYPES), label="Types of events", multiple=True).props(f"{_DENSE} use-chips")
            types.bind_value(draft, "seen_types").bind_visibility_from(seen, "value", value="types")
            _number("Not from the last so many answers", 1, 100).bind_value(draft, "shown_answers")
            _number("Not shown in the last so many hours", 0.1, 168).bind_value(draft, "shown_hours")

    def _add_filter(self) -> None:
        draft = self._draft
        with _group("Which items"):
            _chips("Only items of these categories").bind_value(draft, "categories")
            _chips("No items of these categories").bind_value(draft, "not_categories")
            _chips("Never these items (ids)").bind_value(draft, "deny")
        Rows(draft.ranges, RangeDraft, _add_range, "a range of numbers", "Range")
        with ui.expansion("Further parts of the filter, as JSON").props("dense").classes("more"):
            other = ui.textarea('Such as {"allow": ["50", "181"]}').props(f"{_DENSE} autogrow").classes("wide")
            other.bind_value(draft, "other_filter")

    def _add_order(self) -> None:
        heading(3, "Boosts").style("margin-top: 1rem")
        note("Nats are added to the score; below 0 they hold items back. A try shows how many it takes. Times are UTC.")
        Rows(self._draft.boosts, BoostDraft, _add_boost, "a boost", "Boost")
        heading(3, "Pins").style("margin-top: 1rem")
        Rows(self._draft.pins, PinDraft, _add_pin, "a pin", "Pin")
        heading(3, "Steered groups").style("margin-top: 1rem")
        note("Like a boost, but inside the search: a whole group of the code tree comes up more, or less.")
        Rows(self._draft.steer, SteerDraft, _add_steered, "a steered group", "Steered group")

    def _add_exploration(self) -> None:
        draft = self._draft.exploration
        with _group("Left to chance"):
            choice = ui.select(_CHANCE, label="Places at the end of the answer").props(_DENSE).bind_value(draft, "by")
            slots = _number("So many places", 1, 25).bind_value(draft, "slots")
            slots.bind_visibility_from(choice, "value", value="slots")
            percent = _number("Percent of the places", 0.1, 100).bind_value(draft, "percent")
            percent.bind_visibility_from(choice, "value", value="share")
            temperature = _number("Temperature, 1 unless given", 0.05, 1000, 0.05).bind_value(draft, "temperature")
            temperature.bind_visibility_from(choice, "value", lambda value: value != "unset")
        note(
            "What people do with such answers tells what other rules would have earned, before anybody sees them. The"
            " temperature is a difference of scores that makes an item come e times as often: see the scores of a try."
        )


class Rows(Generic[T]):
    """List of entries with fields each, which can be added and removed.

    Args:
        entries: The entries, changed in place.
        make: Makes a new one.
        add_fields: Adds the fields of an entry.
        what: What is added, for the button.
        noun: What an entry is called.
    """

    def __init__(
        self, entries: list[T], make: Callable[[], T], add_fields: Callable[[T], None], what: str, noun: str
    ) -> None:
        self._entries = entries
        self._make = make
        self._add_fields = add_fields
        self._noun = noun
        self._area = ui.element("div").classes("stack")
        ui.button(f"Add {what}", icon="add", on_click=self._add).props("flat dense")
        self._show()

    def _add(self) -> None:
        self._entries.append(self._make())
        self._show()

    def _remove(self, entry: T) -> None:
        self._entries[:] = [each for each in self._entries if each is not entry]
        self._show()

    def _show(self) -> None:
        self._area.clear()
        with self._area:
            for place, entry in enumerate(self._entries, start=1):
                with ui.element("div").classes("card entry").props(f'role="group" aria-label="{self._noun} {place}"'):
                    with ui.element("div").classes("row-line"):
                        Text("span", f"{self._noun} {place}").classes("label")
                        remove = ui.button(icon="close", on_click=lambda entry=entry: self._remove(entry))
                        remove.props("flat round dense")
                        remove.props["aria-label"] = f"Remove {self._noun.lower()} {place}"
                    with ui.element("div").classes("fields"):
                        self._add_fields(entry)


def moment_field(label: str) -> ui.input:
    """Add a field for a moment in UTC."""
    return ui.input(label).props(f"{_DENSE} type=datetime-local stack-label")


def _add_range(draft: RangeDraft) -> None:
    ui.input("Attribute, such as year").props(f'{_DENSE} maxlength="256"').bind_value(draft, "name")
    _number("At least").bind_value(draft, "least")
    _number("At most").bind_value(draft, "most")


def _add_boost(draft: BoostDraft) -> None:
    _number("Nats", -20, 20, 0.1).bind_value(draft, "nats")
    if draft.condition == "other":
        note(f"For items by {', '.join(each['field'] for each in draft.other['attributes'])}, which stays as it is.")
    else:
        choice = ui.select(_CONDITIONS, label="For").props(_DENSE).bind_value(draft, "condition")
        _chips("Names or ids").bind_value(draft, "names").bind_visibility_from(
            choice, "value", lambda value: value in ("categories", "items")
        )
        prefix = ui.input("Codes, such as 3-22").props(_DENSE).bind_value(draft, "prefix")
        prefix.bind_visibility_from(choice, "value", value="prefix")
        with ui.element("div").classes("fields").bind_visibility_from(choice, "value", value="range"):
            _add_range(draft.range)
    moment_field("Begins, UTC").bind_value(draft.begins, "text")
    moment_field("Ends, UTC").bind_value(draft.ends, "text")


def _add_pin(draft: PinDraft) -> None:
    _number("Place, from 1", 1, 1000).bind_value(draft, "position")
    ui.input("Id of the item").props(f'{_DENSE} maxlength="128"').bind_value(draft, "item")


def _add_steered(draft: SteerDraft) -> None:
    ui.input("Codes of the group, such as 3-22").props(_DENSE).bind_value(draft, "prefix")
    _number("Nats", -20, 20, 0.1).bind_value(draft, "nats")


def _group(title: str) -> ui.element:
    heading(3, title).style("margin-top: 1rem")
    return ui.element("div").classes("fields")


def _number(label: str, least: float | None = None, most: float | None = None, step: float = 1) -> ui.number:
    field = ui.number(label, min=least, max=most, step=step)
    return field.props(f"{_DENSE} clearable")


def _chips(label: str, value: Sequence[str] = ()) -> ui.input_chips:
    chips = ui.input_chips(label, value=list(value), new_value_mode="add-unique")
    return chips.props(f'{_DENSE} hint="press Enter after each"').classes("wide")
