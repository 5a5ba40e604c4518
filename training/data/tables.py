"""Streamed interactions from CSV, Parquet and JSON lines with mapped columns, and from lines of text.

A :class:`Log` is a query and holds no data. Reading it needs 16 bytes per interaction, and each distinct id once,
whatever the size of the file, compressed or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import Field

from model_store.config import Section
from model_store.errors import DataError
from training.data.numbering import categorical, stable_order
from training.data.timestamps import has_dates, parse_time, units_per_second

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t"}
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json")
"""Suffixes that :func:`read_table` accepts; text files may also end with ``.gz``."""

_NAMES = {
    "user": ("user_id", "user", "userId", "reviewerID"),
    "item": ("item_id", "item", "parent_asin", "asin", "itemId", "movieId"),
    "timestamp": ("timestamp", "unixReviewTime", "unix_time", "time", "ts"),
    "title": ("title", "movie_title", "name"),
    "categories": ("categories", "category", "genres", "class"),
}
"""Column names that are recognised without a mapping, in order of preference."""

_SAMPLE = 1000  # times that are read to tell whether a column holds dates or numbers


class Columns(Section):
    """Names of the columns; where one is empty, the usual names are tried."""

    user: str = Field("", description="column of the user id")
    item: str = Field("", description="column of the item id")
    timestamp: str = Field("", description="column of the time: Unix time in s, ms, µs or ns, or an ISO 8601 date")
    title: str = Field("", description="column of the title, in the items file")
    categories: str = Field(
        "", description="column of the categories, in the items file: a list, or text separated by |"
    )
    attributes: tuple[str, ...] = Field((), description="further columns of the items file to keep")


def format_suffix(path: Path) -> str:
    """Return the suffix that tells the format, in lower case and without a final ``.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_table(path: Path, headerless: Sequence[str] = ()) -> pl.LazyFrame:
    """Open a table without reading all of it. CSV columns are text, so that ids keep leading zeros.

    Args:
        path: A file with one of :data:`TABLE_SUFFIXES`.
        headerless: Names of the columns of a CSV file without a header.

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


@dataclass(frozen=True)
class Log:
    """Interactions of one file as a query that has not run yet."""

    path: Path
    rows: pl.LazyFrame  # user, item: String; time: as in the file, if it has one; line: number from 1
    has_time: bool
    dates: bool = False  # times are dates, not numbers
    no_item: str = "item id is empty"  # error message for an empty item

    @property
    def time(self) -> pl.Expr:
        """The time as a whole number, null where it does not parse; always 0 if the file has no times."""
        if not self.has_time:
            return pl.lit(0, dtype=pl.Int64)
        return parse_time(pl.col("time"), self.rows.collect_schema()["time"], self.dates)

    def offenders(self, condition: pl.Expr, column: str, most: int) -> list[tuple[int, str]]:
        """Return line and value of the first rows, at most ``most``, that match a condition."""
        found = self.rows.filter(condition).select("line", pl.col(column).cast(pl.String)).head(most)
        return [(line, "" if value is None else value) for line, value in collect(self.path, found).iter_rows()]


def open_log(path: Path, columns: Columns, headerless: Sequence[str] = ()) -> Log:
    """Open a table of interactions; for ``headerless`` see :func:`read_table`.

    Raises:
        DataError: It cannot be opened, or a column is missing; the message lists the existing columns.
    """
    table = read_table(path, headerless)
    found = schema_of(path, table).names()
    names = {kind: find_column(path, found, kind, getattr(columns, kind)) for kind in ("user", "item")}
    time = find_column(path, found, "timestamp", columns.timestamp, required=bool(columns.timestamp))

    first_line = 2 if not headerless and format_suffix(path) in SEPARATORS else 1
    wanted = [pl.col(name).cast(pl.String).alias(kind) for kind, name in names.items()]
    wanted += [pl.col(time).alias("time")] if time else []
    rows = table.select(wanted).with_row_index("line", first_line)
    if not time:
        return Log(path, rows, has_time=False)

    sample = collect(path, rows.select("time").drop_nulls().head(_SAMPLE))["time"]
    return Log(path, rows, has_time=True, dates=has_dates(sample))


def open_text(path: Path) -> Log:
    """Open lines of ``user item item …``, oldest first; several lines of a user form one sequence.

    A line that holds only a user gives one row with an empty item.
    """
    lines = pl.scan_lines(path, name="text", row_index_name="line", row_index_offset=1, glob=False)
    words = pl.col("text").str.strip_prefix("\ufeff").str.extract_all(r"\S+")
    split = lines.select("line", words=words).filter(pl.col("words").list.len() > 0)
    user = pl.col("words").list.first().alias("user")
    items = pl.col("words").list.slice(1).alias("item")
    rows = split.select("line", user, items).explode("item", empty_as_null=True)
    return Log(path, rows, has_time=False, no_item="user has no items")


def read_logs(logs: Sequence[Log]) -> pl.DataFrame:
    """Read ``user``, ``item`` (Categorical) and ``timestamp`` (Int64, Unix seconds) of one or more files.

    Rows are sorted by time, in the finest unit of the files; ties keep the order of the files. Without times, the order
    of the files counts and all timestamps are 0.

    Raises:
        DataError: A file cannot be read, an id is empty or a timestamp does not parse; the message names the line.
    """
    user_type = categorical()
    item_type = categorical()

    parts = []
    for log in logs:
        user, item = (pl.when(pl.col(kind) != "").then(pl.col(kind)) for kind in ("user", "item"))
        wanted = log.rows.select(user.cast(user_type), item.cast(item_type), log.time.alias("timestamp"))
        part = collect(log.path, wanted)
        _refuse_nulls(log, part)
        parts.append(part)
    frame = pl.concat(parts, rechunk=True)
    parts.clear()  # frees memory before the sort

    if not frame["timestamp"].is_sorted():
        frame = frame[stable_order(frame["timestamp"].to_numpy())]
    unit = units_per_second(frame["timestamp"][-1]) if frame.height else 1
    return frame.with_columns(pl.col("timestamp") // unit) if unit > 1 else frame


def collect(path: Path, query: pl.LazyFrame) -> pl.DataFrame:
    """Run a query over a file as a stream; raise :class:`DataError` if the file cannot be read."""
    try:
        return query.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError, EOFError) as cause:
        raise unreadable(path, cause) from cause


def unreadable(path: Path, cause: Exception) -> DataError:
    """Return the error for a file whose content does not match its suffix."""
    return DataError(f"{path.name} cannot be read: {cause}", "check that its content matches its suffix")


def schema_of(path: Path, table: pl.LazyFrame) -> pl.Schema:
    """Return the columns of a table and their types."""
    try:
        return table.collect_schema()
    except (pl.exceptions.PolarsError, OSError, EOFError) as cause:
        raise unreadable(path, cause) from cause


def find_column(path: Path, found: Sequence[str], kind: str, named: str, required: bool = True) -> str:
    """Find the column that holds ``kind``: the named one, else one with a usual name, else "" if it is not required.

    Raises:
        DataError: There is none; the message lists the existing columns.
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


def _refuse_nulls(log: Log, part: pl.DataFrame) -> None:
    problems = (
        ("user", "user", "user id is empty"),
        ("item", "item", log.no_item),
        ("timestamp", "time", "timestamp is neither Unix time nor ISO 8601"),
    )
    for column, source, problem in problems:
        bad = part[column].null_count()
        if not bad:
            continue

        is_bad = log.time.is_null() if source == "time" else pl.col(source).is_null() | (pl.col(source) == "")
        line, value = log.offenders(is_bad, source, 1)[0]
        raise DataError(
            f"{log.path.name} line {line}: {problem}: {value[:40]!r}",
            f"{bad} of {len(part)} lines have this problem: correct or remove them",
        )
