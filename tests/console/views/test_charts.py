"""Charts: readable colours in every case, and text that stays text."""

from __future__ import annotations

import pytest

from console.views.charts import (
    PALETTE,
    Box,
    Interval,
    colours_of,
    interval_chart,
    paired_bars,
    plain,
    shade,
    treemap,
    two_way_shade,
)


def contrast_with_white(colour: str) -> float:
    """Return the contrast of WCAG 2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 1.05 / (0.05 + 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


SHADES = [scale(part / 10) for scale in (shade, two_way_shade) for part in range(-12, 13)]


@pytest.mark.parametrize("colour", [*PALETTE, *colours_of([]).values(), *SHADES])
def test_white_labels_are_readable_on_every_box(colour: str) -> None:
    assert contrast_with_white(colour) >= 4.5


def test_frequent_values_have_colours_of_their_own() -> None:
    values = ["b", "a", "b", None, *(f"rare {n}" for n in range(20))]
    colours = colours_of(values)
    assert colours["b"] == PALETTE[0]
    assert len({colours[name] for name in ("b", "a")}) == 2
    assert colours[None] == colours["rare 19"]
    assert colours.keys() == set(values)


def test_names_with_braces_and_markup_are_drawn_as_they_are() -> None:
    box = Box("3", "<b>{c}</b>", 5, "#000000", "{b|bold} <img src=x>")
    [drawn] = treemap([box], "groups")["series"][0]["data"]
    assert (drawn["name"], drawn["value"], drawn["id"]) == ("<b>{c}</b>", 5, "3")
    assert "{" not in drawn["tooltip"]["formatter"]
    assert treemap([box], "groups")["tooltip"]["renderMode"] == "richText"  # drawn, never parsed as HTML
    assert plain("a {b} | c") == "a (b) / c"


def test_bars_stand_side_by_side_in_the_order_of_their_names() -> None:
    options = paired_bars(["a {b}", "c"], {"so far": [1, 2], "then": [3, 4]}, "places")
    assert options["yAxis"]["data"] == ["a (b)", "c"]
    assert options["yAxis"]["inverse"]
    assert [(each["name"], each["data"]) for each in options["series"]] == [("so far", [1, 2]), ("then", [3, 4])]


def test_intervals_reach_beyond_their_ends_on_both_sides_of_0() -> None:
    options = interval_chart([Interval("new", -1.0, 2.0, 5.0), Interval("old", -0.5, 0.0, 0.5)], "points")
    assert options["series"][0]["data"][0] == [-1.0, 2.0, 2.0, 2.0, 5.0]
    assert options["xAxis"]["max"] > 5.0
    assert options["xAxis"]["min"] == -options["xAxis"]["max"]
    assert interval_chart([Interval("new", 0.0, 0.0, 0.0)], "points")["xAxis"]["max"] > 0
