"""Validation of a source before it is prepared: checks that name the offending lines.

Files larger than memory are checked as streams. Properties of single rows (empty ids, times that do not parse) are
counted in one pass that holds a chunk at a time. Properties of all rows of a user (duplicates, users that are too
short) need these rows together: rows are partitioned by a hash of the user into files in a temporary folder
(``TMPDIR``), and these parts, each small enough for memory, are checked one after the other. All distinct items are
held in memory only if there is an item file to compare them with.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import DataError
from training.data.item_files import open_items
from training.data.prepare import PrepareOptions
from training.data.readers import open_logs
from training.data.split import utc
from training.data.tables import SEPARATORS, Log, collect, find_column, format_suffix, schema_of, unreadable
from training.data.timestamps import DATE_UNIT, UNITS

SHOWN = 5
"""Number of offending rows that a check names."""

OLDEST = 631_152_000
"""Oldest credible time, 1990-01-01: an earlier one comes from a broken clock or is not a Unix time."""

_DAY = 86_400  # seconds
_PART_BYTES = 64 << 20
_MOST_PARTS = 128
_ROW_GROUP = 1 << 15  # rows
_UNIT_NAMES = {10**9: "nanoseconds", 10**6: "microseconds", 10**3: "milliseconds", 1: "seconds"}


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    count: int  # of offenders
    detail: str  # the finding in words
    rows: tuple[str, ...] = ()  # the first offenders: "clicks.csv line 3: 'soon'"

    @property
    def passed(self) -> bool:
        """True if nothing is wrong."""
        return self.count == 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"passed": self.passed, **asdict(self)}


class _Rule(NamedTuple):
    """Condition that no row may meet."""

    name: str
    column: str  # its value is shown
    is_broken: Callable[[Log], pl.Expr]
    good: str
    bad: str


def validate(source: Path, options: PrepareOptions) -> Iterator[Check]:
    """Check a source and yield one result after the other; stop early if the rest cannot be read.

    Args:
        source: A file or folder in a format of :mod:`training.data.readers`.
        options: Options with which ``prepare`` would read and filter it.
    """
    try:
        logs = open_logs(source, options)
    except DataError as cause:
        yield _failure("columns", cause)
        return

    has_time = all(log.has_time for log in logs)
    yield Check("columns", 0, "user, item, timestamp" if has_time else "user, item; no times: the file's order counts")

    try:
        yield from _row_checks(logs)
        yield from _user_checks(logs, max(options.min_user, options.min_length))
        if options.items_file:
            yield from _item_checks(logs, Path(options.items_file), options)
    except DataError as cause:
        yield _failure("readable", cause)


def _failure(name: str, cause: DataError) -> Check:
    return Check(name, 1, f"{cause}; {cause.hint}" if cause.hint else str(cause))


def _rules() -> list[_Rule]:
    newest = int(time.time()) + _DAY
    seconds = f"{utc(OLDEST)} to now"

    return [
        _Rule("user ids", "user", lambda log: _is_empty("user"), "none is empty", "empty"),
        _Rule("item ids", "item", lambda log: _is_empty("item"), "none is empty", "empty"),
        _Rule(
            "user id length", "user", lambda log: _is_long("user"), f"up to {ID_BYTES} bytes", f"over {ID_BYTES} bytes"
        ),
        _Rule(
            "item id length", "item", lambda log: _is_long("item"), f"up to {ID_BYTES} bytes", f"over {ID_BYTES} bytes"
        ),
        _Rule("timestamps", "time", lambda log: log.time.is_null(), "all parse", "neither Unix time nor ISO 8601"),
        _Rule("times", "time", lambda log: ~_seconds(log).is_between(OLDEST, newest), seconds, f"not within {seconds}"),
    ]


def _row_checks(logs: Sequence[Log]) -> Iterator[Check]:
    rules = [rule for rule in _rules() if rule.column != "time" or all(log.has_time for log in logs)]
    tallies = [_tally(log, rules) for log in logs]
    rows = sum(tally["rows"] for tally in tallies)
    yield Check("interactions", int(not rows), f"{rows:,} rows" if rows else "no rows")

    for rule in rules:
        yield _check_rule(rule, logs, [tally[rule.name] for tally in tallies])
    if rules[-1].column == "time":
        yield _unit_check(logs, tallies)


def _tally(log: Log, rules: Sequence[_Rule]) -> dict[str, int]:
    """Count all rows, rows that break each rule, and rows of each time unit, in one pass."""
    counts = [rule.is_broken(log).sum().alias(rule.name) for rule in rules]
    units = [(_unit(log) == unit).sum().alias(f"unit {unit}") for unit in _UNIT_NAMES] if log.has_time else []
    found = collect(log.path, log.rows.select(pl.len().alias("rows"), *counts, *units))
    return {name: int(count or 0) for name, count in found.row(0, named=True).items()}


def _check_rule(rule: _Rule, logs: Sequence[Log], counts: Sequence[int]) -> Check:
    rows: list[str] = []
    for log, count in zip(logs, counts, strict=True):
        if count and len(rows) < SHOWN:
            found = log.offenders(rule.is_broken(log), rule.column, SHOWN - len(rows))
            rows += [_row(log, line, repr(value[:40])) for line, value in found]
    total = sum(counts)
    return Check(rule.name, total, f"{total:,} rows: {rule.bad}" if total else rule.good, tuple(rows))


def _unit_check(logs: Sequence[Log], tallies: Sequence[dict[str, int]]) -> Check:
    """Check that all times have the same unit; dates count as a unit."""
    totals = {unit: sum(tally[f"unit {unit}"] for tally in tallies) for unit in _UNIT_NAMES}
    usual = max(totals, key=lambda unit: totals[unit])
    name = "dates" if all(log.dates for log in logs) else _UNIT_NAMES[usual]
    rule = _Rule("time unit", "time", lambda log: _unit(log) != usual, name, f"not in {name} as most are")
    return _check_rule(rule, logs, [sum(count for u, count in _units(tally) if u != usual) for tally in tallies])


def _units(tally: dict[str, int]) -> list[tuple[int, int]]:
    return [(unit, tally[f"unit {unit}"]) for unit in _UNIT_NAMES]


def _user_checks(logs: Sequence[Log], least: int) -> Iterator[Check]:
    has_time = all(log.has_time for log in logs)
    repeats = _Offenders()
    short = _Offenders()
    users = 0

    with tempfile.TemporaryDirectory(prefix="etegrec-validate-") as folder:
        for rows in _partition_by_user(logs, Path(folder)):
            if has_time:
                again = rows.filter(~pl.struct("user", "item", "time").is_first_distinct())
                repeats.add(again, pl.format("user {} and item {} again at the same time", "user", "item"))
            owned = rows.group_by("user").agg(pl.len().alias("n"), pl.col("file", "line").first())
            users += len(owned)
            short.add(owned.filter(pl.col("n") < least), pl.format("user {} has {}", "user", "n"))

    if has_time:
        yield repeats.check("duplicates", logs, "no row repeats user, item and time", "rows repeat user, item and time")
    else:
        yield Check("duplicates", 0, "not checked: there are no times to tell a duplicate from renewed interest")
    bad = f"of {users:,} users have fewer than {least} interactions, prepare drops them"
    yield short.check("user length", logs, f"all {users:,} users have at least {least} interactions", bad)


class _Offenders:
    """Number of offenders over all parts, and the first of them in input order."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[int, int, str]] = []  # file, line, words

    def add(self, rows: pl.DataFrame, words: pl.Expr) -> None:
        self.count += len(rows)
        first = rows.select("file", "line", words.alias("words")).bottom_k(SHOWN, by=["file", "line"])
        self.first = sorted([*self.first, *first.rows()])[:SHOWN]

    def check(self, name: str, logs: Sequence[Log], good: str, bad: str) -> Check:
        rows = tuple(_row(logs[file], line, words) for file, line, words in self.first)
        return Check(name, self.count, f"{self.count:,} {bad}" if self.count else good, rows)


def _partition_by_user(logs: Sequence[Log], folder: Path) -> Iterator[pl.DataFrame]:
    """Write the rows to parts by user, then yield each part (user, item, time, file, line) in input order.

    A part holds all rows of its users.
    """
    parts = _part_count(logs)
    for number, log in enumerate(logs):
        part = (pl.col("user").hash() % parts).alias("part")
        rows = log.rows.with_columns(time=log.time, file=pl.lit(number, dtype=pl.Int64))
        whole = rows.filter(~_is_empty("user") & ~_is_empty("item") & pl.col("time").is_not_null()).with_columns(part)
        target = pl.PartitionBy(folder / str(number), key="part", include_key=False, approximate_bytes_per_file=1 << 62)
        try:
            whole.sink_parquet(target, compression="lz4", row_group_size=_ROW_GROUP, mkdir=True, engine="streaming")
        except (pl.exceptions.PolarsError, EOFError) as cause:
            raise unreadable(log.path, cause) from cause

    for number in range(parts):
        files = sorted(folder.glob(f"*/part={number}/*.parquet"))
        if files:
            yield pl.read_parquet(files, hive_partitioning=False).sort("file", "line", maintain_order=True)


def _part_count(logs: Sequence[Log]) -> int:
    """Return the number of parts, so that each needs little memory; compressed files count eight times their size."""
    size = sum(log.path.stat().st_size * (1 if log.path.suffix in SEPARATORS else 8) for log in logs)
    return min(_MOST_PARTS, 1 + size // _PART_BYTES)


def _item_checks(logs: Sequence[Log], path: Path, options: PrepareOptions) -> Iterator[Check]:
    table = open_items(path)
    column = find_column(path, schema_of(path, table).names(), "item", options.columns.item)
    first_line = 2 if format_suffix(path) in SEPARATORS else 1
    rows = table.select(item=pl.col(column).cast(pl.String)).with_row_index("line", first_line)
    items = collect(path, rows)

    used = pl.concat(
        [collect(log.path, log.rows.select(pl.col("item").drop_nulls().unique())) for log in logs]
    ).unique()

    log = Log(path, rows, has_time=False)
    again = items.filter(~pl.col("item").is_first_distinct())
    unused = items.join(used, on="item", how="anti", maintain_order="left")
    unknown = used.join(items, on="item", how="anti").height

    yield _item_check(
        "item file", log, again, f"{len(items):,} items, each once", "rows repeat an item, the first row counts"
    )
    good = f"every item of {path.name} has interactions; {unknown:,} items with interactions are not in it"
    yield _item_check("items with interactions", log, unused, good, f"items of {path.name} have no interactions")


def _item_check(name: str, log: Log, offenders: pl.DataFrame, good: str, bad: str) -> Check:
    rows = tuple(_row(log, line, repr(item)) for line, item in offenders.head(SHOWN).select("line", "item").iter_rows())
    return Check(name, len(offenders), f"{len(offenders):,} {bad}" if len(offenders) else good, rows)


def _row(log: Log, line: int, words: str) -> str:
    return f"{log.path.name} line {line}: {words}"


def _is_empty(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column) == "")


def _is_long(column: str) -> pl.Expr:
    return pl.col(column).str.len_bytes() > ID_BYTES


def _unit(log: Log) -> pl.Expr:
    """Return the units per second, judged by each time alone; null where there is no time."""
    if log.dates:
        return pl.when(log.time.is_not_null()).then(pl.lit(DATE_UNIT))
    unit: pl.Expr = pl.when(log.time.is_not_null()).then(pl.lit(1))
    for least, value in reversed(UNITS):
        unit = pl.when(log.time >= least).then(pl.lit(value)).otherwise(unit)
    return unit


def _seconds(log: Log) -> pl.Expr:
    return log.time // _unit(log)
