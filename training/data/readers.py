"""Readers of all supported formats: a table of interactions in time order, and item information."""

from __future__ import annotations

import gzip
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
from training.data.item_files import read_items
from training.data.movielens import parse_official_items
from training.data.raw import RawData, interaction_frame, split_movie_title
from training.data.tables import TABLE_SUFFIXES, Columns, Log, format_suffix, open_log, open_text, read_logs, unreadable

Format = Literal["auto", "ml-100k", "ml-1m", "recbole", "table", "amazon-ratings", "text"]

_NUMBER = re.compile(r"\d+(\.\d+)?")
_LONGEST_HEADER = 1 << 20
_SPACED_GENRES = re.compile(r"\s+")


class ReadOptions(Section):
    """Options for reading a source."""

    format: Format = Field(
        "auto",
        description="auto: by name and suffix; table: CSV, Parquet or JSON lines; amazon-ratings: CSV without a header "
        "(user, item, rating, time), recognised by its first line; text: each line has a user and the items in time "
        "order; the tables of a folder, all in one format, are read one after the other by file name",
    )
    columns: Columns = Columns()
    items_file: str = Field("", description="table with one row per item: title, categories, attributes")


def read_source(path: Path, options: ReadOptions) -> RawData:
    """Read a file or folder.

    Raises:
        DataError: It does not exist, its format is unknown, or its content is wrong.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path, or use the name ml-100k to download MovieLens-100K")

    kind = detect_format(path) if options.format == "auto" else options.format
    if kind in _OPENERS:
        items = _read_recbole_items(path) if kind == "recbole" else {}
        raw = RawData(_stem(path), read_logs(open_logs(path, options)), items)
    else:
        raw = _READERS[kind](path)
    if raw.interactions.is_empty():
        raise DataError(f"{path.name} holds no interactions")

    if options.items_file:
        return RawData(raw.name, raw.interactions, read_items(Path(options.items_file), options.columns))
    return raw


def open_logs(path: Path, options: ReadOptions) -> list[Log]:
    """Open the files of a source without reading them.

    Raises:
        DataError: It does not exist, its format is unknown or a column is missing.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path")
    kind = detect_format(path) if options.format == "auto" else options.format
    if kind in _OPENERS:
        return [_OPENERS[kind](file, options) for file in _parts(path, kind)]
    frame = _READERS[kind](path).interactions
    rows = frame.lazy().select(pl.col("user", "item").cast(pl.String), time="timestamp").with_row_index("line", 1)
    return [Log(path, rows, has_time=True)]


def detect_format(path: Path) -> Format:
    """Detect the format by the suffix of a file, or by the names of the files in a folder or zip.

    Raises:
        DataError: The format is unknown.
    """
    suffix = format_suffix(path)
    if suffix == ".inter":
        return "recbole"
    if suffix == ".csv" and path.is_file() and _is_amazon_ratings(path):
        return "amazon-ratings"
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
    if path.is_dir() and any(format_suffix(Path(name)) in TABLE_SUFFIXES for name in names):
        return "table"

    raise DataError(
        f"the format of {path.name} is not recognised",
        "set data.format to one of " + ", ".join((*_OPENERS, *_READERS)),
    )


def source_files(path: Path) -> list[Path]:
    """Return all files that the result of reading a source depends on, sorted."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    sibling = path.with_suffix(".item")
    return [path, sibling] if path.suffix == ".inter" and sibling.is_file() else [path]


def _parts(path: Path, kind: str) -> list[Path]:
    """Return the files of a source: the file itself, or the files of a folder that have the format, by name."""
    if not path.is_dir():
        return [path]

    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith((".", "_")))
    if kind == "recbole":
        return [file for file in files if file.suffix == ".inter"][:1]

    suffixes = (".txt",) if kind == "text" else TABLE_SUFFIXES
    parts = [file for file in files if format_suffix(file) in suffixes]
    if len({format_suffix(part) for part in parts}) != 1:
        raise DataError(
            f"the folder {path.name} must hold tables in one format, not {', '.join(part.name for part in parts[:5])}",
            "name a single file, or move the other tables to another folder",
        )
    return parts


def _is_amazon_ratings(path: Path) -> bool:
    """Return whether a CSV file has no header and the four columns of the Amazon rating files."""
    fields = first_line(path).split(",")
    return len(fields) == 4 and all(_NUMBER.fullmatch(field) for field in fields[2:])


def _open_table(path: Path, options: ReadOptions) -> Log:
    return open_log(path, options.columns)


def _open_amazon_ratings(path: Path, options: ReadOptions) -> Log:
    return open_log(path, Columns(), headerless=("user", "item", "rating", "timestamp"))


def _open_recbole(path: Path, options: ReadOptions) -> Log:
    """Open an atomic ``.inter`` file, whose columns are named ``name:type``."""
    return open_log(path, _typed_columns(path, options.columns, ("user_id", "item_id", "timestamp")))


def _open_text(path: Path, options: ReadOptions) -> Log:
    return open_text(path)


def _read_recbole_items(path: Path) -> dict[str, ItemInfo]:
    """Read the ``.item`` file of a RecBole data set, if there is one."""
    if path.is_dir():
        path = _parts(path, "recbole")[0]
    item_file = path.with_suffix(".item")
    if not item_file.is_file():
        return {}

    found = _header(item_file)
    title = next((name for name in found if name.split(":")[0] in ("movie_title", "title", "name")), "")
    genres = next((name for name in found if name.split(":")[0] in ("class", "genre", "genres", "categories")), "")
    columns = Columns(item=_find_typed(item_file, found, "item_id"), title=title, categories=genres)
    items = read_items(item_file, columns)
    return {key: _split_genres(info) for key, info in items.items()}


def _split_genres(info: ItemInfo) -> ItemInfo:
    genres = [genre for part in info.categories for genre in _SPACED_GENRES.split(part)]
    return ItemInfo(info.title, tuple(dict.fromkeys(genres)), info.attributes)


def _read_ml_1m(path: Path) -> RawData:
    """Read ``ratings.dat`` (``user::item::rating::time``) and ``movies.dat`` (``item::title (year)::genre|genre``)."""
    ratings = _split_lines("ratings.dat", _member(path, "ratings.dat"), "::", 4)
    items = {}
    for item, title, genres in _split_lines("movies.dat", _member(path, "movies.dat"), "::", 3):
        name, attributes = split_movie_title(title)
        items[item] = ItemInfo(name, tuple(genres.split("|")), dict(attributes))
    return RawData("ml-1m", interaction_frame("ratings.dat", ratings), items)


def _read_ml_100k(path: Path) -> RawData:
    ratings = _split_lines("u.data", _member(path, "u.data"), "\t", 4)
    return RawData("ml-100k", interaction_frame("u.data", ratings), parse_official_items(_member(path, "u.item")))


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
    """Read one file of a folder, or of a zip, in any folder of it."""
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
        _find_typed(path, found, named or default)
        for named, default in zip((columns.user, columns.item, columns.timestamp), defaults, strict=True)
    )
    return Columns(user=user, item=item, timestamp=time)


def _find_typed(path: Path, found: list[str], name: str) -> str:
    match = next((column for column in found if column.split(":")[0] == name), "")
    if not match and name != "timestamp":
        raise DataError(f"{path.name} has no column {name!r}; its columns are {', '.join(found)}")
    return match


def _header(path: Path) -> list[str]:
    return first_line(path).split("\t")


def first_line(path: Path) -> str:
    """Return the first line of a text file, which may be compressed.

    Raises:
        DataError: It is not text.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            return lines.readline(_LONGEST_HEADER).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as cause:
        raise DataError(f"{path.name} is not UTF-8 text: {cause.reason} at byte {cause.start}") from cause
    except (OSError, EOFError) as cause:
        raise unreadable(path, cause) from cause


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


_OPENERS: dict[str, Callable[[Path, ReadOptions], Log]] = {
    "table": _open_table,
    "amazon-ratings": _open_amazon_ratings,
    "recbole": _open_recbole,
    "text": _open_text,
}
"""Formats that are read as a stream."""

_READERS: dict[str, Callable[[Path], RawData]] = {"ml-100k": _read_ml_100k, "ml-1m": _read_ml_1m}
