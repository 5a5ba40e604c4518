"""Interactions and items from CSV, Parquet and JSON lines, with mapped columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from model_store.config import Section
from model_store.errors import DataError
from training.data.dataset import ItemInfo

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t"}
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json")
"""Suffixes that :func:`read_table` understands; text ones may end with ``.gz`` too."""

_NAMES = {
    "user": ("user_id", "user", "userId", "reviewerID"),
    "item": ("item_id", "item", "parent_asin", "asin", "itemId", "movieId"),
    "timestamp": ("timestamp", "unixReviewTime", "unix_time", "time", "ts"),
    "title": ("title", "movie_title", "name"),
    "categories": ("categories", "category", "genres", "class"),
}
"""Column names that are recognised without a mapping, the preferred first."""

_UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
"""If the newest timestamp reaches the first number, all are taken to count the second number a second (10**11 s is the
year 5138)."""


class Columns(Section):
    """Which column holds what; empty: the usual names are tried."""

    user: str = Field("", description="column of the user id")
    item: str = Field("", description="column of the item id")
    timestamp: str = Field("", description="column of the time: Unix time in s, ms, µs or ns, or an ISO 8601 date")
    title: str = Field("", description="column of the title, in the items file")
    categories: str = Field(
        "", description="column of the categories, in the items file: a list, or text with | between"
    )
    attributes: tuple[str, ...] = Field((), description="further columns of the items file to keep")


def format_suffix(path: Path) -> str:
    """The suffix that tells the format: lower case, without a final ``.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_table(path: Path, headerless: Sequence[str] = ()) -> pl.LazyFrame:
    """Open a table without reading all of it; CSV columns are text, so that ids keep leading zeros.

    Args:
        path: A file with one of :data:`TABLE_SUFFIXES`.
        headerless: Names of the columns of a CSV file whose first line is data already.

    Raises:
        DataError: The suffix is unknown, or the file is missing or empty.
    """
    suffix = format_suffix(path)
    if suffix not in (*TABLE_SUFFIXES, *SEPARATORS):
        raise DataError(f"{path.name}: unknown format {suffix!r}", f"known are {', '.join(TABLE_SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path} does not exist", "check the path")
    if not path.stat().st_size:
        raise DataError(f"{path.name} is empty")
    if suffix == ".parquet":
        return pl.scan_parquet(path)
    if suffix in SEPARATORS:
        quote = '"' if suffix == ".csv" else None
        return pl.scan_csv(
            path,
            separator=SEPARATORS[suffix],
            has_header=not headerless,
            new_columns=headerless or None,
            infer_schema=False,
            quote_char=quote,
            glob=False,
        )
    return pl.scan_ndjson(path, infer_schema_length=1000)


def read_interactions(path: Path, columns: Columns, headerless: Sequence[str] = ()) -> pl.DataFrame:
    """Read ``user``, ``item`` and ``timestamp``, sorted by time, ties in file order.

    Without a timestamp column the file order counts and timestamps are 0. ``headerless`` as in :func:`read_table`.

    Raises:
        DataError: A column is missing, a value is empty or a timestamp does not parse; the line is named.
    """
    table = read_table(path, headerless)
    try:
        found = table.collect_schema().names()
        names = {kind: find_column(path, found, kind, getattr(columns, kind)) for kind in ("user", "item")}
        time_column = find_column(path, found, "timestamp", columns.timestamp, required=bool(columns.timestamp))
        wanted = [pl.col(name).cast(pl.String).alias(kind) for kind, name in names.items()]
        wanted.append((pl.col(time_column) if time_column else pl.lit(0)).alias("timestamp"))
        frame = table.select(wanted).collect()
    except (pl.exceptions.PolarsError, OSError, EOFError) as cause:
        raise DataError(f"{path.name} cannot be read: {cause}", "check that it is what its suffix says") from cause
    first_line = 2 if not headerless and format_suffix(path) in SEPARATORS else 1
    for kind in ("user", "item"):
        _refuse_rows(path, frame[kind].is_null() | (frame[kind] == ""), frame[kind], f"{kind} id is empty", first_line)
    frame = frame.with_columns(_unix_time(path, frame["timestamp"], first_line))
    frame = frame.sort("timestamp", maintain_order=True)
    newest = frame["timestamp"][-1] if frame.height else 0
    per_second = next((unit for least, unit in _UNITS if newest >= least), 1)
    return frame.with_columns(pl.col("timestamp") // per_second)


def read_items(path: Path, columns: Columns) -> dict[str, ItemInfo]:
    """Read titles, categories and attributes by item id; the first row of an item counts.

    Raises:
        DataError: The item column, or one that was named, is missing.
    """
    table = read_table(path)
    try:
        found = table.collect_schema().names()
        item = find_column(path, found, "item", columns.item)
        title = find_column(path, found, "title", columns.title, required=bool(columns.title))
        categories = find_column(path, found, "categories", columns.categories, required=bool(columns.categories))
        for name in columns.attributes:
            find_column(path, found, "attributes", name)
        kept = [name for name in dict.fromkeys((item, title, categories, *columns.attributes)) if name]
        rows = table.select(kept).collect().to_dicts()
    except (pl.exceptions.PolarsError, OSError, EOFError) as cause:
        raise DataError(f"{path.name} cannot be read: {cause}", "check that it is what its suffix says") from cause
    info: dict[str, ItemInfo] = {}
    for row in rows:
        attributes = {name: row[name] for name in columns.attributes if row[name] is not None}
        entry = ItemInfo(str(row.get(title) or "").strip(), split_categories(row.get(categories)), attributes)
        info.setdefault(str(row[item]), entry)
    return info


def find_column(path: Path, found: Sequence[str], kind: str, named: str, required: bool = True) -> str:
    """The column that holds ``kind``: the named one, else one with a usual name, else "" if it is not required.

    Raises:
        DataError: There is none; the message lists the columns that there are.
    """
    candidates = (named,) if named else _NAMES.get(kind, ())
    for name in candidates:
        if name in found:
            return name
    if not required:
        return ""
    wanted = f"no column {named!r}" if named else f"no {kind} column ({', '.join(candidates)})"
    raise DataError(
        f"{path.name} has {wanted}; its columns are {', '.join(found)}", f"name the column with columns.{kind}"
    )


def split_categories(value: Any) -> tuple[str, ...]:
    """Distinct category names from text with ``|`` between them, or from a list, lists inside included."""
    if value is None:
        return ()
    if isinstance(value, str):
        parts = [part.strip() for part in value.split("|")]
        return tuple(dict.fromkeys(part for part in parts if part))
    return tuple(dict.fromkeys(name for part in value for name in split_categories(part)))


def _unix_time(path: Path, times: pl.Series, first_line: int) -> pl.Series:
    """Int64 in the unit that the file uses; dates in microseconds, so that their order is kept."""
    if times.dtype == pl.String:
        numbers = times.str.strip_chars().cast(pl.Float64, strict=False)
        if numbers.null_count() == len(times) > 0:
            parsed = times.str.to_datetime(strict=False, time_unit="us", time_zone="UTC", format=None)
            _refuse_rows(path, parsed.is_null(), times, "timestamp is neither Unix time nor ISO 8601", first_line)
            return parsed.dt.epoch("us").rename("timestamp")
        exact = times.str.strip_chars().cast(pl.Int64, strict=False)  # a float cannot hold nanoseconds
        result = exact.fill_null(numbers.fill_nan(None).cast(pl.Int64, strict=False))
    elif times.dtype.is_temporal():
        result = times.cast(pl.Datetime("us")).dt.epoch("us")
    else:
        result = times.cast(pl.Int64, strict=False)
    bad = result.is_null() | (result < 0)
    _refuse_rows(path, bad, times, "timestamp is neither Unix time nor ISO 8601", first_line)
    return result.rename("timestamp")


def _refuse_rows(path: Path, bad: pl.Series, values: pl.Series, problem: str, first_line: int) -> None:
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError(
            f"{path.name} line {row + first_line}: {problem}: {str(values[row])[:40]!r}",
            f"{bad.sum()} of {len(bad)} lines have this problem: correct or remove them",
        )
