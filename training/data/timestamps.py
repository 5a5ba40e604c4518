"""Parsing of times to whole numbers: Unix time in s, ms, µs or ns, and ISO 8601 dates."""

from __future__ import annotations

import polars as pl

DATE_UNIT = 10**6
"""Units per second of dates: they become microseconds, which keeps their order."""

_ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def has_dates(values: pl.Series) -> bool:
    """Return whether a column holds dates, judged by its type or, if it holds text, by the given values."""
    if values.dtype.is_temporal():
        return True
    if values.dtype != pl.String:
        return False
    numbers = _strip(pl.col(values.name)).cast(pl.Float64, strict=False)
    return values.to_frame().select(parse_iso(pl.col(values.name)).is_not_null() & numbers.is_null()).to_series().any()


def parse_time(column: pl.Expr, dtype: pl.DataType, dates: bool) -> pl.Expr:
    """Parse times to Int64 in the column's own unit (dates: :data:`DATE_UNIT`), null where a value is not a time."""
    if dtype.is_temporal():
        number = column.cast(pl.Datetime("us")).dt.epoch("us")
    elif dtype != pl.String:
        number = column.cast(pl.Int64, strict=False)
    elif dates:
        number = parse_iso(column)
    else:
        text = _strip(column)
        decimal = text.cast(pl.Float64, strict=False).fill_nan(None).cast(pl.Int64, strict=False)
        number = pl.coalesce(text.cast(pl.Int64, strict=False), decimal)  # a float cannot hold nanoseconds
    return pl.when(number >= 0).then(number)


def parse_iso(column: pl.Expr) -> pl.Expr:
    """Parse ISO 8601 dates to Int64 in :data:`DATE_UNIT`, null where a value is not a date; without a zone: UTC."""
    text = _strip(column).str.replace("T", " ", literal=True)
    parsed = [text.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC") for form in _ISO_FORMATS]
    return pl.coalesce(parsed).dt.epoch("us")


def _strip(column: pl.Expr) -> pl.Expr:
    return column.str.strip_chars()
