"""Streamed interactions from CSV, Parquet and JSON lines with mapped columns, and from lines of text.

A :class:`Log` is a query and holds no data. Reading it needs 16 bytes per interaction, and each distinct id once,
whatever the size of the file, compressed or not.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import DataError
from model_store.source_files.column_names import Columns, describe, find_column
from model_store.source_files.csv_lines import SEPARATORS, Dialect, is_regular, read_dialect, snippet
from model_store.source_files.csv_repair import convert
from model_store.source_files.formats import JSON_SUFFIXES, check_file, format_suffix, units_per_second
from model_store.source_files.id_spelling import FLOAT_ID, SAMPLE, judge_ids
from model_store.source_files.intake import LINE, BadLine, Intake, refusal
from training.data.numbering import categorical, stable_order
from training.data.timestamps import has_dates, parse_time

_JSON_HINT = "each line must hold one JSON object: correct or remove that line"


class TableFile(NamedTuple):
    """A table as a query, with the number of the line or row of the file in the column ``LINE``."""

    rows: pl.LazyFrame
    columns: tuple[str, ...]  # those of the file
    is_text: bool  # separated text: all columns are text


def open_table(path: Path, intake: Intake, headerless: Sequence[str] = ()) -> TableFile:
    """Open a table without holding it. Columns of separated text stay text, so that ids keep leading zeros.

    Separated text that Polars cannot read as it is, is converted first; ``intake`` gets notes on it.

    Args:
        path: Parquet or JSON lines by its suffix, else separated text.
        intake: See :class:`model_store.source_files.intake.Intake`.
        headerless: Names of the columns of separated text without a header.

    Raises:
        DataError: The file is missing, empty or cannot be read.
    """
    check_file(path)
    suffix = format_suffix(path)
    if suffix == ".parquet":
        return _numbered(path, pl.scan_parquet(path))
    if suffix in JSON_SUFFIXES:
        return _numbered(path, pl.scan_ndjson(path, infer_schema_length=1000))
    try:
        return _open_text_table(path, suffix, intake, headerless)
    except (OSError, EOFError) as cause:
        raise unreadable(path, cause) from cause


def _open_text_table(path: Path, suffix: str, intake: Intake, headerless: Sequence[str]) -> TableFile:
    dialect = read_dialect(path, suffix, headerless)
    if dialect.separator != SEPARATORS.get(suffix, ",") or dialect.encoding != "utf-8":
        intake.note(f"{path.name}: {dialect.describe()}")
    if is_regular(path, dialect):
        first_line = 2 if dialect.has_header else 1
        return TableFile(_scan(path, dialect).with_row_index(LINE, first_line), dialect.columns, is_text=True)

    converted = intake.new_file()
    convert(path, dialect, converted, intake)
    return TableFile(pl.scan_parquet(converted), dialect.columns, is_text=True)


def _scan(path: Path, dialect: Dialect) -> pl.LazyFrame:
    return pl.scan_csv(
        path,
        separator=dialect.separator,
        has_header=dialect.has_header,
        new_columns=list(dialect.columns),
        infer_schema=False,
        quote_char=dialect.quote,
        glob=False,
    )


def _numbered(path: Path, table: pl.LazyFrame) -> TableFile:
    columns = tuple(schema_of(path, table).names())
    return TableFile(table.with_row_index(LINE, 1), columns, is_text=False)


@dataclass(frozen=True)
class Log:
    """Interactions of one file as a query that has not run yet."""

    path: Path
    rows: pl.LazyFrame  # user, item: String; time: as in the file, event: String, value: Float64, if it has them; line
    has_time: bool
    dates: bool = False  # times are dates, not numbers
    no_item: str = "item id is empty"  # error message for an empty item
    columns: str = "user, item"  # the columns that were found, for people
    item_column: str = ""  # name of the item id in the file

    @property
    def kinds(self) -> list[str]:
        """Columns of :attr:`rows`."""
        return self.rows.collect_schema().names()

    @property
    def time(self) -> pl.Expr:
        """The time as a whole number, null where it does not parse; always 0 if the file has no times."""
        if not self.has_time:
            return pl.lit(0, dtype=pl.Int64)
        return parse_time(pl.col("time"), self.rows.collect_schema()["time"], self.dates)

    @property
    def problem(self) -> pl.Expr:
        """The reason why a row cannot be used, null if it can."""
        reasons = [(is_empty("user"), "user id is empty"), (is_empty("item"), self.no_item)]
        reasons += [(is_long(kind), f"{kind} id is longer than {ID_BYTES} bytes") for kind in ("user", "item")]
        reasons += [(self.time.is_null(), "timestamp is neither Unix time nor ISO 8601")]
        return pl.coalesce(pl.when(is_bad).then(pl.lit(words)) for is_bad, words in reasons)

    def offenders(self, condition: pl.Expr, column: str, most: int) -> list[tuple[int, str]]:
        """Return line and value of the first rows, at most ``most``, that match a condition."""
        found = self.rows.filter(condition).select("line", pl.col(column).cast(pl.String)).head(most)
        return [(line, "" if value is None else value) for line, value in collect(self.path, found).iter_rows()]


def open_log(
    path: Path, columns: Columns, intake: Intake, min_value: float | None = None, headerless: Sequence[str] = ()
) -> Log:
    """Open a table of interactions; for ``headerless`` see :func:`open_table`.

    Args:
        path: See :func:`open_table`.
        columns: Names of the columns.
        intake: See :func:`open_table`.
        min_value: If given, the table must have a column of values.
        headerless: See :func:`open_table`.

    Raises:
        DataError: It cannot be opened, or a column is missing; the message lists the existing columns.
    """
    table = open_table(path, intake, headerless)
    names = {
        kind: find_column(path.name, table.columns, kind, getattr(columns, kind), required=kind in ("user", "item"))
        for kind in ("user", "item", "timestamp", "event")
    }
    if min_value is not None:
        names["value"] = find_column(path.name, table.columns, "value", columns.value)
    found = {"time" if kind == "timestamp" else kind: name for kind, name in names.items() if name}

    rows = table.rows.select(pl.col(LINE).alias("line"), *(_as_read(kind, name) for kind, name in found.items()))
    sample = collect(path, rows.select(found.keys()).head(SAMPLE))
    for kind in ("user", "item"):
        rows = _with_plain_ids(path, rows, sample[kind], intake)
    dates = "time" in found and has_dates(sample["time"].drop_nulls())
    return Log(path, rows, has_time="time" in found, dates=dates, columns=describe(names), item_column=names["item"])


def _as_read(kind: str, name: str) -> pl.Expr:
    """Return a column under the name of its kind."""
    column = pl.col(name)
    if kind == "time":
        return column.alias(kind)
    if kind == "value":
        return column.cast(pl.Float64, strict=False).alias(kind)
    return column.cast(pl.String).alias(kind)


def plain_ids(column: pl.Expr, sample: pl.Series) -> tuple[pl.Expr, str]:
    """Return a column of ids as people mean them, judged by a sample, and what was done; "" if nothing was."""
    spelling = judge_ids(sample)
    if spelling.is_padded:
        column = column.str.strip_chars()
    if spelling.float_example:
        column = column.str.replace(FLOAT_ID, "$1")
    return column, spelling.describe()


def _with_plain_ids(path: Path, rows: pl.LazyFrame, sample: pl.Series, intake: Intake) -> pl.LazyFrame:
    ids, done = plain_ids(pl.col(sample.name), sample)
    if not done:
        return rows
    intake.note(f"{path.name}: {sample.name} ids {done}")
    return rows.with_columns(ids)


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


def read_logs(logs: Sequence[Log], intake: Intake, min_value: float | None = None) -> pl.DataFrame:
    """Read ``user``, ``item`` (Categorical) and ``timestamp`` (Int64, Unix seconds) of one or more files.

    See :func:`read_rows` for the rest.
    """
    frame = read_rows(logs, intake, min_value)
    unit = units_per_second(frame["timestamp"][-1]) if frame.height else 1
    return frame.with_columns(pl.col("timestamp") // unit) if unit > 1 else frame


def read_rows(logs: Sequence[Log], intake: Intake, min_value: float | None = None) -> pl.DataFrame:
    """Read ``user``, ``item`` (Categorical) and ``timestamp`` (Int64, in the unit of the files) of one or more files.

    If all files have types of interactions, there is a column ``event`` (Categorical), too; no type is null. Rows are
    sorted by time, in the finest unit of the files; ties keep the order of the files. Without times, the order of the
    files counts and all timestamps are 0.

    Args:
        logs: Files.
        intake: Gets notes on what was dropped.
        min_value: Rows with a lower value, or without one, are dropped.

    Raises:
        DataError: A file cannot be read, an id is empty or too long, or a timestamp does not parse, and bad lines are
            not skipped; the message names the line.
    """
    types = {kind: categorical() for kind in ("user", "item", "event")}
    has_events = all("event" in log.kinds for log in logs)

    parts = []
    for log in logs:
        wanted = [_usable_id(kind).cast(types[kind]) for kind in ("user", "item")]
        wanted += [log.time.alias("timestamp")]
        wanted += [pl.when(pl.col("event") != "").then(pl.col("event")).cast(types["event"])] if has_events else []
        wanted += [pl.col("value").cast(pl.Float32)] if min_value is not None else []
        part = collect(log.path, log.rows.select(wanted))
        part = _without_bad_rows(log, part, intake)
        parts.append(_without_low_values(log, part, min_value, intake))
    frame = pl.concat(parts, rechunk=True)
    parts.clear()  # frees memory before the sort

    if not frame["timestamp"].is_sorted():
        frame = frame[stable_order(frame["timestamp"].to_numpy())]
    return frame


def _usable_id(kind: str) -> pl.Expr:
    return pl.when(~is_empty(kind) & ~is_long(kind)).then(pl.col(kind))


def is_empty(column: str) -> pl.Expr:
    """Return whether an id is empty."""
    return pl.col(column).is_null() | (pl.col(column) == "")


def is_long(column: str) -> pl.Expr:
    """Return whether an id has more bytes than an id may have."""
    return pl.col(column).str.len_bytes() > ID_BYTES


def _without_bad_rows(log: Log, part: pl.DataFrame, intake: Intake) -> pl.DataFrame:
    """Drop rows with an id or a time that cannot be used."""
    good = part["user"].is_not_null() & part["item"].is_not_null() & part["timestamp"].is_not_null()
    bad = len(part) - int(good.sum())
    if not bad:
        return part

    shown = [pl.col(kind).cast(pl.String).fill_null("") for kind in ("user", "item", "time") if kind in log.kinds]
    text = pl.concat_str(shown, separator=",")
    rows = log.rows.select("line", log.problem.alias("reason"), text.alias("text"), shown[-1].alias("time"))
    found = rows.filter(pl.col("reason").is_not_null())
    if not intake.skip_bad:
        line, reason, row, time = collect(log.path, found.head(1)).row(0)
        first = BadLine(line, reason, time if reason.startswith("timestamp") else row)
        raise refusal(log.path.name, first, bad, len(part))
    intake.skip(log.path.name, [BadLine(*row) for row in collect(log.path, found).select(BadLine._fields).iter_rows()])
    return part.filter(good)


def _without_low_values(log: Log, part: pl.DataFrame, min_value: float | None, intake: Intake) -> pl.DataFrame:
    if min_value is None:
        return part
    kept = part.filter(pl.col("value") >= min_value).drop("value")
    if dropped := len(part) - len(kept):
        intake.note(f"{log.path.name}: {dropped:,} interactions have no value of {min_value:g} or more: dropped")
    return kept


def collect(path: Path, query: pl.LazyFrame) -> pl.DataFrame:
    """Run a query over a file as a stream; raise :class:`DataError` if the file cannot be read."""
    try:
        return query.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError, EOFError) as cause:
        raise unreadable(path, cause) from cause


def unreadable(path: Path, cause: Exception) -> DataError:
    """Return the error for a file whose content does not match its suffix, with the line where JSON breaks off."""
    if format_suffix(path) in JSON_SUFFIXES and (line := _first_bad_json(path)):
        return DataError(f"{path.name} cannot be read: line {line[0]} is not JSON: {snippet(line[1])}", _JSON_HINT)
    reason = snippet(str(cause).partition("\n")[0])
    return DataError(f"{path.name} cannot be read: {reason}", "check that its content matches its suffix")


def _first_bad_json(path: Path) -> tuple[int, str] | None:
    """Return number and text of the first line that is not JSON."""
    with gzip.open(path, "rt", errors="replace") if path.suffix == ".gz" else path.open(errors="replace") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                try:
                    json.loads(line or "null")
                except ValueError:
                    if line.strip():
                        return number, line.strip()
        except (OSError, EOFError):
            return None
    return None


def schema_of(path: Path, table: pl.LazyFrame) -> pl.Schema:
    """Return the columns of a table and their types."""
    try:
        return table.collect_schema()
    except (pl.exceptions.PolarsError, OSError, EOFError) as cause:
        raise unreadable(path, cause) from cause
