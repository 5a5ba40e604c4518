"""A copied store answers as the store that it was copied from, in another namespace and in a cluster."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from redis import Redis

from model_store import console
from model_store.cli import app
from model_store.errors import ConfigError, StoreCorrupt, StoreUnavailable
from model_store.events.counts import Counts
from model_store.events.event import Event
from model_store.events.history_entry import UserInteractions
from model_store.redis_copy import copying
from model_store.redis_copy.copying import Side, copy_store
from model_store.redis_copy.values import CopiedKey, copy_keys
from model_store.replication.redis_address import NO_TLS_FILES
from model_store.replication.redis_keys import keys_at, prefix_of
from model_store.replication.redis_reader import reading_redis
from service.store.change_stream import RawChange, Snapshot
from service.store.counter_store import Addition
from service.store.redis_store import RedisStore
from service.store.shown_answers import ShownAnswer, Subject
from tests.support.redis_server import RedisServer
from training.retraining.drain_events import drain, read_drained

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

USERS = [f"user {{{number}}}" for number in range(40)]
ITEMS = [f"item-{number}" for number in range(7)]
ERASED = "erased user"
DAY = "2026-01-05"
HALF_LIFE_S = 10**6
TTL_S = 5000
EVENTS = [
    Event(event_id=f"e-{number}", user_id=USERS[number % len(USERS)], item_id=ITEMS[number % 7], timestamp=number + 1)
    for number in range(150)
]
SUBJECTS = [Subject("user", USERS[0]), Subject("session", "s:1")]
VERSION = "20260105t000000z-00000000"


class Place(NamedTuple):
    """A Redis and a prefix in it."""

    url: str
    prefix: str

    def side(self, redis: Redis) -> Side:
        """Return it as a side of a copy."""
        return Side(redis, keys_at(self.url, self.prefix), self.url.rpartition("@")[2])

    def store(self) -> RedisStore:
        """Open the store as the service does."""
        options: dict[str, Any] = {"timeout_ms": 10_000, "write_timeout_s": 10.0, "half_lives_s": (HALF_LIFE_S,)}
        return RedisStore(self.url, prefix=self.prefix, user_ttl_s=TTL_S, **options)


def say_nothing(_: str) -> None:
    """Report to nobody."""


def copy(source: Place, target: Place) -> copying.CopiedStore:
    with reading_redis(source.url, NO_TLS_FILES) as reading, reading_redis(target.url, NO_TLS_FILES) as writing:
        return copy_store(source.side(reading), target.side(writing), say_nothing)


async def fill(place: Place) -> None:
    """Write something of everything that a store keeps."""
    store = place.store()
    now = int(time.time())
    try:
        counts = [Counts(DAY, {"a|view": 1.0, "c|v.1|click": 0.5})] * len(EVENTS)
        assert (await store.record(EVENTS, counts=counts)).accepted == len(EVENTS)
        await store.import_histories([UserInteractions("imported", ["old", "new"], [now - 1, now], "--")])
        await store.record([Event(event_id="gone", user_id=ERASED, item_id="i", timestamp=1)])
        await store.forget(ERASED)
        await store.note_shown([ShownAnswer(subject, 10**15, ITEMS[:3]) for subject in SUBJECTS])

        changes = [RawChange(f"new-{number}", "put", b"{}") for number in range(2500)]  # more than are read at a time
        await store.catalogue.append(changes)
        latest = await store.catalogue.read_latest()

        async def make() -> Snapshot:
            return Snapshot(latest.at, "a" * 32, "b" * 64, {"a": np.arange(10)})

        assert await store.catalogue.save_snapshot(VERSION, make) is not None
        await store.catalogue.trim(latest.at.revision)
        await store.placements.put("home", b'{"k": 3}', 0)
        await store.counters.add(Addition("replica", 1, [Counts(DAY, {"a|view": 2.0})], {"ab": "view"}))
        assert await store.counters.key(b"k" * 32) == b"k" * 32
    finally:
        await store.close()


async def content(place: Place) -> dict[str, Any]:
    """Return what a service reads from a store."""
    store = place.store()
    try:
        latest = await store.catalogue.read_latest()
        snapshot = await store.catalogue.load_snapshot(VERSION)
        assert snapshot is not None
        documents = await store.placements.read(0)
        assert documents is not None
        return {
            "histories": [await store.entries(user) for user in (*USERS, "imported", ERASED)],
            "waiting": (await store.backlog()).events,
            "trends": {item: round(count, 1) for item, count in (await store.counts(HALF_LIFE_S)).items()},
            "shown": await store.shown(SUBJECTS),
            "changes": (latest.at, list(latest.changes)),
            "tail": (await store.catalogue.read_tail(VERSION, latest.at)).is_unbroken,
            "snapshot": (snapshot.at, snapshot.lineage, snapshot.arrays["a"].tolist()),
            "placements": (documents.revision, documents.changed),
            "counters": await store.counters.read([DAY, f"{DAY}:codes"]),
            "names": await store.counters.names(),
            "key": await store.counters.key(b"other"),
            "again": (await store.import_histories([UserInteractions(ERASED, ["x"], [1], "-")])).users,
            "repeated": (await store.record(EVENTS[:20])).accepted,
        }
    finally:
        await store.close()


@pytest.fixture
def source(redis_server: RedisServer, prefix: str) -> Place:
    return Place(redis_server.url, prefix)


@pytest.fixture(params=["namespace", "cluster"])
def target(request: pytest.FixtureRequest, redis_server: RedisServer, prefix: str) -> Place:
    if request.param == "namespace":
        return Place(redis_server.url, f"{prefix}-copy")
    return Place(request.getfixturevalue("redis_cluster").url, prefix)


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as client:
        yield client


async def test_a_copy_answers_as_the_store_it_was_copied_from(source: Place, target: Place, tmp_path: Path) -> None:
    await fill(source)
    copied = await asyncio.to_thread(copy, source, target)
    assert copied.keys["history"] == len(USERS) + 1
    assert copied.keys["events"] == copied.keys["changes"] == copied.keys["items"] == 1

    wanted = await content(source)
    assert wanted["waiting"] == len(EVENTS)
    assert wanted["repeated"] == 0
    assert await content(target) == wanted

    with reading_redis(target.url, NO_TLS_FILES) as redis:
        key = keys_at(target.url, target.prefix).of_user(USERS[0]).history(USERS[0])
        assert TTL_S - 600 < int(str(redis.ttl(key))) <= TTL_S
    for place, folder in ((source, "source"), (target, "target")):
        await asyncio.to_thread(drain, place.url, tmp_path / folder, prefix=place.prefix)
    assert read_drained(tmp_path / "target").equals(read_drained(tmp_path / "source"))
    assert len(read_drained(tmp_path / "target")) == len(EVENTS)
    with pytest.raises(ConfigError, match="already holds keys"):  # a copy that is done is not overwritten
        await asyncio.to_thread(copy, source, target)


async def test_a_copy_that_is_broken_off_anywhere_goes_on(
    source: Place, target: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(source)
    monkeypatch.setattr(copying, "_KEYS", 5)
    pages = 0
    breaks = {2, 5, 11, 20}

    def break_off(reading: Redis, writing: Redis, keys: Sequence[CopiedKey]) -> int:
        nonlocal pages
        pages += 1
        if pages in breaks:
            copy_keys(reading, writing, keys[: len(keys) // 2])
            raise StoreUnavailable("the cable was pulled")
        return copy_keys(reading, writing, keys)

    monkeypatch.setattr(copying, "copy_keys", break_off)
    other = Place(source.url, f"{source.prefix}-other")
    for _ in breaks:
        with pytest.raises(StoreUnavailable, match="cable"):
            await asyncio.to_thread(copy, source, target)
        with pytest.raises(ConfigError, match="holds an unfinished copy of"):
            await asyncio.to_thread(copy, other, target)

    await asyncio.to_thread(copy, source, target)
    assert pages > max(breaks)
    assert await content(target) == await content(source)


@pytest.mark.parametrize("lost", ["history", "events", "items", "erased"])
async def test_a_copy_that_lacks_something_is_found_out(
    source: Place, target: Place, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    await fill(source)

    def lose(reading: Redis, writing: Redis, keys: Sequence[CopiedKey]) -> int:
        without = next((key for key in keys if key.route.kind == lost), None)
        return copy_keys(reading, writing, [key for key in keys if key is not without])

    monkeypatch.setattr(copying, "copy_keys", lose)
    with pytest.raises(StoreCorrupt, match=r"has \d+ entries, its copy 0 instead of"):
        await asyncio.to_thread(copy, source, target)


async def test_a_key_that_nobody_knows_is_refused_before_anything_is_written(
    source: Place, target: Place, raw: Redis
) -> None:
    raw.set(f"{source.prefix}:of-tomorrow", "1")
    raw.rpush(f"{source.prefix}:history:u", "1")
    with pytest.raises(StoreCorrupt, match=r"1 keys that this release does not know, such as .*:of-tomorrow"):
        await asyncio.to_thread(copy, source, target)
    with reading_redis(target.url, NO_TLS_FILES) as redis:
        assert not redis.exists(keys_at(target.url, target.prefix).copying)


def test_a_key_of_another_type_is_named(source: Place, target: Place, raw: Redis) -> None:
    raw.sadd(f"{source.prefix}:history:u", "1")
    with pytest.raises(StoreCorrupt, match=":history:u' is a set"):
        copy(source, target)


def test_the_command_copies_from_one_namespace_to_another(
    redis_server: RedisServer, prefix: str, raw: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = f"{prefix[:20]}-old", f"{prefix[:20]}-new"
    raw.rpush(f"{prefix_of(old)}:history:u", "item")
    raw.set(f"{prefix_of(old)}:probe", "1")
    given = ["copy-redis", "--from", redis_server.url, "--to", redis_server.url, "--from-namespace", old]
    assert console.run(app, "etegrec-models", [*given, "--to-namespace", new, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"keys": {"history": 1}, "left": 1, "entries": 1}
    assert raw.lrange(f"{prefix_of(new)}:history:u", 0, -1) == [b"item"]
    assert raw.keys(f"{prefix_of(new)}:*") == [f"{prefix_of(new)}:history:u".encode()]
    assert console.run(app, "etegrec-models", [*given, "--to-namespace", new]) == 3
    assert "already holds keys" in capsys.readouterr().err
    assert console.run(app, "etegrec-models", [*given, "--to-namespace", "Not One"]) == 3
