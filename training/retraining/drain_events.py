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
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.retry import Retry

from model_store.durable_files import write_durably
from model_store.errors import ConfigError, DataError, LockHeld, StoreCorrupt
from model_store.events import event_log
from model_store.events.event import Event
from model_store.events.event_log import Cursor, EventLine
from model_store.replication import redis_schema
from model_store.replication.redis_errors import RAISED_BY_CLIENT, redis_place, translate_redis_error

EVENTS_PER_FILE = 50_000
SCHEMA = pl.Schema(
    {"event_id": pl.String, "user_id": pl.String, "item_id": pl.String, "type": pl.String, "timestamp": pl.Int64}
)
_CONSUMER = "retrain"  # the same for all runs, so that the next run gets the entries that a killed one had taken
_TIMEOUT_S = 10

_CREATE_GROUP_IN_FULL_REDIS = """#!lua flags=allow-oom
return redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
"""  # draining is what makes room, so it must begin although there is none


class DrainResult(NamedTuple):
    """Counts and files of one drain.

    Attributes:
        events: Rows written, including repeats.
        files: Parquet files written.
        rejected: Entries that do not decode; they are kept in ``rejected-*.jsonl`` beside the Parquet files.
    """

    events: int
    files: list[Path]
    rejected: int


class _Batch(NamedTuple):
    """Consecutive entries of the log. ``first`` names their position, so that a repeated drain reuses the file name."""

    first: str
    events: Sequence[Event]
    rejected: Sequence[bytes]


def drain(
    source: str | Path,
    out_folder: Path,
    *,
    prefix: str = redis_schema.DEFAULT_PREFIX,
    events_per_file: int = EVENTS_PER_FILE,
) -> DrainResult:
    """Write all events recorded so far to Parquet and acknowledge them.

    Args:
        source: URL of a Redis, or the folder of an embedded event log, which a service may be writing.
        out_folder: Folder for the files; created if missing.
        prefix: Prefix of the Redis keys.
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
            batches = _drain_redis(source, redis_schema.Keys(prefix), events_per_file)

        events = 0
        files = []
        rejected = 0
        for batch in batches:  # asking for the next batch acknowledges this one
            files += _write(batch, out_folder)
            events += len(batch.events)
            rejected += len(batch.rejected)

    return DrainResult(events, files, rejected)


def read_drained(folder: Path) -> pl.DataFrame:
    """Read all drained events, one row per event id (the first recorded), ordered by timestamp, then event id.

    Raises:
        DataError: A file is damaged.
    """
    files = sorted(folder.glob("events-*.parquet"))
    try:
        tables = [pl.read_parquet(path).match_to_schema(SCHEMA) for path in files]
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
        events = [line.event for line in content.lines if isinstance(line, EventLine)]
        rejected = content.rejected
        for part in range(0, max(len(events), 1), limit):
            yield _Batch(f"log-{number:020d}-{offset:020d}-{part:08d}", events[part : part + limit], rejected)
            rejected = []
        event_log.write_cursor(folder, cursor)

    _delete_drained(folder, cursor)


def _delete_drained(folder: Path, cursor: Cursor) -> None:
    # The newest segment may still grow. Segments that no state covers yet, the service needs to rebuild histories.
    covered = event_log.newest_state(folder)
    for number in event_log.segment_numbers(folder)[:-1]:
        if number <= covered and number < cursor.segment:
            event_log.segment_path(folder, number).unlink()


def _drain_redis(url: str, keys: redis_schema.Keys, limit: int) -> Iterator[_Batch]:
    """Yield the entries that a killed drain had taken, then new ones; acknowledge and delete each after writing."""
    client = create_redis_client(url)
    place = redis_place(url)
    try:
        with client:
            _create_group(client, keys.events)
            for start in ("0", ">"):
                yield from _read_group(client, keys.events, start, limit)
    except RAISED_BY_CLIENT as cause:
        raise translate_redis_error(cause, place) from cause


def create_redis_client(url: str) -> Redis:
    """Return a client of the store with a long timeout and without retries.

    Raises:
        ConfigError: The client does not accept the URL.
    """
    try:
        client = Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

        client.connection_pool.make_connection()  # connects to nothing, but raises for options that do not exist
        return client
    except (TypeError, ValueError) as cause:
        raise ConfigError("ETEGREC_REDIS_URL is not a Redis URL", "write redis://[:password@]host:6379/0") from cause


def _create_group(client: Redis, stream: str) -> None:
    try:
        try:
            client.xgroup_create(stream, redis_schema.DRAIN_GROUP, id="0", mkstream=True)
        except OutOfMemoryError:
            client.eval(_CREATE_GROUP_IN_FULL_REDIS, 1, stream, redis_schema.DRAIN_GROUP)
    except ResponseError as cause:
        if not str(cause).startswith("BUSYGROUP"):  # the group exists
            raise


def _read_group(client: Redis, stream: str, start: str, limit: int) -> Iterator[_Batch]:
    """Yield batches from ``start`` until there are none; ``0``: taken but not acknowledged entries, ``>``: new ones."""
    while entries := _entries(client.xreadgroup(redis_schema.DRAIN_GROUP, _CONSUMER, {stream: start}, count=limit)):
        yield _decode(entries)

        ids = [entry_id for entry_id, _ in entries]
        with client.pipeline(transaction=True) as pipeline:
            pipeline.xack(stream, redis_schema.DRAIN_GROUP, *ids)
            pipeline.xdel(stream, *ids)
            pipeline.execute()

        if start == ">" and len(entries) < limit:
            return  # later events are left to the next run, or a busy service would keep this one running for ever


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes] | None]]:
    return list(answer[0][1]) if answer else []


def _decode(entries: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> _Batch:
    events = []
    rejected = []
    for _, fields in entries:
        if not fields:
            continue  # someone else deleted it from the stream after it was taken
        try:
            events.append(redis_schema.decode_event(fields.get(redis_schema.EVENT_FIELD)))
        except StoreCorrupt:
            rejected.append(repr(fields).encode())

    milliseconds, _, sequence = entries[0][0].decode().partition("-")
    return _Batch(f"redis-{milliseconds:0>20}-{sequence:0>10}", events, rejected)
