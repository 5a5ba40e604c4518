"""Copying of a whole store from one Redis to another while nothing writes to either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from redis import Redis

from model_store.errors import ConfigError, StoreCorrupt
from model_store.redis_copy.routes import Routes
from model_store.redis_copy.values import CopiedKey, copy_keys, lengths_of, stream_parts, types_of
from model_store.replication.redis_keys import Keys
from model_store.replication.redis_values import EVENT_FIELD, decode_event

_KEYS = 500
"""Keys that are handled at a time: lists of users are read together."""

Say = Callable[[str], None]


@dataclass
class CopiedStore:
    """Numbers of keys by what they hold, and of all entries in them.

    Attributes:
        keys: Keys that were copied.
        left: Keys that stay behind: locks, and what cannot be assigned to a partition.
        entries: Entries of all keys that were copied.
    """

    keys: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    entries: int = 0


@dataclass(frozen=True)
class Side:
    """One of the two stores."""

    redis: Redis
    keys: Keys
    place: str
    """Where it is, without a password."""


def copy_store(source: Side, target: Side, say: Say) -> CopiedStore:
    """Copy all keys of a store, and compare the lengths of all of them afterwards.

    A copy that was broken off is gone on with by calling it again. Nothing may write to either store meanwhile.

    Raises:
        ConfigError: The target has keys that this copy did not write, or would have to join partitions.
        StoreCorrupt: The source has keys that this release does not know, or the copy differs from it.
    """
    routes = Routes(source.keys, target.keys)
    _check_known(source, routes)
    _begin(source, target)

    copied = CopiedStore()
    for names in _pages(source):
        _copy_page(source, target, routes, names, copied)
        done = copied.keys.total()
        if done // 100_000 > (done - len(names)) // 100_000:
            say(f"{done:,} keys copied")

    say(f"{copied.keys.total():,} keys copied; comparing")
    _compare(source, target, routes)
    target.redis.delete(target.keys.copying)
    return copied


def _begin(source: Side, target: Side) -> None:
    """Mark the target as a copy of this source; refuse one that holds something else."""
    if source.redis.exists(source.keys.copying):
        raise ConfigError(f"{source.place} is itself an unfinished copy", "finish that copy first")
    mark = f"{source.place} {source.keys.prefix}"
    found: Any = target.redis.get(target.keys.copying)
    if found is not None and found.decode(errors="replace") != mark:
        raise ConfigError(
            f"{target.place} holds an unfinished copy of {found.decode(errors='replace')}", "finish or delete that one"
        )
    if found is None:
        held = next((names[0] for names in _pages(target)), None)
        if held is not None:
            raise ConfigError(
                f"{target.place} already holds keys with the prefix {target.keys.prefix}, such as {held!r}",
                "delete them, or name another namespace or Redis",
            )
        target.redis.set(target.keys.copying, mark)


def _check_known(source: Side, routes: Routes) -> None:
    """Raise :class:`StoreCorrupt` if a key would be lost, before anything is written."""
    unknown = 0
    example = b""
    for names in _pages(source):
        for name in names:
            if routes.route(name) is None:
                unknown += 1
                example = name
    if unknown:
        raise StoreCorrupt(
            f"{source.place} has {unknown} keys that this release does not know, such as {example!r}",
            "delete them, or use the release that wrote them",
        )


def _copy_page(source: Side, target: Side, routes: Routes, names: Sequence[bytes], copied: CopiedStore) -> None:
    keys = _routed(source, routes, names)
    for key in keys:
        (copied.keys if key.route.targets else copied.left)[key.route.kind] += 1

    copied.entries += copy_keys(source.redis, target.redis, [key for key in keys if key.route.targets])
    for key in keys:
        if key.route.kind == "events" and key.route.choose:
            _copy_seen(source, target, key)


def _copy_seen(source: Side, target: Side, events: CopiedKey) -> None:
    """Copy the ids of waiting events to the partitions of their users, which the ids themselves do not say."""
    for part in stream_parts(source.redis, events.name):
        ids: dict[str, list[str]] = {}
        for _, fields in part:
            with suppress(StoreCorrupt):  # it has no id; retraining reports it
                event = decode_event(fields.get(EVENT_FIELD))
                ids.setdefault(target.keys.of_user(event.user_id).seen, []).append(event.event_id)

        for name, each in ids.items():
            scores: Any = source.redis.zmscore(source.keys.seen, each)
            recorded = {event_id: score for event_id, score in zip(each, scores, strict=True) if score is not None}
            if recorded:
                target.redis.zadd(name, recorded)


def _compare(source: Side, target: Side, routes: Routes) -> None:
    """Raise :class:`StoreCorrupt` unless each key has as many entries in the copy."""
    for names in _pages(source):
        keys = [key for key in _routed(source, routes, names) if key.route.targets]
        wanted = lengths_of(source.redis, [(key.name, key.kind) for key in keys])
        copies = [(name, key.kind) for key in keys for name in key.route.targets]
        lengths = iter(lengths_of(target.redis, copies))

        for key, length in zip(keys, wanted, strict=True):
            held = sum(islice(lengths, len(key.route.targets)))
            if held != length * key.route.copies and source.redis.exists(key.name):  # else it has expired meanwhile
                raise StoreCorrupt(
                    f"{key.name!r} has {length} entries, its copy {held} instead of {length * key.route.copies}",
                    "let nothing write to either Redis, and begin again with an empty target",
                )


def _routed(source: Side, routes: Routes, names: Sequence[bytes]) -> list[CopiedKey]:
    """Return the keys that still exist, with their types and routes."""
    found = []
    for name, kind in zip(names, types_of(source.redis, names), strict=True):
        route = routes.route(name)
        if route is None:
            raise StoreCorrupt(f"{name!r} was written meanwhile", "let nothing write to the source, and begin again")
        if kind != b"none":
            found.append(CopiedKey(name, kind, route))
    return found


def _pages(side: Side) -> Iterator[list[bytes]]:
    """Yield the names of all keys of a store. Redis may name a key twice while its table grows or shrinks."""
    for pattern in side.keys.patterns:
        names = side.redis.scan_iter(match=pattern, count=_KEYS)
        while page := list(dict.fromkeys(islice(names, _KEYS))):
            yield page
