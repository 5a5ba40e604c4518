"""Validation of a source before it is prepared: checks that name the offending lines, and what will be dropped.

The source is read as ``prepare`` reads it, and filtered as it filters, so it takes the same memory; nothing is written.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl

from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import DataError
from model_store.source_files.formats import UNITS
from model_store.source_files.intake import EXAMPLES, LINE, Intake
from training.data.dataset import ItemInfo
from training.data.filters import first_of_repeats
from training.data.item_files import ID, ItemTable, read_item_table, read_items
from training.data.numbering import number_ids
from training.data.prepare import PrepareOptions, build_dataset
from training.data.raw import RawData
from training.data.readers import compare_items, open_logs
from training.data.remote import local_copies
from training.data.split import utc
from training.data.tables import Log, collect, is_empty, is_long, read_logs
from training.data.timestamps import DATE_UNIT

OLDEST = 631_152_000
"""Oldest credible time, 1990-01-01: an earlier one comes from a broken clock or is not a Unix time."""

_DAY = 86_400  # seconds
_UNIT_NAMES = {10**9: "nanoseconds", 10**6: "microseconds", 10**3: "milliseconds", 1: "seconds"}

Outcome = Literal["pass", "note", "fail"]


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    count: int  # of offenders
    detail: str  # the finding in words
    rows: tuple[str, ...] = ()  # the first offenders: "clicks.csv line 3: 'soon'"
    is_handled: bool = False  # prepare goes on by itself: it drops, converts or skips the offenders

    @property
    def outcome(self) -> Outcome:
        """``fail`` if prepare would stop or the result would be wrong, ``note`` if it handles what is unusual."""
        if not self.count:
            return "pass"
        return "note" if self.is_handled else "fail"

    @property
    def passed(self) -> bool:
        """True if nothing has to be corrected."""
        return self.outcome != "fail"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        fields = asdict(self)
        del fields["is_handled"]
        return {"passed": self.passed, "outcome": self.outcome, **fields}


class _Rule(NamedTuple):
    """Condition that no row may meet."""

    name: str
    column: str  # its value is shown
    is_broken: Callable[[Log], pl.Expr]
    good: str
    bad: str
    can_skip: bool = True  # --skip-bad leaves such rows out


def validate(source: str, options: PrepareOptions, say: Callable[[str], None]) -> Iterator[Check]:
    """Check a source and yield one result after the other; stop early if the rest cannot be read.

    Args:
        source: Path or URL, as for :func:`training.data.prepare.prepare`.
        options: Options with which ``prepare`` would read and filter it.
        say: Called with one line of text for what is fetched.
    """
    with (
        tempfile.TemporaryDirectory(prefix="etegrec-validate-") as folder,
        local_copies(source, options, Path(folder), say) as (path, local_options),
    ):
        yield from _checks(path, local_options, Path(folder))


def _checks(source: Path, options: PrepareOptions, folder: Path) -> Iterator[Check]:
    intake = Intake(folder, skip_bad=True)  # so that bad lines are counted, not only the first one named
    try:
        logs = open_logs(source, options, intake)
    except DataError as cause:
        yield _failure("columns", cause)
        return

    has_time = all(log.has_time for log in logs)
    order = "" if has_time else "; no times: the file's order counts"
    yield Check("columns", 0, logs[0].columns + order)
    yield _notes("format", intake, "as expected")
    unreadable = f"{intake.skipped:,} lines" if intake.skipped else "every line"
    yield Check("readable lines", intake.skipped, unreadable, tuple(intake.skipped_first), options.skip_bad)

    try:
        yield from _row_checks(logs, options.skip_bad)
        yield from _outcome_checks(source, logs, options, intake)
    except DataError as cause:
        yield _failure("usable", cause)


def _failure(name: str, cause: DataError) -> Check:
    return Check(name, 1, f"{cause}; {cause.hint}" if cause.hint else str(cause))


def _notes(name: str, intake: Intake, good: str) -> Check:
    """Return a check with all notes that were made since the last one."""
    notes = tuple(intake.notes)
    intake.notes.clear()
    return Check(name, len(notes), f"{len(notes)} notes" if notes else good, notes, is_handled=True)


def _rules() -> list[_Rule]:
    newest = int(time.time()) + _DAY
    seconds = f"{utc(OLDEST)} to now"

    return [
        _Rule("user ids", "user", lambda log: is_empty("user"), "none is empty", "empty"),
        _Rule("item ids", "item", lambda log: is_empty("item"), "none is empty", "empty"),
        _Rule(
            "user id length", "user", lambda log: is_long("user"), f"up to {ID_BYTES} bytes", f"over {ID_BYTES} bytes"
        ),
        _Rule(
            "item id length", "item", lambda log: is_long("item"), f"up to {ID_BYTES} bytes", f"over {ID_BYTES} bytes"
        ),
        _Rule("timestamps", "time", lambda log: log.time.is_null(), "all parse", "neither Unix time nor ISO 8601"),
        _Rule(
            "times",
            "time",
            lambda log: ~_seconds(log).is_between(OLDEST, newest),
            seconds,
            f"not within {seconds}",
            can_skip=False,
        ),
    ]


def _row_checks(logs: Sequence[Log], skip_bad: bool) -> Iterator[Check]:
    rules = [rule for rule in _rules() if rule.column != "time" or all(log.has_time for log in logs)]
    tallies = [_tally(log, rules) for log in logs]
    rows = sum(tally["rows"] for tally in tallies)
    yield Check("interactions", int(not rows), f"{rows:,} rows" if rows else "no rows")

    for rule in rules:
        yield _check_rule(rule, logs, [tally[rule.name] for tally in tallies], skip_bad and rule.can_skip)
    if rules[-1].column == "time":
        yield _unit_check(logs, tallies)


def _tally(log: Log, rules: Sequence[_Rule]) -> dict[str, int]:
    """Count all rows, rows that break each rule, and rows of each time unit, in one pass."""
    counts = [rule.is_broken(log).sum().alias(rule.name) for rule in rules]
    units = [(_unit(log) == unit).sum().alias(f"unit {unit}") for unit in _UNIT_NAMES] if log.has_time else []
    found = collect(log.path, log.rows.select(pl.len().alias("rows"), *counts, *units))
    return {name: int(count or 0) for name, count in found.row(0, named=True).items()}


def _check_rule(rule: _Rule, logs: Sequence[Log], counts: Sequence[int], is_handled: bool = False) -> Check:
    rows: list[str] = []
    for log, count in zip(logs, counts, strict=True):
        if count and len(rows) < EXAMPLES:
            found = log.offenders(rule.is_broken(log), rule.column, EXAMPLES - len(rows))
            rows += [_row(log, line, repr(value[:40])) for line, value in found]
    total = sum(counts)
    bad = f"{total:,} rows: {rule.bad}" + (", skipped" if is_handled else "")
    return Check(rule.name, total, bad if total else rule.good, tuple(rows), is_handled)


def _unit_check(logs: Sequence[Log], tallies: Sequence[dict[str, int]]) -> Check:
    """Check that all times have the same unit; dates count as a unit."""
    totals = {unit: sum(tally[f"unit {unit}"] for tally in tallies) for unit in _UNIT_NAMES}
    usual = max(totals, key=lambda unit: totals[unit])
    name = "dates" if all(log.dates for log in logs) else _UNIT_NAMES[usual]
    rule = _Rule("time unit", "time", lambda log: _unit(log) != usual, name, f"not in {name} as most are", False)
    return _check_rule(rule, logs, [sum(count for u, count in _units(tally) if u != usual) for tally in tallies])


def _units(tally: dict[str, int]) -> list[tuple[int, int]]:
    return [(unit, tally[f"unit {unit}"]) for unit in _UNIT_NAMES]


def _outcome_checks(source: Path, logs: Sequence[Log], options: PrepareOptions, intake: Intake) -> Iterator[Check]:
    """Check what reading and filtering drop, by doing both."""
    frame = read_logs(logs, intake, options.min_value)
    yield _repeats(logs, frame, options.keep_repeats)

    items: dict[str, ItemInfo] = {}
    if options.items_file:
        path = Path(options.items_file)
        table = read_item_table(path, options.columns, intake, logs[0].item_column)
        yield from _item_checks(path.name, table, frame)
        items = read_items(path, options.columns, intake, options.separator, logs[0].item_column)
        compare_items(frame["item"], items, path.name, intake)
    yield _notes("reading", intake, "nothing is changed")

    try:
        dataset = build_dataset(RawData(source.name, frame, items), options)
    except DataError as cause:
        yield _failure("filters", cause)
        return
    yield Check("filters", len(dataset.set_aside), "; ".join(dataset.notes), is_handled=True)


def _repeats(logs: Sequence[Log], frame: pl.DataFrame, are_kept: bool) -> Check:
    """Check for interactions that repeat user, item and second of an earlier one."""
    if not all(log.has_time for log in logs):
        return Check("duplicates", 0, "not checked: there are no times to tell a duplicate from renewed interest")
    if are_kept:
        return Check("duplicates", 0, "not checked: data.keep_repeats keeps them")
    codes = [number_ids(frame[kind]).rows for kind in ("user", "item")]
    is_first = first_of_repeats(codes[0], codes[1], frame["timestamp"].to_numpy())
    count = len(frame) - int(is_first.sum())
    if not count:
        return Check("duplicates", 0, "no row repeats user, item and second")

    again = frame.filter(pl.Series(~is_first)).head(EXAMPLES).select(pl.col("user", "item").cast(pl.String)).unique()
    rows: list[str] = []
    for log in logs:
        seconds = log.rows.with_columns(second=_seconds(log)).join(again.lazy(), on=["user", "item"], how="semi")
        lines = collect(log.path, seconds).sort("line")
        lines = lines.filter(~pl.struct("user", "item", "second").is_first_distinct()).head(EXAMPLES - len(rows))
        words = pl.format("user {} and item {} again at the same time", "user", "item")
        rows += [_row(log, line, said) for line, said in lines.select("line", words).iter_rows()]
    return Check("duplicates", count, f"{count:,} rows repeat user, item and second, dropped", tuple(rows), True)


def _item_checks(file: str, table: ItemTable, interactions: pl.DataFrame) -> Iterator[Check]:
    used = interactions["item"].unique().cast(pl.String).to_frame(ID)
    rows = table.rows.select(LINE, ID)
    has_id = pl.col(ID).is_not_null()
    dropped = rows.filter(~(has_id & pl.col(ID).is_first_distinct()))
    unused = rows.filter(has_id).join(used, on=ID, how="anti", maintain_order="left")
    unknown = used.join(rows, on=ID, how="anti").height

    yield _item_check(
        "item file",
        file,
        dropped,
        f"{len(rows):,} items, each once",
        "rows have no item id or repeat an item: dropped, the first row counts",
    )
    good = f"every item of {file} has interactions; {unknown:,} items with interactions are not in it"
    yield _item_check("items with interactions", file, unused, good, f"items of {file} have no interactions")


def _item_check(name: str, file: str, offenders: pl.DataFrame, good: str, bad: str) -> Check:
    shown = offenders.head(EXAMPLES).select(LINE, ID).iter_rows()
    rows = tuple(f"{file} line {line}: {'its id is empty' if item is None else repr(item)}" for line, item in shown)
    count = len(offenders)
    return Check(name, count, f"{count:,} {bad}" if count else good, rows, is_handled=True)


def _row(log: Log, line: int, words: str) -> str:
    return f"{log.path.name} line {line}: {words}"


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
