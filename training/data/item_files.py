"""Reader of item tables: titles, categories and attributes, one row per item."""

from __future__ import annotations

import ast
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import polars as pl

from model_store.errors import DataError
from model_store.source_files.column_names import Columns, find_column, find_items_key
from model_store.source_files.formats import format_suffix
from model_store.source_files.intake import LINE, Intake
from training.data.attribute_types import typed
from training.data.dataset import ItemInfo
from training.data.own_vectors import read_vectors
from training.data.tables import TableFile, collect, open_table, plain_ids, unreadable
from training.data.unread_texts import note_unread_texts

_CHUNK = 50_000  # items that are held as Python objects at a time
_SEPARATORS = ("|", ";", ",")
"""Separators of categories that are detected, the surest one first."""

ID = "item id as in the interactions"
"""Column of tables under way; no file has a column of that name."""

_SHOWN = 8  # columns that a note lists


class ItemTable(NamedTuple):
    """A table of items in order of the file, with the ids as the interactions have them."""

    rows: pl.DataFrame  # LINE; ID: String, null where empty; and the columns of the file that are used
    key: str
    title: str  # "" if there is no such column
    categories: str
    vector: str
    unused: tuple[str, ...]  # columns of the file


def read_items(
    path: Path, columns: Columns, intake: Intake, separator: str = "", item_column: str = ""
) -> dict[str, ItemInfo]:
    """Read titles, categories, attributes and vectors by item id. If an item has several rows, the first one counts.

    Attributes of text files get the types that their values have, see :mod:`training.data.attribute_types`.

    Args:
        path: A table, or a file with one Python literal per line, the format of the Amazon 2014 metadata.
        columns: Names of the columns.
        intake: Gets notes on types, separators, and columns and texts that are not used.
        separator: Text between the categories of an item; "" to detect it.
        item_column: Name of the item id in the interactions, if it is known.

    Raises:
        DataError: The item column, or a column that ``columns`` names, is missing, or the vectors are no vectors.
    """
    table = read_item_table(path, columns, intake, item_column)
    rows = table.rows.filter(pl.col(ID).is_not_null()).unique(ID, keep="first", maintain_order=True)
    if dropped := len(table.rows) - len(rows):
        intake.note(f"{path.name}: {dropped:,} rows have no item id or repeat an item: dropped, the first row counts")

    types = []
    for name in columns.attributes:
        values, note = typed(rows[_attribute(table, name)])
        rows = rows.with_columns(values)
        types.append(note)
    if types:
        intake.note(f"{path.name}: attributes {'; '.join(types)}")
    if table.unused:
        shown = ",".join(table.unused[:_SHOWN]) + (" …" if len(table.unused) > _SHOWN else "")
        intake.note(f"{path.name}: columns that are not used: {shown} (keep them with --attributes {shown})")

    split = _separator_of(rows, table, separator, path.name, intake)
    infos = _as_infos(rows, table, columns.attributes, split)
    says = note_unread_texts(path.name, infos.values(), intake)
    if not table.vector:
        return infos
    vectors = read_vectors(path.name, rows, table.vector, intake, says)
    return {item: replace(info, vector=vector) for (item, info), vector in zip(infos.items(), vectors, strict=True)}


def read_item_table(path: Path, columns: Columns, intake: Intake, item_column: str = "") -> ItemTable:
    """Read the columns of an items file that are used; for the arguments see :func:`read_items`."""
    source = open_items(path, intake)
    found = source.columns
    key = find_items_key(path.name, found, columns, item_column)
    vector = find_column(path.name, found, "vector", columns.vector) if columns.vector else ""
    title = find_column(path.name, found, "title", columns.title, required=False)
    categories = find_column(path.name, found, "categories", columns.categories, required=False)
    attributes = [find_column(path.name, found, "attributes", name) for name in columns.attributes]

    if vector and vector in (title, categories, *attributes):
        raise DataError(
            f"{path.name}: column {vector!r} is asked for as the vector, and as title, categories or an attribute too",
            "name it with --vector alone",
        )
    used = [name for name in dict.fromkeys((title, categories, *attributes, vector)) if name]
    rows = collect(path, source.rows.select(LINE, pl.col(key).cast(pl.String).alias(ID), *used))
    ids, done = plain_ids(pl.col(ID), rows[ID])
    if done:
        intake.note(f"{path.name}: item ids {done}")
    rows = rows.with_columns(ids).with_columns(pl.when(pl.col(ID) != "").then(pl.col(ID)))
    unused = tuple(name for name in found if name not in (key, *used))
    return ItemTable(rows, key, title, categories, vector, unused)


def open_items(path: Path, intake: Intake) -> TableFile:
    """Open a table with one row per item, without reading it if its format allows.

    Raises:
        DataError: It cannot be opened, or a line is not a literal.
    """
    if format_suffix(path) == ".json" and path.is_file() and _first_two_characters(path) == "{'":
        frame = pl.LazyFrame(list(_read_literals(path)), infer_schema_length=None)
        return TableFile(frame.with_row_index(LINE, 1), tuple(frame.collect_schema().names()), is_text=False)
    return open_table(path, intake)


def split_categories(value: Any, separator: str = "|") -> tuple[str, ...]:
    """Return the distinct category names of separated text, or of a list, which may be nested."""
    if value is None:
        return ()
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(separator)] if separator else [value.strip()]
        return tuple(dict.fromkeys(part for part in parts if part))
    return tuple(dict.fromkeys(name for part in value for name in split_categories(part, separator)))


def _as_infos(rows: pl.DataFrame, table: ItemTable, attributes: Sequence[str], separator: str) -> dict[str, ItemInfo]:
    kept = {name: _attribute(table, name) for name in attributes}
    info: dict[str, ItemInfo] = {}
    for part in rows.drop(table.vector or []).iter_slices(_CHUNK):
        for row in part.to_dicts():
            values = {name: row[column] for name, column in kept.items() if row[column] is not None}
            title = str(row.get(table.title) or "").strip()
            info[row[ID]] = ItemInfo(title, split_categories(row.get(table.categories), separator), values)
    return info


def _attribute(table: ItemTable, name: str) -> str:
    """Return the column of an attribute, which keeps the name under which it was asked for."""
    return find_column("items", table.rows.columns, "attributes", name)


def _separator_of(rows: pl.DataFrame, table: ItemTable, given: str, file: str, intake: Intake) -> str:
    """Return the separator of the categories; "" if each item has one category.

    ``|`` and ``;`` separate wherever they occur. A comma is part of many names (``Home, Garden``), so it separates only
    if that leaves fewer different names.
    """
    if not table.categories or rows[table.categories].dtype != pl.String:
        return given or "|"
    if given:
        return given

    texts = rows[table.categories].drop_nulls()
    for separator in _SEPARATORS:
        parts = texts.str.split(separator).explode().str.strip_chars()
        if len(parts) > len(texts) and (separator != "," or parts.n_unique() < texts.n_unique()):
            intake.note(f'{file}: categories are separated by "{separator}" (--separator sets another one)')
            return separator
    if len(texts):
        intake.note(f"{file}: each item has one category: no separator was found (--separator sets one)")
    return ""


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
