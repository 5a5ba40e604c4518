"""Reading of a source on several machines: files are read apart, then users, and one machine joins the parts.

Two rounds of shards (:mod:`model_store.shards.runners`):

    read       shard f   file f of the source: read and checked by the code that reads it alone, cut by users' hashes
    partition  shard p   part p of all files: put in order of time, types that are left out and repeats dropped

What comes out is what :func:`training.data.readers.read_source` and these filters give, row for row, so the
data set is the same, byte for byte. Parts lie in the folder of the prepared data, which all machines must see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl

from model_store.errors import ConfigError, DataError
from model_store.shards.runners import ATTEMPTS, ComputeShard, Outcome, ShardFailed, ShardRunner, T
from model_store.source_files.formats import units_per_second
from model_store.source_files.intake import SKIPPED, Intake
from model_store.work_folder import WorkFolder
from training.data.event_types import event_numbers
from training.data.filters import FilterOptions
from training.data.numbering import categorical
from training.data.raw import RawData
from training.data.readers import ReadOptions, open_logs, read_items_of, stream_files, summarise_skipped
from training.data.repeats import drop_repeats
from training.data.tables import read_rows

PARTS = "parts"
"""Folder of the parts, inside that of the prepared data; it is removed at the end."""

_PART_NAMES = ("file-*.parquet", "partition-*.parquet", "skipped-*.csv", "converted-*")

_ORDER = ("moment", "file", "place")
"""Columns that order all interactions as a single process does: time in the unit of the files, file, row."""


class FileRead(NamedTuple):
    """A file that was read."""

    opened: tuple[str, ...]  # notes of opening it
    notes: tuple[str, ...]  # and of reading it
    item_column: str
    has_events: bool
    rows: int
    newest: int  # latest time, in the unit of the files
    skipped: int
    skipped_first: tuple[str, ...]


class Partition(NamedTuple):
    """A partition of the users that is in order."""

    rows: int
    left_out: int  # interactions that were dropped for their type
    repeats: int  # and as repeats


@dataclass(frozen=True)
class Plan:
    """What all shards of a preparation know."""

    folder: Path  # of the parts
    files: tuple[Path, ...]
    options: ReadOptions
    partitions: int
    filters: FilterOptions
    polars: str = pl.__version__

    def part(self, file: int, partition: int) -> Path:
        """Return the rows of a file that belong to a partition."""
        return self.folder / f"file-{file:05d}-{partition:05d}.parquet"

    def partition(self, number: int) -> Path:
        """Return the rows of a partition in order."""
        return self.folder / f"partition-{number:05d}.parquet"

    def skipped(self, file: int) -> Path:
        """Return the list of the lines of a file that were skipped."""
        return self.folder / f"skipped-{file:05d}.csv"

    def require_same_polars(self) -> None:
        """Refuse to hash users with another version, which may hash otherwise.

        Raises:
            ConfigError: This machine has another version than the one that began.
        """
        if pl.__version__ != self.polars:
            raise ConfigError(
                f"this machine has Polars {pl.__version__}, the one that prepares has {self.polars}",
                "install the same versions on all machines",
            )


def read_on_machines(
    path: Path, options: ReadOptions, folder: Path, runner: ShardRunner, partitions: int, filters: FilterOptions
) -> RawData:
    """Read a file or folder by shards; see :func:`training.data.readers.read_source`.

    Args:
        path: The source, which all machines see under this path.
        options: How to read it.
        folder: Folder of the prepared data, which all machines see too.
        runner: Computes the shards.
        partitions: Number of parts of the users.
        filters: They say which types are left out, and whether repeats are kept.

    Raises:
        DataError: As read_source; or the format is one that is read whole, or a source lies in the folder of the parts.
        ConfigError: The folder of the parts holds something that no preparation wrote.
        ShardFailed: A process died, or failed for a reason that nobody foresaw, each time that a shard was computed.
    """
    parts = WorkFolder(folder / PARTS, _PART_NAMES)
    _refuse_sources_in(parts.path, path, options)
    parts.make_empty()
    try:
        files = stream_files(path, options)
        plan = Plan(parts.path.resolve(), tuple(file.resolve() for file in files), options, partitions, filters)
        found = _run(runner, partial(_read_file, plan), range(len(files)))
        intake = _joined_intake(found, options, folder, plan)

        newest = max((each.newest for each in found if each.rows), default=0)
        unit = units_per_second(newest) if newest else 1
        has_events = all(each.has_events for each in found)
        divided = _run(runner, partial(_order_partition, plan, unit, has_events), range(partitions))
        left_out = sum(each.left_out for each in divided)
        repeats = sum(each.repeats for each in divided)
        _require_all_rows(sum(each.rows for each in found), sum(each.rows for each in divided) + left_out + repeats)

        interactions = _join(plan, has_events)
        raw = read_items_of(path, RawData(path.name.split(".")[0], interactions), options, intake, found[0].item_column)
    finally:
        parts.remove()

    summarise_skipped(intake)
    return replace(raw, notes=tuple(intake.notes), left_out=left_out, repeats=repeats)


def _refuse_sources_in(parts: Path, path: Path, options: ReadOptions) -> None:
    """Refuse to read what is about to be removed.

    Raises:
        DataError: The source, or the items file, lies in the folder of the parts.
    """
    for source in (path, *([Path(options.items_file)] if options.items_file else [])):
        if source.resolve().is_relative_to(parts.resolve()):
            raise DataError(
                f"{source} lies in {parts}, whose files are removed", "move it, or give another folder as --out"
            )


def _run(runner: ShardRunner, compute: ComputeShard[T], shards: Sequence[int]) -> list[T]:
    """Compute all shards and return their results in order.

    A shard whose process died is tried again after all others. What is wrong with the data is so each time, and is
    raised for the first shard that has it.
    """
    done: dict[int, Outcome[T]] = {}
    missing = list(shards)
    for _ in range(ATTEMPTS):
        done |= {outcome.shard: outcome for outcome in runner.run(compute, missing)}
        errors = {shard: error for shard in shards if (error := done[shard].error) is not None}
        for error in errors.values():
            if not isinstance(error, ShardFailed):
                raise error
        if not errors:
            return [outcome.result for shard in shards if (outcome := done[shard]).result is not None]
        missing = list(errors)
    raise errors[missing[0]]


def _read_file(plan: Plan, file: int) -> FileRead:
    """Read a file and cut its rows by users."""
    plan.require_same_polars()
    converted = plan.folder / f"converted-{file:05d}"
    converted.mkdir(exist_ok=True)
    plan.skipped(file).unlink(missing_ok=True)
    intake = Intake(converted, plan.options.skip_bad, plan.skipped(file))
    [log] = open_logs(plan.files[file], plan.options, intake)
    opened = tuple(intake.notes)

    frame = read_rows([log], intake, plan.options.min_value)
    columns = [pl.col("user", "item").cast(pl.String), pl.col("timestamp").alias("moment")]
    columns += [pl.lit(file, dtype=pl.Int32).alias("file"), pl.int_range(pl.len(), dtype=pl.Int64).alias("place")]
    rows = frame.select(columns)
    if "event" in frame.columns:
        # Types have names here alone, and those that are left out have no numbers.
        left_out = pl.Series(plan.filters.is_left_out(frame["event"]))
        wanted = frame.select(event=pl.when(~left_out).then(pl.col("event")))
        rows = rows.with_columns(event=pl.Series(event_numbers(wanted)), left_out=left_out)

    owner = rows["user"].hash(0) % plan.partitions
    for partition in range(plan.partitions):
        rows.filter(owner == partition).write_parquet(plan.part(file, partition))
    return FileRead(
        opened,
        tuple(intake.notes[len(opened) :]),
        log.item_column,
        "event" in frame.columns,
        len(rows),
        int(rows["moment"].max() or 0),  # type: ignore[arg-type]  # it is a column of whole numbers
        intake.skipped,
        tuple(intake.skipped_first),
    )


def _order_partition(plan: Plan, unit: int, has_events: bool, partition: int) -> Partition:
    """Put the rows of a partition in order and drop repeats."""
    plan.require_same_polars()
    parts = [pl.read_parquet(plan.part(file, partition)) for file in range(len(plan.files))]
    events = ["event", "left_out"] if has_events else []
    rows = pl.concat([part.select("user", "item", *_ORDER, *events) for part in parts]).sort(_ORDER)
    rows = rows.with_columns(timestamp=pl.col("moment") // unit)
    wanted = rows.filter(~pl.col("left_out")) if has_events else rows
    kept = wanted if plan.filters.keep_repeats else drop_repeats(wanted)
    kept.write_parquet(plan.partition(partition))
    return Partition(len(kept), len(rows) - len(wanted), len(wanted) - len(kept))


def _join(plan: Plan, has_events: bool) -> pl.DataFrame:
    """Return the rows of all partitions in order, with the columns that readers return."""
    events = ["event"] if has_events else []
    ids = {name: categorical() for name in ("user", "item")}
    query = pl.scan_parquet([plan.partition(number) for number in range(plan.partitions)])
    rows = query.with_columns(pl.col(name).cast(kind) for name, kind in ids.items()).collect(engine="streaming")
    return rows.sort(_ORDER).select("user", "item", "timestamp", *events)


def _joined_intake(found: Sequence[FileRead], options: ReadOptions, folder: Path, plan: Plan) -> Intake:
    """Return notes and skipped lines of all files, in the order in which one process reads them."""
    report = folder / SKIPPED
    report.unlink(missing_ok=True)
    intake = Intake(plan.folder, options.skip_bad, report)
    for note in (*(note for each in found for note in each.opened), *(note for each in found for note in each.notes)):
        intake.note(note)
    lists = [plan.skipped(file).read_bytes() for file in range(len(found)) if plan.skipped(file).exists()]
    intake.skipped = sum(each.skipped for each in found)
    intake.skipped_first = [line for each in found for line in each.skipped_first]
    if lists:
        headers_off = [text if at == 0 else text.split(b"\n", 1)[1] for at, text in enumerate(lists)]
        report.write_bytes(b"".join(headers_off))
    return intake


def _require_all_rows(read: int, divided: int) -> None:
    """Check that no row was lost or doubled between the rounds.

    Raises:
        DataError: The numbers differ.
    """
    if read != divided:
        raise DataError(
            f"{read:,} rows were read, but the partitions of the users have {divided:,}",
            "let all machines see the same folder, and prepare again",
        )
