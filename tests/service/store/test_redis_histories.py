"""Histories in Redis: those of earlier releases, expiry, and room for imports."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from redis import Redis

from model_store.errors import StoreCorrupt, StoreReadOnly
from model_store.events.event import Event
from model_store.events.history_entry import UserInteractions
from model_store.replication import redis_keys, redis_values
from service.store.base import NOT_IMPORTED, History, Imported
from service.store.redis_store import RedisStore

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEYS = redis_keys.Keys()
DAY = 86_400
Open = Callable[..., RedisStore]


def event(item: str, timestamp: int, user: str = "u") -> Event:
    return Event(event_id=f"{user}-{item}", user_id=user, item_id=item, type="view", timestamp=timestamp)


def past(user: str, *interactions: tuple[int, str]) -> UserInteractions:
    times, items = zip(*interactions, strict=True)
    return UserInteractions(user, list(items), list(times), "-" * len(items))


def as_before(raw: Redis, newest: int, *item_ids: str) -> None:
    """Append item ids and the newest time, as earlier releases stored histories."""
    raw.rpush(KEYS.history("u"), *item_ids, b"\xff%d" % newest)


async def test_histories_of_earlier_releases_are_read_and_count_as_old_as_their_newest(
    open_store: Open, raw: Redis
) -> None:
    store = open_store(history_cap=4)
    as_before(raw, 20, "a", "b", "c")
    assert await store.history("u") == History(["a", "b", "c"], b"~~~")
    assert [each.timestamp for each in await store.entries("u")] == [20, 20, 20]
    await store.record([event("d", 30), event("old", 10)])
    assert await store.history("u") == History(["a", "b", "c", "d"], b"~~~v")
    assert raw.llen(KEYS.history("u")) == 4
    assert store.corrupt_values == 0


async def test_a_replica_of_an_earlier_release_may_write_in_between(open_store: Open, raw: Redis) -> None:
    store = open_store(history_cap=6)
    await store.record([event("a", 10), event("b", 30)])
    as_before(raw, 20, "c")
    assert (await store.history("u")).item_ids == ["a", "c", "b"]
    await store.record([event("d", 40)])
    assert await store.history("u") == History(["a", "c", "b", "d"], b"v~vv")
    assert [each.timestamp for each in await store.entries("u")] == [10, 20, 30, 40]


async def test_an_earlier_release_leaves_out_what_this_one_wrote(open_store: Open, raw: Redis) -> None:
    await open_store().record([event("a", 10)])
    [entry] = raw.lrange(KEYS.history("u"), 0, -1)
    assert isinstance(entry, bytes)
    with pytest.raises(StoreCorrupt):
        redis_values.decode_item_id(entry)


async def test_an_import_knows_items_that_an_earlier_release_stored(open_store: Open, raw: Redis) -> None:
    store = open_store()
    as_before(raw, 20, "a", "b")
    assert await store.import_histories([past("u", (5, "x"), (7, "a"), (20, "b"))]) == Imported(1, 1)
    assert (await store.history("u")).item_ids == ["x", "a", "b"]
    await store.record([event("b", 30)])
    assert await store.import_histories([past("u", (5, "x"), (7, "a"), (20, "b"))]) == Imported(0, 0)


async def test_a_key_of_another_type_is_left_alone_by_an_import(open_store: Open, raw: Redis) -> None:
    store = open_store()
    raw.set(KEYS.history("u"), "text")
    assert await store.import_histories([past("u", (5, "x")), past("v", (5, "x"))]) == Imported(1, 1)
    assert raw.get(KEYS.history("u")) == b"text"


async def test_a_damaged_progress_begins_anew(open_store: Open, raw: Redis) -> None:
    raw.hset(KEYS.imports, "v", "many")
    assert await open_store().import_progress("v") == NOT_IMPORTED


async def test_users_who_were_idle_for_too_long_are_not_imported(open_store: Open, raw: Redis) -> None:
    store = open_store(user_ttl_s=30 * DAY)
    now = int(time.time())
    await store.record([event("e", now, "known")])
    ttl = raw.ttl(KEYS.history("known"))
    imports = [
        past("gone", (now - 31 * DAY, "a")),
        past("idle", (now - 40 * DAY, "a"), (now - 10 * DAY, "b")),
        past("untimed", (0, "a")),
        past("known", (now - 31 * DAY, "a")),
    ]
    assert await store.import_histories(imports) == Imported(3, 4)
    assert not raw.exists(KEYS.history("gone"))
    assert 19 * DAY < raw.ttl(KEYS.history("idle")) <= 20 * DAY
    assert 29 * DAY < raw.ttl(KEYS.history("untimed")) <= 30 * DAY
    assert ttl - 60 < raw.ttl(KEYS.history("known")) <= ttl
    assert (await store.history("known")).item_ids == ["a", "e"]


async def test_histories_of_thousands_of_interactions_are_imported_and_ordered(open_store: Open) -> None:
    store = open_store(history_cap=5000)
    await store.import_histories([past("u", *((2 * n, f"i{n}") for n in range(6000)))])
    await store.record([event("late", 4001), event("newest", 20_000)])
    item_ids = (await store.history("u")).item_ids
    assert len(item_ids) == 5000
    assert item_ids[0] == "i1002"
    assert item_ids[item_ids.index("late") - 1 :][:3] == ["i2000", "late", "i2001"]


async def test_imports_stop_before_memory_is_full_and_events_go_on(open_store: Open, raw: Redis) -> None:
    store = open_store()
    filler = [past(f"user-{n}", *((t, f"item-{t}") for t in range(200))) for n in range(400)]
    await store.import_histories(filler[:50])
    for n in range(200):  # or the difference between the two limits would be some kilobytes; in small pieces, because
        raw.set(f"ballast-{n}", b"x" * 100_000)  # Redis frees the buffer that it received them in at some later time
    used = int(raw.info("memory")["used_memory"])
    raw.config_set("maxmemory-policy", "noeviction")
    raw.config_set("maxmemory", int(used / 0.93))
    await store.check()
    with pytest.raises(StoreReadOnly, match="histories are imported below 90%") as refused:
        await store.import_histories(filler[50:51])
    assert "maxmemory" in refused.value.hint
    assert (await store.record([event("a", 1)])).accepted == 1
    raw.config_set("maxmemory", 0)
    await store.check()
    assert await store.import_histories(filler[50:51]) == Imported(1, 200)


async def test_an_import_into_full_memory_changes_nothing(open_store: Open, raw: Redis) -> None:
    store = open_store()
    await store.record([event("a", 10)])
    raw.config_set("maxmemory", 1)
    with pytest.raises(StoreReadOnly):
        await store.import_histories([past("u", (5, "x"))])
    assert (await store.history("u")).item_ids == ["a"]
    assert (await store.forget("u")).history == 1  # and its tombstone finds room
    raw.config_set("maxmemory", 0)
    await store.check()
    assert await store.import_histories([past("u", (5, "x"))]) == Imported(0, 0)
