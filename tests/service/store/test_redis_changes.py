"""The change stream in Redis: gaps, lost ends and damaged entries are seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis

from model_store.errors import StoreCorrupt
from model_store.replication import redis_keys
from service.store.change_stream import Position
from service.store.redis_store import RedisStore
from tests.support.store_writing import change

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEYS = redis_keys.Keys()
Open = Callable[..., RedisStore]


async def test_a_gap_in_the_stream_is_seen_and_revisions_survive_an_emptied_one(open_store: Open, raw: Redis) -> None:
    store = open_store()
    places = [await store.catalogue.append([change(n)]) for n in range(3)]
    raw.xdel(KEYS.changes, f"{places[1].revision}-{places[1].nonce}")
    assert not (await store.catalogue.read_tail("v", Position())).is_unbroken
    assert not (await store.catalogue.read_tail("v", places[0])).is_unbroken
    assert not (await store.catalogue.read_tail("v", places[1])).is_unbroken
    assert (await store.catalogue.read_tail("v", places[2])).is_unbroken
    raw.xtrim(KEYS.changes, maxlen=0)
    assert not (await store.catalogue.read_tail("v", places[2])).is_unbroken
    assert (await store.catalogue.append([change(9)])).revision == 4


async def test_a_stream_that_lost_its_end_and_went_on_is_not_mistaken_for_the_old_one(
    open_store: Open, raw: Redis
) -> None:
    store = open_store()
    places = [await store.catalogue.append([change(n)]) for n in range(3)]
    raw.xtrim(KEYS.changes, maxlen=0)
    raw.xadd(KEYS.changes, {"item": "i", "kind": "put", "payload": "{}"}, id="4-1")
    raw.delete(KEYS.changes)
    for n in range(5):
        await store.catalogue.append([change(n)])
    for place in places:
        assert not (await store.catalogue.read_tail("v", place)).is_unbroken


async def test_damaged_changes_are_refused_in_the_stream_and_left_out_of_the_latest(
    open_store: Open, raw: Redis
) -> None:
    store = open_store()
    at = await store.catalogue.append([change(1)])
    raw.hset(KEYS.items, "noise", b"noise")
    raw.hset(KEYS.items, "kind", b"1 1-0 melt {}")
    raw.hset(KEYS.items, b"\xff", b"1 1-0 put {}")
    assert [each.item_id for each in (await store.catalogue.read_latest()).changes] == ["i1"]
    assert store.catalogue.corrupt_values == 3
    raw.xadd(KEYS.changes, {"item": "i", "kind": "melt", "payload": "{}"}, id=f"{at.revision + 1}-0")
    with pytest.raises(StoreCorrupt, match="revision 2"):
        await store.catalogue.read_tail("v", at)


async def test_a_change_leaves_no_trace_where_a_key_holds_another_type(open_store: Open, raw: Redis) -> None:
    store = open_store()
    raw.set(KEYS.items, "text")
    with pytest.raises(StoreCorrupt):
        await store.catalogue.append([change(1)])
    assert not raw.exists(KEYS.changes)
