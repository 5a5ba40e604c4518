"""Redis trouble: each kind, on a real server, seen through the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from redis import Redis

from model_store.errors import ConfigError, StoreCorrupt, StoreUnavailable
from model_store.events.event import Event
from model_store.replication import redis_schema
from model_store.replication.snapshots import CHUNK_BYTES
from service.store.change_stream import Position, RawChange, Snapshot
from service.store.circuit_breaker import CircuitBreaker, CircuitOpen
from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer
from tests.support.store_reading import newest_event

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEYS = redis_schema.Keys()
PATIENT_MS = 10_000
Open = Callable[..., RedisStore]


@pytest.fixture
async def open_store(own_redis: RedisServer) -> AsyncIterator[Open]:
    opened: list[RedisStore] = []

    def build(url: str = own_redis.url, timeout_ms: float = PATIENT_MS, pause_s: float = 0.05) -> RedisStore:
        opened.append(RedisStore(url, timeout_ms=timeout_ms, background_timeout_s=10, breaker_pause_s=pause_s))
        return opened[-1]

    async with asyncio.timeout(120):
        yield build
    for store in opened:
        await store.close()


@pytest.fixture
def raw(own_redis: RedisServer) -> Iterator[Redis]:
    with own_redis.client() as client:
        yield client


def event(number: int) -> Event:
    return Event(event_id=f"e{number}", user_id="u", item_id=f"i{number}", timestamp=number)


def snapshot(revision: int, size: int = 10) -> Snapshot:
    return Snapshot(Position(revision), "a" * 32, "b" * 64, {"a": np.full(size, revision, dtype=np.int32)})


async def save(store: RedisStore, saved: Snapshot) -> Snapshot | None:
    async def make() -> Snapshot:
        return saved

    return await store.catalogue.save_snapshot("v", make)


def change(number: int) -> RawChange:
    return RawChange(f"i{number}", "put", b"{}")


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
    store = open_store(pause_s=3600)
    own_redis.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.ping()
    own_redis.start()
    with pytest.raises(StoreUnavailable, match="not asked for now"):
        await store.ping()


async def test_frozen_server_is_unavailable_instead_of_hanging(open_store: Open, own_redis: RedisServer) -> None:
    store = open_store(timeout_ms=300)
    await until_back(store)
    with own_redis.frozen():
        for call in (store.history("u"), store.record([event(1)]), store.entries("u")):
            with pytest.raises(StoreUnavailable):
                await call
    await until_back(store)
    assert (await open_store().record([event(2)])).accepted == 1  # a patient one: the disk may be slow


async def test_paused_writes_are_unavailable_while_reads_go_on(open_store: Open, raw: Redis) -> None:
    store = open_store(timeout_ms=1000)
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


async def test_a_lock_is_renewed_while_its_holder_works(own_redis: RedisServer, raw: Redis) -> None:
    store = RedisStore(own_redis.url, timeout_ms=PATIENT_MS, lock_ttl_s=6)

    async def make() -> Snapshot:
        left = raw.pttl(KEYS.lock("v"))
        while (now := raw.pttl(KEYS.lock("v"))) <= left:
            left = now
            await asyncio.sleep(0.05)
        return snapshot(1)

    async with asyncio.timeout(60):
        assert await store.catalogue.save_snapshot("v", make) is not None
    assert raw.get(KEYS.lock("v")) is None
    await store.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "redis://:secret@host:port", "redis://:secret@[host"])
def test_url_must_be_one(url: str) -> None:
    with pytest.raises(ConfigError, match="ETEGREC_REDIS_URL") as refused:
        RedisStore(url)
    assert "secret" not in str(refused.value) + refused.value.hint


def test_a_failure_while_others_are_answered_does_not_open_the_circuit() -> None:
    breaker = CircuitBreaker((OSError,), threshold=1)

    def answered_meanwhile() -> None:
        with breaker.watch():
            pass
        raise TimeoutError

    with pytest.raises(TimeoutError), breaker.watch():
        answered_meanwhile()
    assert not breaker.is_open
    with pytest.raises(TimeoutError), breaker.watch():
        raise TimeoutError
    assert breaker.is_open


async def test_breaker_lets_one_probe_through_and_ignores_cancelled_calls() -> None:
    now = 0.0
    breaker = CircuitBreaker((OSError,), threshold=2, pause_s=10, clock=lambda: now)

    def call(outcome: type[BaseException] | None) -> None:
        with breaker.watch():
            if outcome is not None:
                raise outcome

    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            call(ConnectionResetError)
    with pytest.raises(CircuitOpen):
        call(None)
    now = 11.0
    with pytest.raises(asyncio.CancelledError):
        call(asyncio.CancelledError)
    was_open = breaker.is_open
    assert was_open
    with pytest.raises(CircuitOpen):
        call(None)  # the cancelled call was this pause's probe
    now = 22.0
    call(None)
    assert not breaker.is_open
    with pytest.raises(ConnectionResetError):
        call(ConnectionResetError)
    with pytest.raises(KeyError):
        call(KeyError)  # an answer, if an unwelcome one
    with pytest.raises(ConnectionResetError):
        call(ConnectionResetError)
    assert not breaker.is_open


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
