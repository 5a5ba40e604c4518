"""Drain of item changes: the item content in the store, copied to a Parquet file for training.

Unlike events, changes stay in the store: the next version applies them again. The file only grows: an item's content
is kept after the item is deleted, because the deletion may be temporary; a deletion in the store has the content, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from model_store.durable_files import write_durably
from model_store.errors import DataError, StoreCorrupt
from model_store.events import event_log
from model_store.events.event_log import ChangeLine, ItemLine
from model_store.replication import redis_keys, redis_values
from model_store.replication.item_payload import ItemContent, read_content
from model_store.replication.redis_address import NO_TLS_FILES, TlsFiles
from model_store.replication.redis_reader import reading_redis

ITEMS = "items.parquet"
_SCANNED = 500  # items per answer of Redis; each may have 64 KiB
_SCHEMA = pl.Schema(
    [("item_id", pl.String), ("title", pl.String), ("categories", pl.List(pl.String)), ("attributes", pl.String)]
)

_Put = tuple[str, bytes]  # item id, payload; that of a deletion is empty unless something was put before


def drain_items(
    source: str | Path,
    folder: Path,
    *,
    prefix: str = redis_keys.DEFAULT_PREFIX,
    tls: TlsFiles = NO_TLS_FILES,
) -> dict[str, ItemContent]:
    """Add the content that was put since the last drain to the file, and return all of it, ordered by item id.

    Items whose latest change has no content, or does not decode, keep the content of the file.

    Args:
        source: URL of a Redis, or the folder of an embedded event log, which a service may be writing.
        folder: Folder of the file; created if missing.
        prefix: Prefix of the Redis keys.
        tls: Files of a TLS connection to Redis.

    Raises:
        DataError: The file is damaged.
        StoreUnavailable: Redis cannot be used.
    """
    path = folder / ITEMS
    before = _read(path) if path.exists() else {}
    puts = (
        _read_log(source) if isinstance(source, Path) else _read_redis(source, tls, redis_keys.keys_at(source, prefix))
    )

    known = dict(before)
    for item_id, payload in puts:
        content = read_content(payload)
        if content is not None:
            known[item_id] = content
    known = dict(sorted(known.items()))

    if known != before:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(path, _table_bytes(known))
    return known


def _read_redis(url: str, tls: TlsFiles, keys: redis_keys.Keys) -> Iterator[_Put]:
    with reading_redis(url, tls) as client:
        for field, raw in client.hscan_iter(keys.items, count=_SCANNED):
            try:
                entry = redis_values.decode_latest(raw)
                item_id = redis_values.decode_item_id(field)
            except StoreCorrupt:
                continue  # replicas count and report it
            yield item_id, entry.payload


def _read_log(folder: Path) -> Iterator[_Put]:
    """Yield what was put by the newest state and the segments after it; read again if the state is replaced."""
    lines = []
    base = -1
    while event_log.newest_state(folder) != base:
        base = event_log.newest_state(folder)
        lines = event_log.read_lines(event_log.state_path(folder, base)).lines
    for number in event_log.segment_numbers(folder):
        if number > base:
            lines += event_log.read_lines(event_log.segment_path(folder, number)).lines

    for line in lines:
        if isinstance(line, ChangeLine | ItemLine):
            yield line.item_id, line.payload.encode()


def _read(path: Path) -> dict[str, ItemContent]:
    try:
        rows = pl.read_parquet(path).match_to_schema(_SCHEMA).rows()
        return {row[0]: ItemContent(row[1], tuple(row[2]), json.loads(row[3])) for row in rows}
    except (pl.exceptions.PolarsError, OSError, ValueError) as cause:
        hint = "restore the damaged file, or delete it: the content that the store knows is drained again"
        raise DataError(f"{path.name} cannot be read: {cause}", hint) from cause


def _table_bytes(items: Mapping[str, ItemContent]) -> bytes:
    contents = items.values()
    table = pa.table(
        {
            "item_id": pa.array(items, pa.large_string()),
            "title": pa.array([each.title for each in contents], pa.large_string()),
            "categories": pa.array([each.categories for each in contents], pa.large_list(pa.large_string())),
            "attributes": pa.array([json.dumps(each.attributes) for each in contents], pa.large_string()),
        }
    )

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()
