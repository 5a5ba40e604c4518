"""Times of many spellings as whole numbers: Unix time in s, ms, µs or ns, and ISO 8601 dates."""

from __future__ import annotations

import polars as pl

UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
"""A number that reaches the first is taken to count the second a second (10**11 s is the year 5138)."""

DATE_UNIT = 10**6
"""Dates become microseconds, so that their order is kept."""

_ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def is_date(values: pl.Series) -> bool:
    """Whether a column holds dates, judged by its type, and by its first values where that is text."""
    if values.dtype.is_temporal():
        return True
    if values.dtype != pl.String:
        return False
    numbers = _stripped(pl.col(values.name)).cast(pl.Float64, strict=False)
    return values.to_frame().select(_iso(pl.col(values.name)).is_not_null() & numbers.is_null()).to_series().any()


def whole_number(column: pl.Expr, dtype: pl.DataType, dates: bool) -> pl.Expr:
    """Int64 in the column's own unit (dates: :data:`DATE_UNIT`), null where a value is no time."""
    if dtype.is_temporal():
        number = column.cast(pl.Datetime("us")).dt.epoch("us")
    elif dtype != pl.String:
        number = column.cast(pl.Int64, strict=False)
    elif dates:
        number = _iso(column)
    else:
        text = _stripped(column)
        decimal = text.cast(pl.Float64, strict=False).fill_nan(None).cast(pl.Int64, strict=False)
        number = pl.coalesce(text.cast(pl.Int64, strict=False), decimal)  # a float cannot hold nanoseconds
    return pl.when(number >= 0).then(number)


def per_second(newest: int) -> int:
    """How many units a second has, judged by the largest number."""
    return next((unit for least, unit in UNITS if newest >= least), 1)


def _iso(column: pl.Expr) -> pl.Expr:
    text = _stripped(column).str.replace("T", " ", literal=True)
    parsed = [text.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC") for form in _ISO_FORMATS]
    return pl.coalesce(parsed).dt.epoch("us")


def _stripped(column: pl.Expr) -> pl.Expr:
    return column.str.strip_chars()
