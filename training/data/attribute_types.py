"""Types of attributes from text: numbers, booleans, and dates as Unix seconds; other columns stay text.

The service's filters compare numbers. A column becomes one only if every value that is not missing is a number, so that
no item loses its value without a word.
"""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from model_store.source_files.csv_lines import snippet
from training.data.timestamps import DATE_UNIT, parse_iso

_MISSING = ("", "null", "none", "nan", "n/a", "na", "\\n")
_TRUE = ("true", "yes")
_FALSE = ("false", "no")
_WHOLE = r"^[+-]?(0|[1-9]\d{0,17})$"  # no leading zeros: those are codes, not numbers
_NUMBER = r"^[+-]?(0|[1-9]\d*)?(\.\d+|\d\.?)([eE][+-]?\d+)?$"
_DECIMAL_COMMA = r"^[+-]?(0|[1-9]\d*),\d+$"
_THOUSANDS = r"^[+-]?[1-9]\d{0,2},\d{3}$"
_NEARLY = 0.9
"""Share of numbers in a text column from which on the first value that is none is named."""


class Typed(NamedTuple):
    """A column with its type, and a note for people."""

    values: pl.Series
    note: str


def typed(column: pl.Series) -> Typed:
    """Return a column of an items file with the type that its values have.

    Columns that have types already keep them; dates become Unix seconds and decimals floats, as JSON has neither.
    """
    name = column.name
    if column.dtype.is_temporal():
        if column.dtype == pl.Time or column.dtype == pl.Duration:
            return Typed(column.cast(pl.String), f"{name}: text")
        return Typed(column.cast(pl.Datetime("us")).dt.epoch("s"), f"{name}: dates, as Unix seconds")
    if column.dtype.is_decimal():
        return Typed(column.cast(pl.Float64), f"{name}: numbers")
    if column.dtype != pl.String:
        return Typed(column, f"{name}: {_name_of(column.dtype)}")
    return _from_text(column)


def _from_text(column: pl.Series) -> Typed:
    name = column.name
    text = column.str.strip_chars()
    low = text.str.to_lowercase()
    is_missing = text.is_null() | low.is_in(_MISSING)
    filled = text.filter(~is_missing)
    if filled.is_empty():
        return Typed(column, f"{name}: empty")
    text = text.to_frame().select(pl.when(~is_missing).then(pl.col(name))).to_series()

    if filled.str.to_lowercase().is_in([*_TRUE, *_FALSE]).all():
        flags = pl.when(text.is_not_null()).then(text.str.to_lowercase().is_in(_TRUE))
        return Typed(pl.select(flags.alias(name)).to_series(), f"{name}: true or false")
    if filled.str.contains(_WHOLE).all():
        return Typed(text.cast(pl.Int64), f"{name}: whole numbers")
    if _are_numbers(filled).all():
        return Typed(text.cast(pl.Float64), f"{name}: numbers")
    if _are_numbers(filled.str.replace(",", ".", literal=True)).all() and _have_decimal_comma(filled):
        return Typed(text.str.replace(",", ".", literal=True).cast(pl.Float64), f"{name}: numbers with a decimal comma")

    dates = text.to_frame().select(parse_iso(pl.col(name)) // DATE_UNIT).to_series()
    if dates.null_count() == int(is_missing.sum()):
        return Typed(dates, f"{name}: dates, as Unix seconds")
    return Typed(column, f"{name}: text{_nearly(filled)}")


def _are_numbers(column: pl.Series) -> pl.Series:
    return column.str.contains(_WHOLE) | column.str.contains(_NUMBER)


def _have_decimal_comma(column: pl.Series) -> bool:
    """Return whether commas are decimal commas for certain: ``1,234`` alone could be a thousand."""
    with_comma = column.filter(column.str.contains(",", literal=True))
    return bool(with_comma.str.contains(_DECIMAL_COMMA).all() and not with_comma.str.contains(_THOUSANDS).all())


def _nearly(filled: pl.Series) -> str:
    """Name the first value that keeps a column from being numbers, if most are; "" otherwise."""
    is_number = _are_numbers(filled)
    if is_number.mean() < _NEARLY:  # type: ignore[operator]  # the mean of booleans is a number
        return ""
    others = filled.filter(~is_number)
    return f", because {len(others):,} of {len(filled):,} values are no numbers (such as {snippet(others[0])})"


def _name_of(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "whole numbers"
    if dtype.is_numeric():
        return "numbers"
    return "true or false" if dtype == pl.Boolean else "as in the file"
