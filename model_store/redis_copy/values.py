"""Copies of the values of keys, type by type, a bounded number of entries at a time.

Every copy may be repeated, also after it was broken off: strings and lists are written anew, entries of hashes and sets
over themselves, and a stream goes on behind the last entry that the copy has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from redis import Redis

from model_store.errors import StoreCorrupt
from model_store.redis_copy.routes import Route
from model_store.replication.redis_values import EVENT_FIELD

ENTRIES = 1000
"""Entries that are read and written at a time."""

_LENGTHS = {b"string": "STRLEN", b"list": "LLEN", b"hash": "HLEN", b"zset": "ZCARD", b"stream": "XLEN"}


class CopiedKey(NamedTuple):
    """A key to be copied."""

    name: bytes
    kind: bytes  # type, as Redis names it
    route: Route


def types_of(redis: Redis, names: Sequence[bytes]) -> list[bytes]:
    """Return the type of each key, ``none`` of those that are gone."""
    with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.type(name)
        found: list[bytes] = pipeline.execute()
    return found


def lengths_of(redis: Redis, keys: Sequence[tuple[bytes | str, bytes]]) -> list[int]:
    """Return the number of entries of each key, given with its type; of a string, its bytes.

    Raises:
        StoreCorrupt: A key has another type.
    """
    with redis.pipeline(transaction=False) as pipeline:
        for name, kind in keys:
            pipeline.execute_command(_LENGTHS[kind], name)  # type: ignore[no-untyped-call]
        answers = pipeline.execute(raise_on_error=False)
    for (name, _), answer in zip(keys, answers, strict=True):
        if isinstance(answer, Exception):
            raise StoreCorrupt(f"the length of {name!r} cannot be read: {answer}", "look at that key") from answer
    return [int(answer) for answer in answers]


def copy_keys(source: Redis, target: Redis, keys: Sequence[CopiedKey]) -> int:
    """Copy keys, with their expiry, and return how many entries they have.

    Raises:
        StoreCorrupt: A key has a type that no key of a store has.
    """
    unknown = next((key for key in keys if key.kind not in _LENGTHS), None)
    if unknown is not None:
        raise StoreCorrupt(f"{unknown.name!r} is a {unknown.kind.decode()}", "another program uses the prefix")

    entries = _copy_lists(source, target, [key for key in keys if key.kind == b"list"])
    for key in keys:
        if key.kind == b"string":
            entries += _copy_string(source, target, key)
        elif key.kind == b"stream":
            entries += _copy_stream(source, target, key)
        elif key.kind != b"list":
            entries += _copy_entries(source, target, key)
    return entries


def _copy_lists(source: Redis, target: Redis, keys: Sequence[CopiedKey]) -> int:
    """Copy lists many at a time: each is short, and there is one for every user."""
    if not keys:
        return 0
    with source.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.lrange(key.name, 0, -1)
            pipeline.pttl(key.name)
        answers = pipeline.execute()

    entries = 0
    with target.pipeline(transaction=False) as pipeline:
        for key, values, lasts_ms in zip(keys, answers[::2], answers[1::2], strict=True):
            for name in key.route.targets if values else ():
                pipeline.delete(name)
                pipeline.rpush(name, *values)
                _expire(pipeline, [name], lasts_ms)
            entries += len(values)
        pipeline.execute()
    return entries


def _copy_string(source: Redis, target: Redis, key: CopiedKey) -> int:
    value = source.get(key.name)
    lasts_ms: Any = source.pttl(key.name)
    if value is None:
        return 0
    for name in key.route.targets:
        target.set(name, value, px=lasts_ms if lasts_ms > 0 else None)
    return 1


def _copy_entries(source: Redis, target: Redis, key: CopiedKey) -> int:
    """Copy a hash or a sorted set."""
    is_hash = key.kind == b"hash"
    scan: Callable[..., Iterable[Any]] = source.hscan_iter if is_hash else source.zscan_iter
    lasts_ms: Any = source.pttl(key.name)
    rest = iter(scan(key.name, count=ENTRIES))

    entries = 0
    while part := list(islice(rest, ENTRIES)):
        by_target: dict[str, dict[Any, Any]] = {}
        for entry, value in part:
            for name in key.route.targets_of(entry):
                by_target.setdefault(name, {})[entry] = value

        with target.pipeline(transaction=False) as pipeline:
            for name, mapping in by_target.items():
                if is_hash:
                    pipeline.hset(name, mapping=mapping)
                else:
                    pipeline.zadd(name, mapping)
            _expire(pipeline, by_target, lasts_ms)
            pipeline.execute()
        entries += len(part)
    return entries


def _copy_stream(source: Redis, target: Redis, key: CopiedKey) -> int:
    """Copy the entries of a stream under their ids. Consumer groups are not copied: they begin anew."""
    ends: dict[str, tuple[int, int]] = {}
    entries = 0
    for part in stream_parts(source, key.name):
        with target.pipeline(transaction=False) as pipeline:
            for entry_id, fields in part:
                for name in key.route.targets_of(fields.get(EVENT_FIELD, b"")):
                    if name not in ends:
                        ends[name] = _last_id(target, name)
                    if _numbers(entry_id) > ends[name]:
                        pipeline.xadd(name, fields, id=entry_id)
            pipeline.execute()
        entries += len(part)

    # The number of the last entry counts even if it was deleted: revisions of catalogue changes go on from there.
    last = _last_id(source, key.name)
    for name in key.route.targets if last > (0, 0) else ():
        if _last_id(target, name) < last:
            written = "{}-{}".format(*last)
            target.xadd(name, {b"last": b""}, id=written)
            target.xdel(name, written)
    return entries


def stream_parts(redis: Redis, name: bytes) -> Iterator[list[tuple[bytes, dict[Any, Any]]]]:
    """Yield the entries of a stream, :data:`ENTRIES` at a time."""
    start = "-"
    while True:
        part: Any = redis.xrange(name, min=start, count=ENTRIES)
        if not part:
            return
        yield list(part)
        start = f"({part[-1][0].decode()}"


def _last_id(redis: Redis, name: bytes | str) -> tuple[int, int]:
    """Return the newest id that a stream ever had; zeros if there is no such stream."""
    if not redis.exists(name):
        return 0, 0
    info: Any = redis.xinfo_stream(name)
    return _numbers(info["last-generated-id"])


def _numbers(entry_id: bytes) -> tuple[int, int]:
    first, _, second = entry_id.partition(b"-")
    return int(first), int(second)


def _expire(pipeline: Any, names: Iterable[str], lasts_ms: int) -> None:
    if lasts_ms > 0:
        for name in names:
            pipeline.pexpire(name, lasts_ms)
