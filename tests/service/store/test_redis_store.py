"""Redis trouble: each kind, on a real server, seen through the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from model_store.errors import ConfigError, StoreCorrupt, StoreUnavailable
from model_store.events.event import Event
from model_store.replication import redis_keys
from service.store.change_stream import Position
from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer
from tests.support.store_reading import newest_event
from tests.support.store_writing import change, save, snapshot

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEYS = redis_keys.Keys()
Open = Callable[..., RedisStore]


def event(number: int) -> Event:
    return Event(event_id=f"e{number}", user_id="u", item_id=f"i{number}", timestamp=number)


@contextmanager
def paused(raw: Redis) -> Iterator[None]:
    raw.client_pause(600_000, all=False)  # a pause of all commands would hold back UNPAUSE too
    yield
    raw.client_unpause()


async def until_back(store: RedisStore) -> None:
    while True:  # the fixture's timeout ends this, should it never come back
        try:
            return await store.ping()
        except StoreUnavailable:
            await asyncio.sleep(0.02)


async def test_killed_server_opens_the_circuit_and_comes_back(open_store: Open, own_redis: RedisServer) -> None:
    store = open_store()
    await store.record([event(1)])
    own_redis.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.history("u")
    was_down = store.is_down
    assert was_down
    own_redis.start()
    await asyncio.sleep(0.1)  # a probe is due; reads of histories are none, since somebody waits for them
    with pytest.raises(StoreUnavailable, match="not asked for now"):
        await store.history("u")
    await until_back(store)
    assert not store.is_down
    assert (await store.history("u")).item_ids == ["i1"]
    assert (await store.record([event(1), event(2)])).accepted == 1


async def test_open_circuit_asks_nothing(open_store: Open, own_redis: RedisServer) -> None:
    store = open_store(breaker_pause_s=3600)
    own_redis.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.ping()
    own_redis.start()
    with pytest.raises(StoreUnavailable, match="not asked for now"):
        await store.ping()


async def test_frozen_server_is_unavailable_instead_of_hanging(open_store: Open, own_redis: RedisServer) -> None:
    store = open_store(timeout_ms=300, write_timeout_s=1.0)
    await until_back(store)
    with own_redis.frozen():
        for call in (store.history("u"), store.record([event(1)]), store.entries("u")):
            with pytest.raises(StoreUnavailable):
                await call
    await until_back(store)
    assert (await open_store().record([event(2)])).accepted == 1  # a patient one: the disk may be slow


async def test_paused_writes_are_unavailable_while_reads_go_on(open_store: Open, raw: Redis) -> None:
    store = open_store(timeout_ms=1000, write_timeout_s=1.0)
    await store.record([event(1)])
    with paused(raw):
        with pytest.raises(StoreUnavailable, match="in time"):
            await store.record([event(2)])
        assert (await store.history("u")).item_ids == ["i1"]
    assert (await store.record([event(3)])).accepted == 1


async def test_wrong_password_names_the_fix_and_keeps_the_secret(open_store: Open, own_redis: RedisServer) -> None:
    store = open_store(own_redis.url.replace("right", "wr0ng-secret"))
    with pytest.raises(StoreUnavailable, match="refuses the credentials") as caught:
        await store.history("u")
    assert "ETEGREC_REDIS_URL" in caught.value.hint
    assert "wr0ng-secret" not in str(caught.value) + caught.value.hint
    with pytest.raises(StoreUnavailable, match="refuses the credentials"):
        await store.catalogue.load_snapshot("v")


async def test_full_server_refuses_writes_whole_and_still_reads(open_store: Open, raw: Redis) -> None:
    store = open_store()
    await store.record([event(1)])
    await store.check()
    raw.config_set("maxmemory", "1")
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="out of memory"):
            await store.record([event(2)])
    assert not store.is_down
    assert (await store.history("u")).item_ids == ["i1"]
    assert not raw.exists(KEYS.probe)  # evicted first, because it has an expiry
    raw.config_set("maxmemory", "0")
    await store.check()
    assert (await store.record([event(1), event(2)])).accepted == 1  # markers survived the shortage
    assert raw.xlen(KEYS.events) == 2


async def test_read_only_server_is_unavailable(open_store: Open, raw: Redis) -> None:
    store = open_store()
    raw.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreUnavailable, match="read-only"):
        await store.record([event(1)])


async def test_missing_server_is_unavailable_for_every_method(open_store: Open, own_redis: RedisServer) -> None:
    own_redis.kill()
    store = open_store()
    calls = [
        store.forget("u"),
        store.check(),
        store.catalogue.append([change(0)]),
        store.catalogue.append([change(0), change(1)]),
        store.catalogue.read_tail("v", Position()),
        store.catalogue.read_latest(),
        store.catalogue.trim(1),
        store.catalogue.restart(1, [change(0)]),
        store.catalogue.load_snapshot("v"),
        save(store, snapshot(1)),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            await call


async def test_undecodable_history_entries_are_skipped_and_counted(open_store: Open, raw: Redis) -> None:
    store = open_store()
    raw.rpush(KEYS.history("u"), "i1", b"\xff\xfe", "x" * 200, "i2")
    assert (await store.history("u")).item_ids == ["i1", "i2"]
    assert store.corrupt_values == 2


async def test_value_of_another_type_is_corrupt_and_leaves_no_trace(open_store: Open, raw: Redis) -> None:
    store = open_store()
    raw.set(KEYS.history("u"), "text")
    with pytest.raises(StoreCorrupt):
        await store.history("u")
    with pytest.raises(StoreCorrupt):
        await store.record([event(1)])
    assert raw.keys("*") == [KEYS.history("u").encode()]
    raw.delete(KEYS.history("u"))
    assert (await store.record([event(1)])).accepted == 1
    assert raw.xlen(KEYS.events) == 1
    assert (await store.history("u")).item_ids == ["i1"]


async def test_a_damaged_newest_time_of_an_earlier_release_counts_as_unknown(open_store: Open, raw: Redis) -> None:
    store = open_store()
    raw.rpush(KEYS.history("u"), "i0", b"\xffnoon")
    assert await newest_event(store, "u") == 0
    assert store.corrupt_values == 1
    await store.record([event(1)])
    assert await newest_event(store, "u") == event(1).timestamp
    assert (await store.history("u")).item_ids == ["i0", "i1"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "redis://:secret@host:port", "redis://:secret@[host"])
def test_url_must_be_one(url: str) -> None:
    with pytest.raises(ConfigError, match="ETEGREC_REDIS_URL") as refused:
        RedisStore(url)
    assert "secret" not in str(refused.value) + refused.value.hint
