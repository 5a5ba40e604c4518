"""Reader of item tables: titles, categories and attributes, one row per item."""

from __future__ import annotations

import ast
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import polars as pl

from model_store.errors import DataError
from training.data.dataset import ItemInfo
from training.data.tables import Columns, collect, find_column, format_suffix, read_table, schema_of, unreadable

_CHUNK = 50_000  # items that are held as Python objects at a time


def read_items(path: Path, columns: Columns, known: pl.Series | None = None) -> dict[str, ItemInfo]:
    """Read titles, categories and attributes by item id. If an item has several rows, the first one counts.

    Args:
        path: A table, or a file with one Python literal per line, the format of the Amazon 2014 metadata.
        columns: Names of the columns.
        known: Ids of the items to read; default: all.

    Raises:
        DataError: The item column, or a column that ``columns`` names, is missing.
    """
    table = open_items(path)

    found = schema_of(path, table).names()
    item = find_column(path, found, "item", columns.item)
    title = find_column(path, found, "title", columns.title, required=bool(columns.title))
    categories = find_column(path, found, "categories", columns.categories, required=bool(columns.categories))
    for name in columns.attributes:
        find_column(path, found, "attributes", name)

    kept = [name for name in dict.fromkeys((item, title, categories, *columns.attributes)) if name]
    table = table.select(kept)
    if known is not None:
        ids = pl.LazyFrame({"known": known.cast(pl.String)})
        table = table.join(
            ids, left_on=pl.col(item).cast(pl.String), right_on="known", how="semi", maintain_order="left"
        )

    info: dict[str, ItemInfo] = {}
    for rows in collect(path, table).iter_slices(_CHUNK):
        for row in rows.to_dicts():
            attributes = {name: row[name] for name in columns.attributes if row[name] is not None}
            entry = ItemInfo(str(row.get(title) or "").strip(), split_categories(row.get(categories)), attributes)
            info.setdefault(str(row[item]), entry)
    return info


def open_items(path: Path) -> pl.LazyFrame:
    """Open a table with one row per item, without reading it if its format allows.

    Raises:
        DataError: It cannot be opened, or a line is not a literal.
    """
    if format_suffix(path) == ".json" and path.is_file() and _first_two_characters(path) == "{'":
        return pl.LazyFrame(list(_read_literals(path)), infer_schema_length=None)
    return read_table(path)


def split_categories(value: Any) -> tuple[str, ...]:
    """Return the distinct category names of text that is separated by ``|``, or of a list, which may be nested."""
    if value is None:
        return ()
    if isinstance(value, str):
        parts = [part.strip() for part in value.split("|")]
        return tuple(dict.fromkeys(part for part in parts if part))
    return tuple(dict.fromkeys(name for part in value for name in split_categories(part)))


def _open_text(path: Path) -> IO[str]:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _first_two_characters(path: Path) -> str:
    try:
        with _open_text(path) as lines:
            return lines.read(2)
    except (OSError, EOFError, UnicodeDecodeError) as cause:
        raise unreadable(path, cause) from cause


def _read_literals(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the dictionaries of a file with one Python literal per line, without values that tables cannot hold."""
    with _open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                value = ast.literal_eval(line)
                yield {name: part for name, part in value.items() if not isinstance(part, dict)}
            except (ValueError, SyntaxError, AttributeError) as cause:
                raise DataError(f"{path.name} line {number} is not a dictionary: {cause}") from cause
