"""A Redis that fills up: deletions work, events are refused steadily or the oldest make room, draining cures it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from model_store.errors import StoreReadOnly, StoreUnavailable
from model_store.events.event import Event
from model_store.replication import redis_keys
from model_store.replication.redis_errors import translate_redis_error
from service.store.base import Recorded
from service.store.change_stream import RawChange
from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer
from tests.support.store_reading import newest_event
from tests.support.tcp_proxy import TcpProxy
from training.retraining.drain_events import drain, read_drained

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEYS = redis_keys.Keys()
HOUR, DAY = 3600, 86_400
Open = Callable[..., RedisStore]


@pytest.fixture
def open_store(open_store: Open) -> Open:
    """Stores that count by two half-lives: counts take room as well."""
    return partial(open_store, half_lives_s=(DAY, HOUR))


def event(number: int, user: str | None = None) -> Event:
    return Event(event_id=f"e{number}", user_id=user or f"user-{number}", item_id=f"i{number % 50}", timestamp=number)


def events(start: int, count: int) -> list[Event]:
    return [event(number) for number in range(start, start + count)]


def used(raw: Redis) -> int:
    return int(raw.info("memory")["used_memory"])


async def record_until_full(store: RedisStore, start: int) -> int:
    """Record and check in turn until Redis is full; return the number of the next event."""
    while True:
        try:
            await store.record(events(start, 200))
            await store.check()
        except StoreReadOnly:
            return start + 200
        start += 200


async def test_items_are_hidden_and_users_forgotten_while_memory_is_full(open_store: Open, raw: Redis) -> None:
    store = open_store()
    await store.record([event(1, "u"), event(2, "u"), event(3, "v")])
    await store.catalogue.append([RawChange(f"i{number}", "put", b"{}") for number in range(4)])
    raw.config_set("maxmemory", "1")
    with pytest.raises(StoreReadOnly, match="out of memory") as refused:
        await store.check()
    assert refused.value.reason == "Redis is out of memory and refuses writes"  # no address in it
    for changes in ([RawChange("i9", "put", b"{}")], [RawChange("i9", "put", b"{}"), RawChange("i1", "delete", b"")]):
        with pytest.raises(StoreReadOnly):
            await store.catalogue.append(changes)
    assert (await store.catalogue.append([RawChange("i0", "delete", b"")])).revision == 5
    several = [RawChange("i1", "delete", b""), RawChange("i2", "delete", b"")]
    assert (await store.catalogue.append(several)).revision == 7
    assert await store.forget("u") == (2, 2)
    assert (await store.history("v")).item_ids == ["i3"]
    with pytest.raises(StoreReadOnly):
        await store.record([event(4)])
    raw.config_set("maxmemory", "0")
    await store.check()
    assert await store.record([event(4)]) == Recorded(1, 0)
    latest = {each.item_id: each.kind for each in (await store.catalogue.read_latest()).changes}
    assert latest == {"i0": "delete", "i1": "delete", "i2": "delete", "i3": "put"}


async def test_a_full_redis_is_read_only_steadily_until_it_has_been_drained(
    open_store: Open, raw: Redis, own_redis: RedisServer, tmp_path: Path
) -> None:
    store = open_store()
    await store.record(events(0, 500))
    raw.config_set("maxmemory", used(raw) + 2_000_000)
    recorded = await record_until_full(store, 500)
    raw.config_set("maxmemory", round(used(raw) / 0.96))  # whatever was taken at last: less than full, no room yet
    put = await store.catalogue.append([RawChange("new", "put", b"{}")])  # there is room left for the catalogue
    assert put.revision == 1
    for _ in range(10):
        with pytest.raises(StoreReadOnly, match="takes events again"):
            await store.check()
        with pytest.raises(StoreReadOnly, match="takes events again"):
            await store.record([event(recorded)])
    drained = drain(own_redis.url, tmp_path)
    assert drained.events > 500
    await store.check()
    assert (await store.record([event(recorded)])).accepted == 1


async def test_a_redis_without_any_memory_left_can_be_drained_for_the_first_time(
    open_store: Open, raw: Redis, own_redis: RedisServer, tmp_path: Path
) -> None:
    await open_store().record(events(0, 300))
    raw.config_set("maxmemory", "1")
    assert drain(own_redis.url, tmp_path).events == 300
    assert drain(own_redis.url, tmp_path).events == 0
    assert raw.xlen(KEYS.events) == 0


async def test_ids_expire_although_a_full_redis_records_nothing(open_store: Open, raw: Redis) -> None:
    store = open_store()
    await store.record([event(1)])
    raw.zadd(KEYS.seen, {f"old-{number}": 1 for number in range(3000)})
    raw.config_set("maxmemory", "1")
    with pytest.raises(StoreReadOnly):
        await store.check()
    assert raw.zrange(KEYS.seen, 0, -1) == [b"e1"]


async def test_ids_from_the_future_count_as_recorded_now(open_store: Open, raw: Redis) -> None:
    raw.zadd(KEYS.seen, {"future": 4_000_000_000, "also": 3_900_000_000})
    await open_store().check()
    now = int(raw.time()[0])
    scores: Any = raw.zrange(KEYS.seen, 0, -1, withscores=True)
    assert {now - 100 < score <= now for _, score in scores} == {True}


async def test_the_oldest_waiting_events_are_dropped_and_histories_stay(
    open_store: Open, raw: Redis, own_redis: RedisServer, tmp_path: Path
) -> None:
    store = open_store(max_undrained_events=1000)
    for start in range(0, 5000, 1000):
        await store.record(events(start, 1000))
    waiting = (await store.backlog()).events
    assert 1000 <= waiting <= 1200
    assert store.dropped_events == 5000 - waiting
    assert (await store.history("user-0")).item_ids == ["i0"]
    assert (await store.record([event(0)])).duplicates == 1

    smaller = open_store(max_undrained_events=500)
    raw.config_set("maxmemory", "1")
    with pytest.raises(StoreReadOnly):
        await smaller.check()  # a smaller limit makes room although nothing is recorded
    raw.config_set("maxmemory", "0")
    assert 500 <= (await smaller.backlog()).events <= 700
    drain(own_redis.url, tmp_path)
    assert read_drained(tmp_path)["event_id"].to_list()[-1] == "e4999"


async def test_idle_users_expire_and_each_event_begins_the_time_anew(open_store: Open, raw: Redis) -> None:
    store = open_store(user_ttl_s=1000)
    await store.record([event(1, "u")])
    raw.expire(KEYS.history("u"), 10)
    await store.record([event(2, "u")])
    assert 990 < raw.ttl(KEYS.history("u")) <= 1000
    assert raw.ttl(KEYS.events) == raw.ttl(KEYS.seen) == -1
    raw.pexpire(KEYS.history("u"), 1)
    await asyncio.sleep(0.05)
    assert ((await store.history("u")).item_ids, await newest_event(store, "u")) == ([], None)


async def test_a_changed_setting_applies_to_histories_that_are_stored(open_store: Open, raw: Redis) -> None:
    async def reopened(**given: object) -> None:
        store = open_store(**given)
        await store.check()
        assert store._applying is not None
        await store._applying

    await open_store().record([event(number, f"u[{number}]") for number in range(1500)])
    raw.hset(KEYS.newest, "u", "1")
    for given, least, most in (({"user_ttl_s": 1000}, 900, 1000), ({"user_ttl_s": 500}, 400, 500), ({}, -1, -1)):
        await reopened(**given)
        found = {raw.ttl(KEYS.history(f"u[{number}]")) for number in range(0, 1500, 100)}
        assert least <= min(found) <= max(found) <= most
    assert not raw.exists(KEYS.newest)
    assert raw.exists(KEYS.counts(DAY), KEYS.counts(HOUR)) == 2
    await reopened(half_lives_s=(DAY, 7))
    assert (raw.exists(KEYS.counts(DAY)), raw.exists(KEYS.counts(HOUR))) == (1, 0)


async def test_a_full_redis_gets_the_expiry_that_is_to_cure_it(open_store: Open, raw: Redis) -> None:
    await open_store().record(events(0, 10))
    raw.config_set("maxmemory-policy", "noeviction")
    raw.config_set("maxmemory", "1")
    store = open_store(user_ttl_s=1000)
    with pytest.raises(StoreReadOnly):
        await store.check()
    assert store._applying is not None
    assert await store._applying
    assert {raw.ttl(KEYS.history(f"user-{number}")) > 900 for number in range(10)} == {True}


async def test_a_replica_is_not_said_to_be_out_of_memory(open_store: Open, raw: Redis) -> None:
    store = open_store()
    raw.replicaof("127.0.0.1", "1")
    for _ in range(2):
        with pytest.raises(StoreReadOnly, match="read-only replica"):
            await store.record([event(1)])
        with pytest.raises(StoreReadOnly, match="read-only replica"):
            await store.check()


async def test_idle_users_make_room_before_trends_and_waiting_events(open_store: Open, raw: Redis) -> None:
    store = open_store(user_ttl_s=DAY, max_undrained_events=2000)
    await store.record(events(0, 2000))
    await store.catalogue.append([RawChange("i", "put", b"{}")])
    raw.config_set("maxmemory", used(raw) + 3_000_000)  # ids of two days take 2 of them
    for start in range(2000, 22_000, 1000):
        assert (await store.record(events(start, 1000))).accepted == 1000
        await store.check()
    assert len(await store.counts(DAY)) == len(await store.counts(HOUR)) == 50
    assert (await store.backlog()).events >= 2000
    assert raw.hlen(KEYS.items) == 1
    assert (await store.history("user-21999")).item_ids == ["i49"]
    held = sum(1 for _ in raw.scan_iter(KEYS.history("*"), 1000))
    assert held < 20_000


async def test_a_large_batch_has_the_time_of_a_write_and_a_read_has_not(
    open_store: Open, own_redis: RedisServer
) -> None:
    proxy = TcpProxy(own_redis.port)
    await proxy.mend()
    store = open_store(own_redis.url.replace(str(own_redis.port), str(proxy.port)), timeout_ms=50)
    while True:  # connect, and load the script, while nothing is slow
        try:
            await store.record([event(0)])
            break
        except StoreUnavailable:
            await asyncio.sleep(0.1)
    proxy.delay_s = 0.25
    assert await store.record(events(1, 1000)) == Recorded(1000, 0)
    assert (await store.catalogue.append([RawChange("i", "put", b"{}")])).revision == 1
    with pytest.raises(StoreUnavailable, match="in time"):
        await store.history("user-1")
    await proxy.cut()


@pytest.mark.parametrize("answer", ["MISCONF Redis is configured to save RDB snapshots", "NOREPLICAS Not enough good"])
def test_other_refusals_of_writes_are_told_apart_from_an_outage(answer: str) -> None:
    error = translate_redis_error(ResponseError(answer), "host:1")
    assert isinstance(error, StoreReadOnly)
    assert "refuses writes" in error.reason
    assert "host" not in error.reason
