"""Readers of all supported formats: a table of interactions in time order, and item information."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from model_store.config import Section
from model_store.errors import DataError
from model_store.source_files.column_names import Columns
from model_store.source_files.csv_lines import first_line, snippet
from model_store.source_files.formats import TABLE_SUFFIXES, format_suffix
from model_store.source_files.intake import SKIPPED, Intake
from training.data.dataset import ItemInfo
from training.data.item_files import read_items
from training.data.movielens import parse_official_items
from training.data.raw import RawData, interaction_frame, split_movie_title
from training.data.tables import Log, open_log, open_text, read_logs

Format = Literal["auto", "ml-100k", "ml-1m", "recbole", "table", "amazon-ratings", "text"]

_NUMBER = re.compile(r"\d+(\.\d+)?")
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
    items_file: str = Field("", description="table with one row per item: title, categories, attributes; path or URL")
    separator: str = Field(
        "", max_length=3, description="text between the categories of an item; empty: | or ; or , as the file has it"
    )
    min_value: float | None = Field(
        None, description="interactions whose value (columns.value) is lower, or missing, are dropped"
    )
    skip_bad: bool = Field(
        False, description="skip lines that cannot be used, and list them in skipped.csv, instead of stopping"
    )
    query: str = Field("", description="SQL query for the interactions, if the source is the URL of a database")
    items_query: str = Field("", description="SQL query for the items, in the database of the source or of items_file")


def read_source(path: Path, options: ReadOptions, folder: Path | None = None) -> RawData:
    """Read a file or folder.

    Args:
        path: The source.
        options: How to read it.
        folder: Folder that gets the list of skipped lines, and converted files while this runs; default: none of the
            first, and a temporary folder for the second.

    Raises:
        DataError: It does not exist, its format is unknown, or its content is wrong.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path, or use the name ml-100k to download MovieLens-100K")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="etegrec-", dir=folder) as converted:
        report = folder / SKIPPED if folder else None
        intake = Intake(Path(converted), options.skip_bad, report)
        if report:
            report.unlink(missing_ok=True)
        raw = _read(path, options, intake)

    summarise_skipped(intake)
    return replace(raw, notes=tuple(intake.notes))


def summarise_skipped(intake: Intake) -> None:
    """Note how many lines were skipped, if any."""
    if intake.skipped:
        where = f" and listed in {SKIPPED} beside the prepared data" if intake.report else ""
        intake.note(f"{intake.skipped:,} lines cannot be used: skipped{where}")


def stream_files(path: Path, options: ReadOptions) -> list[Path]:
    """Return the files of a source that is read as a stream, in the order in which they are read.

    Raises:
        DataError: It does not exist, or its format is one that is read whole.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path")
    kind = detect_format(path) if options.format == "auto" else options.format
    if kind not in _OPENERS:
        raise DataError(f"{path.name} has the format {kind}, which several machines cannot read", "leave --ray out")
    return _parts(path, kind)


def _read(path: Path, options: ReadOptions, intake: Intake) -> RawData:
    kind = detect_format(path) if options.format == "auto" else options.format
    item_column = ""
    if kind in _OPENERS:
        logs = open_logs(path, options, intake)
        item_column = logs[0].item_column
        raw = RawData(_stem(path), read_logs(logs, intake, options.min_value))
    else:
        raw = _READERS[kind](path)
    return read_items_of(path, raw, options, intake, item_column)


def read_items_of(path: Path, raw: RawData, options: ReadOptions, intake: Intake, item_column: str) -> RawData:
    """Return the raw data of a source with its items, from beside it or from the items file.

    Raises:
        DataError: There are no interactions, or the items file cannot be used.
    """
    if raw.interactions.is_empty():
        raise DataError(f"{path.name} holds no interactions", "check the file, data.min_value and skipped lines")
    if options.items_file:
        items_file = Path(options.items_file)
        items = read_items(items_file, options.columns, intake, options.separator, item_column)
        compare_items(raw.interactions["item"], items, items_file.name, intake)
        return replace(raw, items=items)

    kind = detect_format(path) if options.format == "auto" else options.format
    return replace(raw, items=_read_recbole_items(path, intake)) if kind == "recbole" else raw


def compare_items(used: pl.Series, items: Mapping[str, ItemInfo], file: str, intake: Intake) -> None:
    """Note how interactions and items file fit together.

    Raises:
        DataError: They have no item in common.
    """
    ids = used.unique().cast(pl.String)
    known = int(ids.is_in(list(items)).sum())
    if not known:
        raise DataError(
            f"no item of {file} has interactions: its ids are like {snippet(next(iter(items), ''))}, those of the "
            f"interactions like {snippet(ids[0])}",
            "name the column with the same ids: --items-key NAME (or --set data.columns.items_key=NAME)",
        )
    intake.note(
        f"{file}: {len(items):,} items, {len(items) - known:,} of them without interactions; "
        f"{len(ids) - known:,} items with interactions are not in it"
    )


def open_logs(path: Path, options: ReadOptions, intake: Intake) -> list[Log]:
    """Open the files of a source without reading them.

    Raises:
        DataError: It does not exist, its format is unknown or a column is missing.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path")
    kind = detect_format(path) if options.format == "auto" else options.format
    if kind in _OPENERS:
        return [_OPENERS[kind](file, options, intake) for file in _parts(path, kind)]
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


def _open_table(path: Path, options: ReadOptions, intake: Intake) -> Log:
    return open_log(path, options.columns, intake, options.min_value)


def _open_amazon_ratings(path: Path, options: ReadOptions, intake: Intake) -> Log:
    headerless = ("user", "item", "rating", "timestamp")
    return open_log(path, Columns(), intake, options.min_value, headerless)


def _open_recbole(path: Path, options: ReadOptions, intake: Intake) -> Log:
    """Open an atomic ``.inter`` file, whose columns are named ``name:type``."""
    columns = options.columns
    defaults = {"user": columns.user or "user_id", "item": columns.item or "item_id"}
    return open_log(path, columns.model_copy(update=defaults), intake, options.min_value)


def _open_text(path: Path, options: ReadOptions, intake: Intake) -> Log:
    return open_text(path)


def _read_recbole_items(path: Path, intake: Intake) -> dict[str, ItemInfo]:
    """Read the ``.item`` file of a RecBole data set, if there is one."""
    if path.is_dir():
        path = _parts(path, "recbole")[0]
    item_file = path.with_suffix(".item")
    if not item_file.is_file():
        return {}
    return {key: _split_genres(info) for key, info in read_items(item_file, Columns(item="item_id"), intake).items()}


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


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


_OPENERS: dict[str, Callable[[Path, ReadOptions, Intake], Log]] = {
    "table": _open_table,
    "amazon-ratings": _open_amazon_ratings,
    "recbole": _open_recbole,
    "text": _open_text,
}
"""Formats that are read as a stream."""

_READERS: dict[str, Callable[[Path], RawData]] = {"ml-100k": _read_ml_100k, "ml-1m": _read_ml_1m}
