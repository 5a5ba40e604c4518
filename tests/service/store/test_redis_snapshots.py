"""Snapshots in Redis: whole or not at all, by one writer at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from redis import Redis

from model_store.errors import StoreCorrupt, StoreUnavailable
from model_store.replication import redis_keys
from model_store.replication.snapshots import CHUNK_BYTES
from service.store.change_stream import Snapshot
from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer
from tests.support.store_writing import save, snapshot

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEYS = redis_keys.Keys()
Open = Callable[..., RedisStore]


async def test_damaged_snapshot_is_refused_and_repaired(open_store: Open, raw: Redis) -> None:
    store = open_store()
    await save(store, snapshot(1))
    (chunk,) = raw.keys("*:chunk:*")
    raw.setrange(chunk, raw.strlen(chunk) - 3, "!")
    with pytest.raises(StoreCorrupt):
        await store.catalogue.load_snapshot("v")
    raw.delete(chunk)
    with pytest.raises(StoreCorrupt, match="lacks chunks"):
        await store.catalogue.load_snapshot("v")
    raw.set(KEYS.head("v"), "{}")
    with pytest.raises(StoreCorrupt):
        await store.catalogue.load_snapshot("v")
    assert await save(store, snapshot(1))
    assert (await store.catalogue.load_snapshot("v")) is not None


async def test_two_writers_publish_one_snapshot(open_store: Open, raw: Redis) -> None:
    first, second = open_store(), open_store()
    outcomes = await asyncio.gather(save(first, snapshot(1)), save(second, snapshot(1)))
    assert sorted(outcome is None for outcome in outcomes) == [False, True]
    assert len(raw.keys("*:chunk:*")) == 1
    assert raw.ttl(raw.keys("*:chunk:*")[0]) == -1
    assert raw.get(KEYS.lock("v")) is None


async def test_held_lock_is_respected_and_not_released_by_others(open_store: Open, raw: Redis) -> None:
    raw.set(KEYS.lock("v"), "someone else", px=600_000)
    assert await save(open_store(), snapshot(1)) is None
    assert raw.get(KEYS.lock("v")) == b"someone else"
    assert raw.keys("*:chunk:*") == []


@pytest.mark.parametrize(("holder", "message"), [("someone else", None), (None, "longer than its lock")])
async def test_writer_that_lost_its_lock_publishes_nothing(
    open_store: Open, raw: Redis, holder: str | None, message: str | None
) -> None:
    store = open_store()
    saving = asyncio.create_task(save(store, snapshot(1, 10 * CHUNK_BYTES // 4)))
    while not raw.keys("*:chunk:*"):  # the writer is at work; take its lock away before it publishes
        await asyncio.sleep(0)
    if holder is None:
        raw.delete(KEYS.lock("v"))
    else:
        raw.set(KEYS.lock("v"), holder, px=600_000)
    if message is None:
        assert await saving is None
    else:
        with pytest.raises(StoreUnavailable, match=message):
            await saving
    assert raw.get(KEYS.head("v")) is None
    assert all(raw.ttl(chunk) > 0 for chunk in raw.keys("*:chunk:*"))


async def test_large_snapshot_spans_chunks_and_old_chunks_expire(open_store: Open, raw: Redis) -> None:
    store = open_store()
    size = CHUNK_BYTES // 4 + 1000
    await save(store, snapshot(1, size))
    old = set(raw.keys("*:chunk:*"))
    assert len(old) == 2
    await save(store, snapshot(2, size))
    new = set(raw.keys("*:chunk:*")) - old
    assert len(new) == 2
    assert all(raw.ttl(key) == -1 for key in new)
    assert all(raw.ttl(key) > 0 for key in old)
    loaded = await store.catalogue.load_snapshot("v")
    assert loaded is not None
    np.testing.assert_array_equal(loaded.arrays["a"], snapshot(2, size).arrays["a"])


async def test_a_lock_is_renewed_while_its_holder_works(open_store: Open, raw: Redis) -> None:
    store = open_store(lock_ttl_s=6)

    async def make() -> Snapshot:
        left = raw.pttl(KEYS.lock("v"))
        while (now := raw.pttl(KEYS.lock("v"))) <= left:
            left = now
            await asyncio.sleep(0.05)
        return snapshot(1)

    async with asyncio.timeout(60):
        assert await store.catalogue.save_snapshot("v", make) is not None
    assert raw.get(KEYS.lock("v")) is None


async def test_a_lock_that_could_not_be_let_go_is_let_go_by_the_next_call(
    open_store: Open, own_redis: RedisServer, raw: Redis
) -> None:
    store = open_store()

    async def killed_meanwhile() -> Snapshot:
        own_redis.kill()
        return snapshot(1)

    with pytest.raises(StoreUnavailable):
        await store.catalogue.save_snapshot("v", killed_meanwhile)
    own_redis.start()
    assert raw.exists(KEYS.lock("v"))
    assert await save(store, snapshot(1)) is not None
