"""Types of attribute columns, and the columns that stay text."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest

from training.data.attribute_types import typed


@pytest.mark.parametrize(
    ("texts", "values", "words"),
    [
        (["59.99", "5", " 7.50 ", None, ""], [59.99, 5.0, 7.5, None, None], "numbers"),
        (["-1e3", ".5", "3."], [-1000.0, 0.5, 3.0], "numbers"),
        (["59,99", "5", "7,5"], [59.99, 5.0, 7.5], "numbers with a decimal comma"),
        (["12", "-3", "NULL", "nan"], [12, -3, None, None], "whole numbers"),
        (["true", "FALSE", "n/a"], [True, False, None], "true or false"),
        (["Yes", "no"], [True, False], "true or false"),
        (["2024-01-01", "2024-01-02T00:00:01Z"], [1704067200, 1704153601], "dates, as Unix seconds"),
        (["007", "12"], ["007", "12"], "text"),
        (["1,234", "5,678"], ["1,234", "5,678"], "text"),
        (["03/04/2020"], ["03/04/2020"], "text"),
        (["red", "10"], ["red", "10"], "text"),
        (["", None], ["", None], "empty"),
    ],
)
def test_text_gets_the_type_that_all_of_its_values_have(texts: list[object], values: list[object], words: str) -> None:
    found = typed(pl.Series("x", texts, dtype=pl.String))
    assert found.values.to_list() == values
    assert [type(value) for value in found.values.to_list()] == [type(value) for value in values]
    assert found.note == f"x: {words}"


def test_the_value_that_keeps_a_column_from_being_numbers_is_named() -> None:
    found = typed(pl.Series("price", [*map(str, range(99)), "on request"]))
    assert found.values.dtype == pl.String
    assert found.note == "price: text, because 1 of 100 values are no numbers (such as 'on request')"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([Decimal("59.99")], [59.99]),
        ([date(2024, 1, 1)], [1704067200]),
        ([datetime(2024, 1, 1, tzinfo=UTC)], [1704067200]),
        ([True, None], [True, None]),
        ([1, 2], [1, 2]),
        ([["a"], ["b", "c"]], [["a"], ["b", "c"]]),
    ],
)
def test_columns_with_types_keep_them_as_far_as_json_has_them(values: list[object], expected: list[object]) -> None:
    assert typed(pl.Series("x", values)).values.to_list() == expected
