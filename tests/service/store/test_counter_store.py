"""The contract of counters, run on both stores and on a cluster: atomic with events, and nothing counts twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis

from model_store.attribution.keys import STORED_NAME
from model_store.errors import StoreCorrupt
from model_store.events.counts import NO_COUNTS, Counts, codes_of_day
from model_store.events.event import Event
from service.store.base import Recorded, Store
from service.store.counter_store import Addition
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.redis_cluster import RedisClusterGroup
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

DAY = "2026-01-05"
HALF_LIFE_S = 3600
PATIENT_MS = 10_000  # a loaded machine must not fail a test of behaviour

Opener = Callable[[], Store]


@pytest.fixture(params=["redis", "cluster", "embedded"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Opener:
    if request.param == "embedded":
        return lambda: EmbeddedStore(tmp_path / "events", half_lives_s=[HALF_LIFE_S])

    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    else:
        cluster: RedisClusterGroup = request.getfixturevalue("redis_cluster")
        url = cluster.url
    return lambda: RedisStore(url, prefix=prefix, half_lives_s=[HALF_LIFE_S], timeout_ms=PATIENT_MS, write_timeout_s=10)


@asynccontextmanager
async def opened(open_store: Opener) -> AsyncIterator[Store]:
    store = open_store()
    try:
        async with asyncio.timeout(120):
            yield store
    finally:
        await store.close()


@pytest.fixture
async def store(open_store: Opener) -> AsyncIterator[Store]:
    async with opened(open_store) as made:
        yield made


def event(number: int, kind: str = "click", user: str | None = None, **given: object) -> Event:
    fields = {"event_id": f"e{number}", "user_id": user or f"u{number}", "item_id": "i", "timestamp": int(time.time())}
    return Event.model_validate({**fields, "type": kind, **given})


def clicks(amount: float = 1, day: str = DAY) -> Counts:
    return Counts(day, {"v|0000000a|click": amount, "v|0000000a|click|EUR": amount / 4})


async def test_a_repeated_event_counts_once(store: Store) -> None:
    events = [event(number) for number in range(40)]  # of many users: in a cluster they are in many partitions
    counts = [clicks()] * 39 + [NO_COUNTS]
    assert await store.record(events, counts=counts) == Recorded(40, 0)
    assert await store.record(events, counts=counts) == Recorded(0, 40)
    [found] = await store.counters.read([DAY])
    assert found == {"v|0000000a|click": 39, "v|0000000a|click|EUR": 39 / 4}


async def test_events_of_one_call_may_belong_to_several_days(store: Store) -> None:
    events = [event(number, user="u") for number in range(600)]
    await store.record(events, counts=[clicks(day=f"2026-01-0{1 + number % 3}") for number in range(600)])
    found = await store.counters.read(["2026-01-03", "2026-01-01", "2026-01-09"])
    assert [each.get("v|0000000a|click", 0) for each in found] == [200, 200, 0]


async def test_events_without_counts_add_nothing(store: Store) -> None:
    await store.record([event(1)])
    assert await store.counters.read([DAY]) == [{}]


async def test_an_impression_is_recorded_but_is_no_interaction(store: Store) -> None:
    assert await store.record([event(1, "impression", user="u")], counts=[clicks()]) == Recorded(1, 0)
    assert await store.record([event(1, "impression", user="u")], counts=[clicks()]) == Recorded(0, 1)
    assert (await store.history("u")).item_ids == []
    assert await store.counts(HALF_LIFE_S) == {}
    assert (await store.backlog()).events == 1
    assert (await store.counters.read([DAY]))[0]["v|0000000a|click"] == 1


async def test_what_speaks_against_an_item_is_in_the_history_but_no_trend(store: Store) -> None:
    kinds = ("view", "dislike", "hide", "wish_list")
    events = [event(number, kind, user="u", item_id=kind) for number, kind in enumerate(kinds)]
    await store.record(events)
    found = await store.history("u")
    assert (found.item_ids, found.letters) == (list(kinds), b"vdho")
    assert (await store.counts(HALF_LIFE_S)).keys() == {"view", "wish_list"}


async def test_an_addition_that_is_repeated_counts_once(store: Store) -> None:
    addition = Addition("replica", 1, [clicks(2), clicks(3), clicks(7, "2026-01-06")], {"0000000a": "a | name"})
    await store.counters.add(addition)
    await store.counters.add(addition._replace(number=2))
    await store.counters.add(addition._replace(replica="other", names={}))
    [first, second] = await store.counters.read([DAY, "2026-01-06"])
    assert (first["v|0000000a|click"], second["v|0000000a|click"]) == (15, 21)
    assert await store.counters.names() == {"0000000a": "a | name"}


async def test_days_are_deleted(store: Store) -> None:
    await store.counters.add(Addition("r", 1, [clicks(), clicks(day="2026-01-06")], {}))
    await store.counters.delete([DAY, "1999-01-01"])
    assert [len(each) for each in await store.counters.read([DAY, "2026-01-06"])] == [0, 2]


async def test_everything_is_there_after_a_restart(open_store: Opener) -> None:
    async with opened(open_store) as first:
        await first.record([event(1)], counts=[clicks()])
        await first.counters.add(Addition("r", 1, [clicks(2), clicks(day="2026-01-01")], {"0000000a": "name"}))
        await first.counters.delete(["2026-01-01"])
        key = await first.counters.key(b"k" * 32)
        assert key == b"k" * 32
    for _ in range(2):
        async with opened(open_store) as again:
            assert [len(each) for each in await again.counters.read([DAY, "2026-01-01"])] == [2, 0]
            assert (await again.counters.read([DAY]))[0]["v|0000000a|click"] == 3
            assert await again.counters.names() == {"0000000a": "name"}
            assert await again.counters.key(b"x" * 32) == key
            assert await again.record([event(1)], counts=[clicks()]) == Recorded(0, 1)


async def test_counters_by_code_are_kept_apart_with_their_day(open_store: Opener) -> None:
    by_code = {"c|0000000a.3|click": 1.0}
    counts = clicks()._replace(amounts={**clicks().amounts, **by_code})
    async with opened(open_store) as first:
        events = [event(number) for number in range(20)]
        await first.record(events, counts=[counts, NO_COUNTS] * 10)
        await first.record(events, counts=[counts] * 20)  # all of them are known
        await first.counters.add(Addition("r", 1, [Counts(DAY, {"c|0000000a.3|#shown": 7.0})], {}))
        await first.counters.add(Addition("r", 2, [counts._replace(day="2026-01-01")], {}))
        await first.counters.delete(["2026-01-01"])
    for _ in range(2):
        async with opened(open_store) as again:
            [found, codes, *deleted] = await again.counters.read(
                [DAY, codes_of_day(DAY), "2026-01-01", codes_of_day("2026-01-01")]
            )
            assert found == {"v|0000000a|click": 10, "v|0000000a|click|EUR": 2.5}
            assert codes == {"c|0000000a.3|click": 10, "c|0000000a.3|#shown": 7}
            assert deleted == [{}, {}]


async def test_only_the_owner_may_read_the_key_of_the_embedded_store(tmp_path: Path) -> None:
    async with opened(lambda: EmbeddedStore(tmp_path)) as store:
        await store.counters.key(b"k" * 32)
        path = tmp_path / STORED_NAME
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_bytes(b"short")
        with pytest.raises(StoreCorrupt, match="5 bytes instead of 32"):
            await store.counters.key(b"k" * 32)


async def test_replicas_agree_on_one_key(redis_server: RedisServer, prefix: str) -> None:
    stores = [RedisStore(redis_server.url, prefix=prefix, timeout_ms=PATIENT_MS, write_timeout_s=10) for _ in range(5)]
    keys = await asyncio.gather(*(each.counters.key(bytes([n]) * 32) for n, each in enumerate(stores)))
    assert len(set(keys)) == 1
    for store in stores:
        await store.close()


async def test_counters_under_a_key_of_another_type_begin_anew(redis_server: RedisServer, prefix: str) -> None:
    with Redis.from_url(redis_server.url) as raw:
        for day in (DAY, "2026-01-06"):
            raw.set(f"{prefix}:counters:{day}", "text")
    store = RedisStore(redis_server.url, prefix=prefix, timeout_ms=PATIENT_MS, write_timeout_s=10)
    await store.record([event(1)], counts=[clicks()])
    await store.counters.add(Addition("r", 1, [clicks(day="2026-01-06")], {}))
    assert [each["v|0000000a|click"] for each in await store.counters.read([DAY, "2026-01-06"])] == [1, 1]
    await store.close()
