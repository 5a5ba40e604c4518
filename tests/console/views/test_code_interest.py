"""Colours of groups by what answers led to: which have one, and which way they go."""

from __future__ import annotations

from typing import Any, cast

import pytest
from etegrec_client.types import CodeAttributionResponse

from console.views.charts import shade, two_way_shade
from console.views.code_interest import FEWEST_SHOWN, colours_by_code, is_measured


def row_of(code: int, **given: Any) -> dict[str, Any]:
    empty = {"name": None, "shown": 0, "shown_share": None, "clicks": 0, "click_through": None, "drift": None}
    return {"code": code, **empty, **given}


def found_of(*rows: dict[str, Any], **given: Any) -> CodeAttributionResponse:
    return cast(CodeAttributionResponse, {"shown": 0, "stability": None, "codes": list(rows), **given})


def test_the_largest_share_is_the_darkest() -> None:
    found = found_of(row_of(3, shown_share=0.2), row_of(5, shown_share=0.8), row_of(7, shown_share=0.0))
    assert colours_by_code(found, "exposure") == {3: shade(0.25), 5: shade(1), 7: shade(0)}


def test_click_through_of_a_few_items_has_no_colour() -> None:
    found = found_of(
        row_of(3, shown=FEWEST_SHOWN - 1, click_through=0.9),
        row_of(5, shown=FEWEST_SHOWN, click_through=0.1),
        row_of(7, shown=FEWEST_SHOWN, click_through=0.05),
    )
    assert colours_by_code(found, "clicks") == {5: shade(1), 7: shade(0.5)}


def test_drift_goes_both_ways() -> None:
    found = found_of(row_of(3, drift=-0.1), row_of(5, drift=0.05), row_of(7))
    assert colours_by_code(found, "drift") == {3: two_way_shade(-1), 5: two_way_shade(0.5)}
    assert len({two_way_shade(part) for part in (-1, 0, 1)}) == 3


@pytest.mark.parametrize("colour", ["category", "user"])
def test_other_colours_are_not_of_these(colour: str) -> None:
    assert colours_by_code(found_of(row_of(3, shown_share=0.2, drift=1.0)), colour) == {}


def test_without_figures_there_is_nothing_to_colour_by() -> None:
    nothing = found_of(row_of(3))
    assert not any(is_measured(nothing, colour) for colour in ("exposure", "clicks", "drift"))
    assert colours_by_code(nothing, "exposure") == colours_by_code(nothing, "drift") == {}
    assert is_measured(found_of(shown=1), "clicks")
    assert not is_measured(found_of(shown=1), "drift")
    assert is_measured(found_of(stability=0.0), "drift")
