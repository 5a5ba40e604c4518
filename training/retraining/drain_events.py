"""Drain of recorded events: moved from the store to Parquet files, which training reads.

Events are acknowledged to the source only after their file is durable. If the process is killed in between, the events
are repeated in a second file, and :func:`read_drained` keeps one of each id. So none is lost and none counts twice.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from filelock import FileLock, Timeout
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from model_store.durable_files import write_durably
from model_store.errors import DataError, LockHeld, StoreCorrupt
from model_store.events import event_log
from model_store.events.event import Event
from model_store.events.event_log import Cursor, EventLine
from model_store.replication import redis_keys, redis_values
from model_store.replication.redis_address import NO_TLS_FILES, TlsFiles
from model_store.replication.redis_reader import reading_redis
from model_store.tracing.interface import MAX_LINKS

EVENTS_PER_FILE = 50_000
SCHEMA = pl.Schema(
    {
        "event_id": pl.String,
        "user_id": pl.String,
        "item_id": pl.String,
        "type": pl.String,
        "timestamp": pl.Int64,
        "attribution": pl.String,
        "value": pl.Float64,
        "currency": pl.String,
        "session_id": pl.String,
    }
)
"""Columns of drained events. Files of earlier releases have the first five."""

_CONSUMER = "retrain"  # the same for all runs, so that the next run gets the entries that a killed one had taken

_CREATE_GROUP_IN_FULL_REDIS = """#!lua flags=allow-oom
return redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
"""  # draining is what makes room, so it must begin although there is none


class DrainResult(NamedTuple):
    """Counts and files of one drain.

    Attributes:
        events: Rows written, including repeats.
        files: Parquet files written.
        rejected: Entries that do not decode; they are kept in ``rejected-*.jsonl`` beside the Parquet files.
        traceparents: Spans that the newest events came with, each once, as many as one span may link to.
    """

    events: int
    files: list[Path]
    rejected: int
    traceparents: tuple[str, ...] = ()


class _Batch(NamedTuple):
    """Consecutive entries of the log. ``first`` names their position, so that a repeated drain reuses the file name."""

    first: str
    events: Sequence[Event]
    rejected: Sequence[bytes]
    traceparents: Sequence[str] = ()  # of the events that came with one


def drain(
    source: str | Path,
    out_folder: Path,
    *,
    prefix: str = redis_keys.DEFAULT_PREFIX,
    tls: TlsFiles = NO_TLS_FILES,
    events_per_file: int = EVENTS_PER_FILE,
) -> DrainResult:
    """Write all events recorded so far to Parquet and acknowledge them.

    Args:
        source: URL of a Redis, or the folder of an embedded event log, which a service may be writing.
        out_folder: Folder for the files; created if missing.
        prefix: Prefix of the Redis keys.
        tls: Files of a TLS connection to Redis.
        events_per_file: Limit on the rows of a file.

    Raises:
        StoreUnavailable: Redis cannot be used.
        LockHeld: Another drain writes to this folder.
    """
    out_folder.mkdir(parents=True, exist_ok=True)
    with _lock(out_folder):
        for leftover in out_folder.glob(".*.tmp"):
            leftover.unlink()

        if isinstance(source, Path):
            batches = _drain_log(source, events_per_file)
        else:
            batches = _drain_redis(source, tls, redis_keys.keys_at(source, prefix), events_per_file)

        events = 0
        files = []
        rejected = 0
        traceparents: list[str] = []
        for batch in batches:  # asking for the next batch acknowledges this one
            files += _write(batch, out_folder)
            events += len(batch.events)
            rejected += len(batch.rejected)
            traceparents = list(dict.fromkeys([*traceparents, *batch.traceparents]))[-MAX_LINKS:]

    return DrainResult(events, files, rejected, tuple(traceparents))


def read_drained(folder: Path) -> pl.DataFrame:
    """Read all drained events, one row per event id (the first recorded), ordered by timestamp, then event id.

    Raises:
        DataError: A file is damaged.
    """
    files = sorted(folder.glob("events-*.parquet"))
    try:
        tables = [pl.read_parquet(path).match_to_schema(SCHEMA, missing_columns="insert") for path in files]
    except (pl.exceptions.PolarsError, OSError) as cause:
        raise DataError(
            f"drained events in {folder.name}/ cannot be read: {cause}", "restore the damaged file"
        ) from cause
    events = pl.concat([SCHEMA.to_frame(), *tables])
    return events.unique("event_id", keep="first", maintain_order=True).sort("timestamp", "event_id")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / ".lock").acquire(timeout=0):
            yield
    except Timeout as cause:
        raise LockHeld(f"another process drains events into {folder.name}/", "wait for it, or stop it") from cause


def _write(batch: _Batch, folder: Path) -> list[Path]:
    """Write a batch durably. Return the Parquet file, or nothing if the batch has no events."""
    if batch.rejected:
        lines = (json.dumps({"raw_base64": base64.b64encode(raw).decode()}) + "\n" for raw in batch.rejected)
        write_durably(folder / f"rejected-{batch.first}.jsonl", "".join(lines).encode())
    if not batch.events:
        return []

    sink = io.BytesIO()
    pl.DataFrame([event.model_dump() for event in batch.events], schema=SCHEMA).write_parquet(sink)
    path = folder / f"events-{batch.first}.parquet"
    write_durably(path, sink.getvalue())
    return [path]


def _drain_log(folder: Path, limit: int) -> Iterator[_Batch]:
    """Yield the segments in order from the cursor on; move the cursor after each, and finally delete drained ones."""
    cursor = event_log.read_cursor(folder)
    for number in event_log.segment_numbers(folder):
        if number < cursor.segment:
            continue

        offset = cursor.offset if number == cursor.segment else 0
        content = event_log.read_lines(event_log.segment_path(folder, number), offset)
        cursor = Cursor(segment=number, offset=content.end)
        lines = [line for line in content.lines if isinstance(line, EventLine)]
        rejected = content.rejected
        for part in range(0, max(len(lines), 1), limit):
            taken = lines[part : part + limit]
            traceparents = [line.traceparent for line in taken if line.traceparent]
            name = f"log-{number:020d}-{offset:020d}-{part:08d}"
            yield _Batch(name, [line.event for line in taken], rejected, traceparents)
            rejected = []
        event_log.write_cursor(folder, cursor)

    _delete_drained(folder, cursor)


def _delete_drained(folder: Path, cursor: Cursor) -> None:
    # The newest segment may still grow. Segments that no state covers yet, the service needs to rebuild histories.
    covered = event_log.newest_state(folder)
    for number in event_log.segment_numbers(folder)[:-1]:
        if number <= covered and number < cursor.segment:
            event_log.segment_path(folder, number).unlink()


def _drain_redis(url: str, tls: TlsFiles, keys: redis_keys.Keys, limit: int) -> Iterator[_Batch]:
    """Yield the entries that a killed drain had taken, then new ones; acknowledge and delete each after writing."""
    with reading_redis(url, tls) as client:
        for number, part in enumerate(keys.parts):
            name = "redis" if len(keys.parts) == 1 else f"redis-{number:03d}"
            _create_group(client, part.events)
            for start in ("0", ">"):
                yield from _read_group(client, part.events, name, start, limit)


def _create_group(client: Redis, stream: str) -> None:
    try:
        try:
            client.xgroup_create(stream, redis_keys.DRAIN_GROUP, id="0", mkstream=True)
        except OutOfMemoryError:
            client.eval(_CREATE_GROUP_IN_FULL_REDIS, 1, stream, redis_keys.DRAIN_GROUP)
    except ResponseError as cause:
        if not str(cause).startswith("BUSYGROUP"):  # the group exists
            raise


def _read_group(client: Redis, stream: str, name: str, start: str, limit: int) -> Iterator[_Batch]:
    """Yield batches from ``start`` until there are none; ``0``: taken but not acknowledged entries, ``>``: new ones."""
    while entries := _entries(client.xreadgroup(redis_keys.DRAIN_GROUP, _CONSUMER, {stream: start}, count=limit)):
        yield _decode(entries, name)

        ids = [entry_id for entry_id, _ in entries]
        with client.pipeline(transaction=True) as pipeline:
            pipeline.xack(stream, redis_keys.DRAIN_GROUP, *ids)
            pipeline.xdel(stream, *ids)
            pipeline.execute()

        if start == ">" and len(entries) < limit:
            return  # later events are left to the next run, or a busy service would keep this one running for ever


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes] | None]]:
    return list(answer[0][1]) if answer else []


def _decode(entries: Sequence[tuple[bytes, dict[bytes, bytes] | None]], name: str) -> _Batch:
    events = []
    rejected = []
    traceparents = []
    for _, fields in entries:
        if not fields:
            continue  # someone else deleted it from the stream after it was taken
        try:
            events.append(redis_values.decode_event(fields.get(redis_values.EVENT_FIELD)))
        except StoreCorrupt:
            rejected.append(repr(fields).encode())
        if traceparent := fields.get(redis_values.TRACEPARENT_FIELD):
            traceparents.append(traceparent.decode(errors="replace"))

    milliseconds, _, sequence = entries[0][0].decode().partition("-")
    return _Batch(f"{name}-{milliseconds:0>20}-{sequence:0>10}", events, rejected, traceparents)
