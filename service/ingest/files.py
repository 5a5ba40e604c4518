"""Files as a source: JSON lines and Parquet of a folder or bucket, in the order of their names, each once."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from model_store.errors import ConfigError, DataError
from model_store.source_files.formats import JSON_SUFFIXES, format_suffix
from service.ingest.lines import Line, LineSplitter
from service.ingest.progress import FileProgress, Progress
from service.ingest.source import WAIT_S, Batch, Lag, Place, Record, Source, made_id
from service.ingest.tail import TailReader

log = structlog.get_logger()

SUFFIXES = (*JSON_SUFFIXES, ".parquet")
"""Suffixes of files that are read; those of lines may be followed by ``.gz``."""

LIST_S = 5.0
"""Seconds between two looks for new files."""

RETRY_S = 60.0
"""Seconds until a file that could not be read is tried again."""

SAVE_S = 1.0
"""Seconds between two writes of the progress: what a killed process had recorded since, is found as duplicates."""

CHUNK = 262_144

UNREADABLE = (OSError, EOFError, zlib.error, pa.ArrowException, OverflowError, ValueError, LookupError, TypeError)
"""Errors of a file that is damaged, or of a value that cannot be JSON, such as a time beyond the year 9999."""


class _Found(NamedTuple):
    path: str
    size: int

    @property
    def is_compressed(self) -> bool:
        return self.path.lower().endswith(".gz")

    @property
    def is_parquet(self) -> bool:
        return format_suffix(PurePosixPath(self.path)) == ".parquet"


class _Position(NamedTuple):
    found: _Found
    progress: FileProgress


class FilesSource(Source):
    """Files behind a path or URL: one file, a folder with everything below, or a pattern with ``*``.

    Args:
        url: Path or fsspec URL.
        progress: How much of them is recorded.
        follows: Whether to wait for new files, and for further lines of those that are read; otherwise it ends.
        max_bytes: Longest line.

    Raises:
        ConfigError: The URL's protocol is unknown, or its driver is not installed.
    """

    def __init__(self, url: str, progress: Progress, follows: bool, max_bytes: int) -> None:
        self.failures = 0
        self._url = url
        self._progress = progress
        self._follows = follows
        self._max_bytes = max_bytes
        try:
            self._fs, self._path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as cause:
            raise ConfigError(
                f"the URL {url!r} cannot be opened: {cause}",
                "use a path, or install the fsspec driver of that protocol (s3fs for s3://, gcsfs for gs://)",
            ) from cause

        self._waiting: list[_Found] | None = None
        self._batches: Iterator[Batch] | None = None
        self._failed_at: dict[str, float] = {}  # time.monotonic() of the last report, by path
        self._listed_at = -LIST_S
        self._saved_at = 0.0
        self._is_saved = True

    def read(self, limit: int) -> Batch | None:
        """Read on in the file that is open, or open the next one.

        Raises:
            DataError: Nothing can be listed, or there is nothing that can be read, and no more is waited for.
        """
        while self._batches is None:
            if not self._waiting and not self._list():
                if not self._follows:
                    return None
                time.sleep(WAIT_S)
                return Batch([])
            assert self._waiting
            self._batches = self._read_file(self._waiting.pop(0), limit)

        batch = next(self._batches, None)
        if batch is None:
            self._batches = None
            return Batch([])
        return batch

    def confirm(self, batch: Batch) -> None:
        """Keep how far the file is recorded, and save it once a second."""
        found, progress = batch.position
        self._progress.files[found.path] = progress
        self._is_saved = False
        if time.monotonic() - self._saved_at >= SAVE_S:
            self._save()

    def keep_alive(self) -> None:
        """Do nothing: files wait."""

    def lag(self) -> Lag:
        """Count the files that are not read to their end."""
        return Lag(files=len(self._waiting or ()) + (self._batches is not None))

    def close(self) -> None:
        """Save the progress."""
        if not self._is_saved:
            self._save()

    def _save(self) -> None:
        self._progress.save()
        self._saved_at = time.monotonic()
        self._is_saved = True

    def _list(self) -> bool:
        """Look for files that are not read yet; return whether there are any. Those that end are read once."""
        is_first = self._waiting is None
        if (not is_first and not self._follows) or time.monotonic() - self._listed_at < LIST_S:
            return False

        self._listed_at = time.monotonic()
        try:
            found = self._find()
        except OSError as cause:
            if not self._follows:
                raise DataError(f"{self._url} cannot be listed: {cause}", "check the address and the rights") from cause
            log.warning("files_not_listed", source=self._url, cause=str(cause))
            return False

        if not found and not self._follows:
            raise DataError(
                f"{self._url} holds no file of events", f"files end with {', '.join(SUFFIXES)} or .jsonl.gz"
            )
        self._progress.forget_missing({each.path for each in found})
        self._waiting = [each for each in found if self._is_open(each)]
        return bool(self._waiting)

    def _find(self) -> list[_Found]:
        self._fs.invalidate_cache()
        if "*" in self._path:
            infos = self._fs.glob(self._path, detail=True)
        elif self._fs.isfile(self._path):
            infos = {self._path: self._fs.info(self._path)}
        elif self._fs.exists(self._path):
            infos = self._fs.find(self._path, detail=True)
        else:
            raise FileNotFoundError(f"{self._path} does not exist")
        return [
            _Found(path, int(info["size"] or 0))
            for path, info in sorted(infos.items())
            if info["type"] == "file" and format_suffix(PurePosixPath(path)) in SUFFIXES
        ]

    def _is_open(self, found: _Found) -> bool:
        """Return whether something of a file is left to read."""
        if time.monotonic() - self._failed_at.get(found.path, -RETRY_S) < RETRY_S:
            return False

        known = self._progress.files.get(found.path)
        if known is None:
            return True
        is_plain = not found.is_compressed and not found.is_parquet
        has_grown = found.size > known.size >= 0
        if known.is_changed or found.size < known.size or (has_grown and not is_plain):
            self._leave_out(found, known)
            return False

        has_rest = is_plain and not self._follows and known.offset < found.size  # a line without a line feed
        return known.size < 0 or has_grown or has_rest

    def _leave_out(self, found: _Found, known: FileProgress) -> None:
        """Read no more of a file that holds something else than what was read, and report it like one that fails.

        Where its new records begin is not known, and ids that are made of lines would take them for the old ones.
        """
        if not known.is_changed:
            self._progress.files[found.path] = known.model_copy(update={"is_changed": True})
            self._is_saved = False
        self._note_failure(found)
        log.warning("file_changed", file=found.path, fix="give it another name, and it is read as a whole")

    def _read_file(self, found: _Found, limit: int) -> Iterator[Batch]:
        """Yield the rest of a file. One that cannot be read is reported, and the others go on."""
        progress = self._progress.files.get(found.path) or FileProgress()
        read = self._read_lines
        if found.is_parquet:
            read = self._read_parquet
        elif found.is_compressed:
            read = self._read_compressed
        try:
            yield from read(found, progress, limit)
        except UNREADABLE as cause:
            self._note_failure(found)
            reason = str(cause).partition("\n")[0]
            log.error("file_not_read", file=found.path, cause=f"{type(cause).__name__}: {reason}")

    def _note_failure(self, found: _Found) -> None:
        self.failures += 1
        self._failed_at[found.path] = time.monotonic()

    def _read_lines(self, found: _Found, progress: FileProgress, limit: int) -> Iterator[Batch]:
        """Yield the rest of a file of lines that only ever grows."""
        splitter = LineSplitter(self._max_bytes, progress.records, progress.offset)
        with self._fs.open(found.path, "rb") as file:
            reader = TailReader(file, progress.offset)
            if progress.tail and reader.digest(progress.offset) != progress.tail:
                self._leave_out(found, progress)
                return

            lines = self._lines(found, reader, splitter)
            while taken := list(islice(lines, limit)):
                end = taken[-1].end
                progress = FileProgress(records=taken[-1].number, offset=end, tail=reader.digest(end))
                yield Batch(self._records(found, taken), _Position(found, progress))

        yield Batch([], _Position(found, progress.model_copy(update={"size": found.size})))

    def _read_compressed(self, found: _Found, progress: FileProgress, limit: int) -> Iterator[Batch]:
        """Yield the rest of a compressed file of lines, which must be read from its beginning."""
        with self._fs.open(found.path, "rb", compression="gzip") as file:
            lines = _all_lines(file, LineSplitter(self._max_bytes))
            while taken := list(islice(lines, limit)):
                fresh = [line for line in taken if line.number > progress.records]
                progress = FileProgress(records=max(progress.records, taken[-1].number))
                yield Batch(self._records(found, fresh), _Position(found, progress))

        yield Batch([], _Position(found, progress.model_copy(update={"size": found.size})))

    def _lines(self, found: _Found, reader: TailReader, splitter: LineSplitter) -> Iterator[Line]:
        """Yield the lines that are complete. Who writes the last one may not be done with it."""
        while chunk := reader.read(CHUNK):
            yield from splitter.feed(chunk)

        rest = splitter.rest()
        if rest is None or not rest.has_content:
            return
        if _is_whole(rest):
            yield rest
        elif not self._follows:
            log.warning(
                "line_not_complete",
                file=found.path,
                line=rest.number,
                fix="nothing, if it is still being written: the next run reads it; otherwise end it with a line feed",
            )

    def _records(self, found: _Found, lines: Sequence[Line]) -> list[Record]:
        return [self._record(found, line) for line in lines if line.has_content]

    def _record(self, found: _Found, line: Line) -> Record:
        place: Place = {"file": found.path, "line": line.number}
        return Record(line.raw, place, made_id(found.path, line.number), is_too_long=line.is_too_long)

    def _read_parquet(self, found: _Found, progress: FileProgress, limit: int) -> Iterator[Batch]:
        row = 0
        with self._fs.open(found.path, "rb") as raw, pq.ParquetFile(raw) as file:
            for part in file.iter_batches(batch_size=limit):
                first = row
                row += part.num_rows
                if row <= progress.records:
                    continue
                rows = [*enumerate(_rows(part), first + 1)][max(0, progress.records - first) :]
                records = [
                    Record(raw, {"file": found.path, "row": number}, made_id(found.path, number))
                    for number, raw in rows
                ]
                yield Batch(records, _Position(found, FileProgress(records=row)))
        yield Batch([], _Position(found, FileProgress(records=row, size=found.size)))


def _rows(part: Any) -> Iterator[bytes]:
    """Yield the rows of a part of a table as JSON objects, without what is null; times as text in ISO 8601, UTC."""
    for name, kind in zip(part.schema.names, part.schema.types, strict=True):
        if pa.types.is_timestamp(kind) and kind.unit == "ns":  # finer than Python's
            index = part.schema.get_field_index(name)
            column = part.column(index).cast(pa.timestamp("us", kind.tz), safe=False)
            part = part.set_column(index, name, column)
    for row in part.to_pylist():
        filled = {name: value for name, value in row.items() if value is not None}
        yield orjson.dumps(filled, default=str, option=orjson.OPT_NAIVE_UTC)


def _all_lines(file: Any, splitter: LineSplitter) -> Iterator[Line]:
    """Yield the lines of a file to which nothing is appended."""
    while chunk := file.read(CHUNK):
        yield from splitter.feed(chunk)
    rest = splitter.rest()
    if rest is not None:
        yield rest


def _is_whole(line: Line) -> bool:
    """Return whether a line without a line feed is complete: the beginning of a JSON object is none."""
    try:
        return not line.is_too_long and isinstance(orjson.loads(line.raw), dict)
    except orjson.JSONDecodeError:
        return False
