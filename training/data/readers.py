"""Reads any supported source into one shape: a table of interactions in time order, and what is known of the items."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from model_store.config import Section
from model_store.errors import DataError
from training.data.dataset import ItemInfo
from training.data.movielens import parse_official_items
from training.data.raw import RawData, interaction_frame, split_movie_title
from training.data.tables import TABLE_SUFFIXES, Columns, format_suffix, read_interactions, read_items

Format = Literal["auto", "ml-100k", "ml-1m", "recbole", "table", "amazon-ratings", "text"]

_SPACED_GENRES = re.compile(r"\s+")


class ReadOptions(Section):
    """How to read a source."""

    format: Format = Field(
        "auto",
        description="auto: by name and suffix; table: CSV, Parquet or JSON lines; amazon-ratings: CSV without a header "
        "(user, item, rating, time); text: a user and the items in time order on each line",
    )
    columns: Columns = Columns()
    items_file: str = Field("", description="table with a row an item: title, categories, attributes")


def read_source(path: Path, options: ReadOptions) -> RawData:
    """Read a file or folder.

    Raises:
        DataError: It does not exist, its format is unknown, or it cannot be used as it is.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path, or use the name ml-100k to fetch MovieLens-100K")
    kind = detect_format(path) if options.format == "auto" else options.format
    raw = _READERS[kind](path, options)
    if raw.interactions.is_empty():
        raise DataError(f"{path.name} holds no interactions")
    if options.items_file:
        return RawData(raw.name, raw.interactions, read_items(Path(options.items_file), options.columns))
    return raw


def detect_format(path: Path) -> Format:
    """The format by content of a folder or zip, else by suffix.

    Raises:
        DataError: It is none of the known ones.
    """
    suffix = format_suffix(path)
    if suffix == ".inter":
        return "recbole"
    if suffix in TABLE_SUFFIXES:
        return "table"
    if suffix == ".txt":
        return "text"
    names = _member_names(path)
    for file, kind in (("ratings.dat", "ml-1m"), ("u.data", "ml-100k")):
        if any(Path(name).name == file for name in names):
            return kind  # type: ignore[return-value]
    if path.is_dir() and any(name.endswith(".inter") for name in names):
        return "recbole"
    raise DataError(
        f"the format of {path.name} is not recognised",
        "set the format: " + ", ".join(kind for kind in _READERS),
    )


def source_files(path: Path) -> list[Path]:
    """The files that decide what reading a source gives, sorted."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    sibling = path.with_suffix(".item")
    return [path, sibling] if path.suffix == ".inter" and sibling.is_file() else [path]


def _read_table(path: Path, options: ReadOptions) -> RawData:
    return RawData(_stem(path), read_interactions(path, options.columns))


def _read_amazon_ratings(path: Path, options: ReadOptions) -> RawData:
    return RawData(_stem(path), read_interactions(path, Columns(), headerless=("user", "item", "rating", "timestamp")))


def _read_recbole(path: Path, options: ReadOptions) -> RawData:
    """An atomic ``.inter`` file (``name:type`` columns) with its ``.item`` file, if there is one."""
    if path.is_dir():
        path = next(iter(sorted(path.glob("*.inter"))))
    frame = read_interactions(path, _typed_columns(path, options.columns, ("user_id", "item_id", "timestamp")))
    item_file = path.with_suffix(".item")
    if not item_file.is_file():
        return RawData(_stem(path), frame)
    found = _header(item_file)
    title = next((name for name in found if name.split(":")[0] in ("movie_title", "title", "name")), "")
    genres = next((name for name in found if name.split(":")[0] in ("class", "genre", "genres", "categories")), "")
    columns = Columns(item=_typed(item_file, found, "item_id"), title=title, categories=genres)
    items = read_items(item_file, columns)
    return RawData(_stem(path), frame, {key: _split_genres(info) for key, info in items.items()})


def _split_genres(info: ItemInfo) -> ItemInfo:
    genres = [genre for part in info.categories for genre in _SPACED_GENRES.split(part)]
    return ItemInfo(info.title, tuple(dict.fromkeys(genres)), info.attributes)


def _read_ml_1m(path: Path, options: ReadOptions) -> RawData:
    """``ratings.dat`` (``user::item::rating::time``) and ``movies.dat`` (``item::title (year)::genre|genre``)."""
    ratings = _split_lines("ratings.dat", _member(path, "ratings.dat"), "::", 4)
    items = {}
    for item, title, genres in _split_lines("movies.dat", _member(path, "movies.dat"), "::", 3):
        name, attributes = split_movie_title(title)
        items[item] = ItemInfo(name, tuple(genres.split("|")), dict(attributes))
    return RawData("ml-1m", interaction_frame("ratings.dat", ratings), items)


def _read_ml_100k(path: Path, options: ReadOptions) -> RawData:
    ratings = _split_lines("u.data", _member(path, "u.data"), "\t", 4)
    return RawData("ml-100k", interaction_frame("u.data", ratings), parse_official_items(_member(path, "u.item")))


def _read_text(path: Path, options: ReadOptions) -> RawData:
    """``user item item …`` on each line, oldest first; a user on several lines is one sequence."""
    users: list[str] = []
    items: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as cause:
        raise DataError(f"{path.name} is not UTF-8 text: {cause.reason} at byte {cause.start}") from cause
    for number, line in enumerate(lines, start=1):
        user, *sequence = line.split() or [""]
        if user and not sequence:
            raise DataError(f"{path.name} line {number}: user {user[:40]!r} has no items", "remove the line")
        users += [user] * len(sequence)
        items += sequence
    schema = {"user": pl.String, "item": pl.String}
    frame = pl.DataFrame({"user": users, "item": items}, schema=schema)
    return RawData(_stem(path), frame.with_columns(pl.lit(0, dtype=pl.Int64).alias("timestamp")))


def _split_lines(name: str, text: bytes, separator: str, fields: int) -> list[list[str]]:
    rows = [line.split(separator) for line in text.decode("latin-1").split("\n") if line.strip()]
    rows[:] = [[field.rstrip("\r") for field in row] for row in rows]
    for number, row in enumerate(rows, start=1):
        if len(row) != fields:
            raise DataError(f"{name} line {number}: {len(row)} fields instead of {fields}")
    return rows


def _member_names(path: Path) -> list[str]:
    if path.is_dir():
        return [file.name for file in path.iterdir()]
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _member(path: Path, file: str) -> bytes:
    """One file of a folder or zip, wherever the zip has it."""
    if path.is_dir():
        if not (path / file).is_file():
            raise DataError(f"{path.name} has no file {file}")
        return (path / file).read_bytes()
    found = [name for name in _member_names(path) if Path(name).name == file]
    if not found:
        raise DataError(f"{path.name} has no file {file}")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        return archive.read(found[0])


def _typed_columns(path: Path, columns: Columns, defaults: tuple[str, str, str]) -> Columns:
    found = _header(path)
    user, item, time = (
        _typed(path, found, named or default)
        for named, default in zip((columns.user, columns.item, columns.timestamp), defaults, strict=True)
    )
    return Columns(user=user, item=item, timestamp=time)


def _typed(path: Path, found: list[str], name: str) -> str:
    match = next((column for column in found if column.split(":")[0] == name), "")
    if not match and name != "timestamp":
        raise DataError(f"{path.name} has no column {name!r}; its columns are {', '.join(found)}")
    return match


def _header(path: Path) -> list[str]:
    with path.open("rb") as lines:
        first = lines.readline()
    try:
        return first.decode().rstrip("\r\n").split("\t")
    except UnicodeDecodeError as cause:
        raise DataError(f"{path.name} is not UTF-8 text: {cause.reason} at byte {cause.start}") from cause


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


_READERS: dict[str, Callable[[Path, ReadOptions], RawData]] = {
    "ml-100k": _read_ml_100k,
    "ml-1m": _read_ml_1m,
    "recbole": _read_recbole,
    "table": _read_table,
    "amazon-ratings": _read_amazon_ratings,
    "text": _read_text,
}
